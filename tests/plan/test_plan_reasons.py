"""Reasons are values that read as a person would say them."""

import pytest

from dbrun.plan.reasons import (
    After,
    Behind,
    Change,
    Changed,
    Damaged,
    Lacking,
    New,
    NotChosen,
    Resumes,
    Simply,
    Unpinned,
)

CHANGE = Change("train.steps", "300", "400")


@pytest.mark.parametrize(("reason", "text"), [
    (Simply.CACHED, "cached"),
    (Simply.NO_EARLIER, "no earlier result"),
    (After(("load", "adapt")), "after load, adapt"),
    (Behind(("load",)), "needs load"),
    (Lacking("no CUDA device is here", "take another"), "no CUDA device is here: take another"),
    (Damaged(("a is missing",)), "its result is damaged: a is missing"),
    (Damaged(("a is missing", "b is missing")), "its result is damaged: a is missing and 1 more"),
    (Unpinned("main"), "the commit of revision main is to be asked from the Hub"),
    (NotChosen(Simply.NO_EARLIER), "not cached (no earlier result), and the command leaves it out"),
    (Changed((CHANGE,)), "train.steps 300 → 400"),
    (Changed((CHANGE,) * 5), "train.steps 300 → 400, train.steps 300 → 400, train.steps 300 → 400 and 2 more"),
    (Changed((Change("a", None, "1"), Change("b", "1", None), Change("picture added 1", None, None))),
     "a unset → 1, b 1 → unset, picture added 1"),
    (Resumes(Changed((CHANGE,)), "step 300"), "from step 300 (train.steps 300 → 400)"),
    (Changed((CHANGE,) * 4), ", ".join(["train.steps 300 → 400"] * 4)),
    (New("dog", Changed((CHANGE,))), "new; nearest is run dog: train.steps 300 → 400"),
    (New(None, Changed((CHANGE,))), "new; nearest is an earlier result: train.steps 300 → 400"),
    (Resumes(Simply.NO_EARLIER, "step 60"), "from step 60 (unfinished)"),
])
def test_reasons_read_well(reason, text):
    assert str(reason) == text
