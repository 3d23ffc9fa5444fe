"""Do plans, provenance and durations read well?"""

import pytest

from dbrun.errors import UsageError
from dbrun.plan.planner import Plan, StagePlan, Status
from dbrun.plan.reasons import After, Simply
from dbrun.ui.plan import table
from dbrun.ui.provenance import outline
from dbrun.ui.terminal import clock, complain


def test_a_plan_is_aligned_and_long_reasons_are_wrapped() -> None:
    plan = Plan((StagePlan("load", Status.HIT, Simply.CACHED),
                 StagePlan("generate-priors", Status.RUN, After(tuple(f"stage-number-{i}" for i in range(12))))))
    rows = table(plan).splitlines()
    assert rows[0].startswith("load             HIT      ") and rows[1].startswith("generate-priors  RUN      after")
    assert len(rows) > 2 and all(row.startswith(" " * 26) for row in rows[2:])
    assert max(map(len, rows)) <= 100


def test_provenance_is_indented_and_digests_are_short() -> None:
    text = outline({"recipe": {"seed": 0, "class": None}, "pictures": [{"digest": "a" * 64, "prompt": "p"}],
                    "export": ["peft", "diffusers"]})
    assert text.splitlines() == ["recipe:", "  seed: 0", "  class: -", "pictures:", "  - digest: aaaaaaaaaaaa",
                                 "    prompt: p", "export: peft, diffusers"]


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (59.6, "1 min 00 s"),
                                               (125, "2 min 05 s"), (7500, "2 h 05 min")])
def test_a_duration_reads_as_people_say_it(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_an_error_is_followed_by_its_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    complain(UsageError("found this", fix="do that"))
    assert capsys.readouterr().err == "error: found this\n  → do that\n"
