"""Do plans, provenance and durations read well?"""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from golden import Golden

from dbrun.errors import UsageError
from dbrun.plan.diff_runs import RunDiff
from dbrun.plan.estimate import Estimate
from dbrun.plan.planner import Plan, StagePlan, Status
from dbrun.plan.reasons import SimpleReason, WaitsFor
from dbrun.store.gc import GcReport
from dbrun.store.runs import Run
from dbrun.store.usage import DiskUsage
from dbrun.store.verify import StoreFinding, VerifyReport
from dbrun.ui.history import comparison
from dbrun.ui.plan import stage_table, total_text
from dbrun.ui.provenance import outline
from dbrun.ui.store import gc_lines, verify_lines
from dbrun.ui.table import align_or_stack, align_rows
from dbrun.ui.terminal import format_duration, pluralize, print_error


def test_a_plan_is_aligned_and_on_a_screen_long_reasons_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan((StagePlan("load", Status.HIT, SimpleReason.CACHED),
                 StagePlan("generate-priors", Status.RUN, WaitsFor(tuple(f"stage-number-{i}" for i in range(12))))))
    assert len(stage_table(plan).splitlines()) == 2, "a row for each stage, for whoever looks for words in it"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for name, value in (("COLUMNS", "100"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    rows = stage_table(plan).splitlines()
    assert rows[0].startswith("load             HIT      ") and rows[1].startswith("generate-priors  RUN      after")
    assert len(rows) == 3 and rows[1].endswith("stage-number-3,…") and len(rows[1]) <= 100
    assert rows[2] == "  `dbrun explain STAGE` has the whole reason"
    assert max(map(len, rows)) <= 100


def test_a_sum_of_what_is_not_all_known_is_the_least(golden: Golden) -> None:
    first, second = Estimate(1.0, 7, 100), Estimate(2.0, 7, None)
    golden("all known", total_text([("a", first), ("b", first)], []))
    golden("no estimate of b", total_text([("a", first)], ["b"]))
    golden("no disk of b", total_text([("a", first), ("b", second)], []))


def test_provenance_is_indented_and_digests_are_short(golden: Golden) -> None:
    golden("outline", outline({"recipe": {"seed": 0, "class": None}, "export": ["peft", "diffusers"],
                               "pictures": [{"digest": "a" * 64, "prompt": "p"}]}))


def test_provenance_is_folded_on_a_screen_and_whole_elsewhere(monkeypatch: pytest.MonkeyPatch, golden: Golden) -> None:
    facts = {"format_version": 1, "recipe": {"class_prompt": ["a photo of a dog", "a photo of a dog in the snow"]},
             "text": "one\ntwo three four five six seven eight nine"}
    assert len(outline(facts).splitlines()) == 5
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for name, value in (("COLUMNS", "40"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    golden("40 columns", outline(facts))


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (59.6, "1 min 00 s"),
                                               (125, "2 min 05 s"), (7500, "2 h 05 min")])
def test_a_duration_reads_as_people_say_it(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_an_error_is_followed_by_its_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(UsageError("found this", fix="do that"))
    assert capsys.readouterr().err == "error: found this\n  → do that\n"


def test_what_wants_more_room_than_a_screen_leaves_stands_below_its_row(monkeypatch: pytest.MonkeyPatch,
                                                                        golden: Golden) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for name, value in (("COLUMNS", "40"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    name = "a" * 28
    rows = [[name, "all cached"], [name, "the loss is nan at step 2 of 30, once more"]]
    golden("40 columns", align_rows(rows, head=["run", "what"]))


def test_a_list_has_a_line_for_each_thing_and_cuts_no_path(monkeypatch: pytest.MonkeyPatch, golden: Golden) -> None:
    rows = [["a", "the loss is nan at step 2 of 30, once more\n  → take a lower rate"], ["b", f"outputs/{'c' * 40}"]]
    golden("no screen", align_rows(rows, short=True))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for name, value in (("COLUMNS", "30"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    golden("30 columns", align_rows(rows, short=True))
    golden("30 columns, a long name", align_rows([["r" * 28, rows[0][1]]], short=True))


def test_a_name_too_long_for_the_screen_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch, golden: Golden) -> None:
    rows, head = [["r" * 40, "2 min", "done"], ["s", "now", "all cached"]], ["run", "ago", "what"]
    whole = align_or_stack(rows, head=head)
    assert whole == align_rows(rows, head=head)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "50")
    golden("50 columns", align_or_stack(rows, head=head))
    monkeypatch.setenv("COLUMNS", "80")
    assert align_or_stack(rows, head=head) == whole


def test_only_values_too_long_for_half_of_the_screen_stand_below_their_key(monkeypatch: pytest.MonkeyPatch,
                                                                           tmp_path: Path, golden: Golden) -> None:
    long, other = (f"sks_dog-train.steps-{n}-adapt.denoiser.rank-4" for n in (4, 5))
    found = RunDiff((("name", long, other), ("train.steps", "4", "5")), (), (), ())
    a, b = (Run(tmp_path / name, name, False, False, None, None) for name in "ab")
    assert re.search(rf"^name +{long}  {other}$", comparison(found, a, b), re.M)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    golden("80 columns", comparison(found, a, b))


@pytest.mark.parametrize(("number", "told"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs"), (10000, "10,000 runs")])
def test_one_thing_is_not_several(number: int, told: str) -> None:
    assert pluralize(number, "run") == told


def test_what_is_damaged_is_told_with_short_digests_and_where_it_is(golden: Golden) -> None:
    place = f"objects/ab/{'ab' * 32}"
    damage = StoreFinding("artifact", place, "it holds other bytes", f"quarantine/{'ab' * 32}.x")
    golden("in quarantine", verify_lines(VerifyReport({"trace": 2, "artifact": 1}, (damage,))))
    golden("in a read-only store", verify_lines(VerifyReport({"artifact": 1}, (replace(damage, aside=None),))))
    golden("no damage", verify_lines(VerifyReport({"run": 1}, ())))


@pytest.mark.parametrize(("gone", "kept"), [({}, 1), ({}, 0), ({"runs": DiskUsage(12, 2048)}, 2)])
def test_what_a_gc_took_has_a_head_and_a_sum(golden: Golden, gone: dict[str, DiskUsage], kept: int) -> None:
    golden(f"{len(gone)} parts freed, {kept} runs kept", gc_lines(GcReport((None,) * kept, gone), dry_run=False))
