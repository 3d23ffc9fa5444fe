"""Reasons are values that read as a person would say them."""

import pytest

from dbrun.plan.reasons import (
    Change,
    DamagedResult,
    KeyChanged,
    MissingRequirement,
    NewRunName,
    NotSelected,
    Resumes,
    SimpleReason,
    UnpinnedBase,
    UpstreamBlocked,
    WaitsFor,
)

CHANGE = Change("train.steps", "300", "400")


@pytest.mark.parametrize(("reason", "text"), [
    (SimpleReason.CACHED, "cached"),
    (SimpleReason.REMOTE, "in the remote store"),
    (SimpleReason.NO_EARLIER_RESULT, "no earlier result"),
    (WaitsFor(("load", "adapt")), "after load, adapt"),
    (UpstreamBlocked(("load",)), "needs load"),
    (MissingRequirement("no CUDA device is here", "take another"), "no CUDA device is here: take another"),
    (DamagedResult(("a is missing",)), "its result is damaged: a is missing"),
    (DamagedResult(("a is missing", "b is missing")), "its result is damaged: a is missing and 1 more"),
    (UnpinnedBase("main"), "the Hub must be asked for the commit of revision main"),
    (NotSelected(SimpleReason.NO_EARLIER_RESULT), "not cached (no earlier result), and this command does not run it"),
    (KeyChanged((CHANGE,)), "train.steps 300 → 400"),
    (KeyChanged((CHANGE,) * 5), "train.steps 300 → 400, train.steps 300 → 400, train.steps 300 → 400 and 2 more"),
    (KeyChanged((Change("a", None, "1"), Change("b", "1", None), Change("picture added 1", None, None))),
     "a unset → 1, b 1 → unset, picture added 1"),
    (Resumes(KeyChanged((CHANGE,)), "step 300"), "from step 300 (train.steps 300 → 400)"),
    (KeyChanged((CHANGE,) * 4), ", ".join(["train.steps 300 → 400"] * 4)),
    (NewRunName("dog", KeyChanged((CHANGE,))), "new; nearest is run dog: train.steps 300 → 400"),
    (NewRunName(None, KeyChanged((CHANGE,))), "new; nearest is an earlier result: train.steps 300 → 400"),
    (Resumes(SimpleReason.NO_EARLIER_RESULT, "step 60"), "from step 60 (unfinished)"),
])
def test_reasons_read_well(reason, text):
    assert str(reason) == text
