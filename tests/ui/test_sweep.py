"""Does the plan of a sweep show what its runs take, once, and what is to be known of which of them?"""

from __future__ import annotations

from dbrun.errors import StageFailed
from dbrun.events import Note
from dbrun.expectations import ScoreSummary
from dbrun.plan.estimate import Estimate
from dbrun.plan.planner import StagePlan, Status
from dbrun.plan.reasons import SimpleReason
from dbrun.plan.sweep_plan import SharedWork
from dbrun.ui.sweep import combine_stops, note_lines, rank_runs, results_table, work_table

RUNS = [(("train.steps", steps), ("seed", seed)) for steps in ("30", "60") for seed in ("1", "2")]


def piece(name: str, *runs: int, status: Status = Status.RUN) -> SharedWork:
    return SharedWork(StagePlan(name, status,
                                SimpleReason.CACHED if status is Status.HIT else SimpleReason.NO_EARLIER_RESULT), runs)


def test_shared_work_is_estimated_once_and_what_is_not_known_is_told_by_its_values() -> None:
    work = [piece("load", 0, 1, 2, 3, status=Status.HIT), piece("preprocess", 0, 1, 2, 3), piece("train", 0),
            piece("train", 1, 3), piece("train", 2), piece("export", 0, 1, 2, 3)]
    known = [None, Estimate(10.0, 7, 100), Estimate(20.0, 9, 1), None, Estimate(30.0, 8, None), None]
    rows = work_table(work, RUNS, known).splitlines()
    assert " ".join(rows[1].split()) == "preprocess RUN ~10 s once for 4 runs no earlier result"
    assert rows[-1] == ("at least about 1 min 00 s, up to about 9 B of memory, at least 101 B of disk for results, "
                        "going by earlier runs; no estimate for train (seed=2), export, the disk of train")
    assert rows[-2] == "4 runs: 5 stages to run instead of 12"


def test_without_earlier_work_there_is_no_column_for_it() -> None:
    rows = work_table([piece("load", 0, 1, 2, 3)], RUNS, [None]).splitlines()
    assert " ".join(rows[0].split()) == "load RUN once for 4 runs no earlier result" and len(rows) == 2


def test_a_note_stands_once_and_says_which_runs_it_is_about() -> None:
    notes = {Note("p", "of all"): [0, 1, 2, 3], Note("p", "of some"): [0, 1], Note("p", "of one"): [3],
             Note("p", "of others"): [0, 3]}
    assert note_lines(notes, RUNS) == ["p: of all", "p: of some (steps=30)", "p: of one (steps=60 seed=2)",
                                       "p: of others (steps=30 seed=1; steps=60 seed=2)"]
    many = [(("seed", str(number)),) for number in range(9)]
    assert note_lines({Note("p", "x"): list(range(8))}, many) == ["p: x (seed=0; seed=1; seed=2; 5 more)"]


def test_what_stops_runs_is_told_once_with_those_that_it_stops_and_its_own_way_out() -> None:
    one, other = StageFailed("no GPU", fix="write a"), StageFailed("no package", fix="write b")
    error = combine_stops([(one, [0, 1]), (other, [0, 1, 2, 3])], RUNS)
    assert (type(error), str(error)) == (
        StageFailed, "no GPU (steps=30)\n  → write a\nno package (all 4 runs)\n  → write b")


def test_what_cannot_run_is_no_work() -> None:
    work = [piece("load", 0, 1), piece("train", 0, status=Status.BLOCKED), piece("train", 1, status=Status.BLOCKED)]
    assert work_table(work, RUNS[:2], [Estimate(1.0, 7, 1), None, None]).splitlines()[-2:] == [
        "2 runs: 1 stage to run instead of 2; 2 stages blocked",
        "about 1.0 s, up to about 7 B of memory, 1 B of disk for results, going by earlier runs"]
    assert work_table(work[1:], RUNS[:2], [None, None]).splitlines()[-1] == "2 runs: 2 stages blocked"


def test_runs_that_the_spread_over_seeds_cannot_tell_apart_are_a_tie() -> None:
    def run(mean: float, spread: float | None, higher: bool = True) -> dict[str, ScoreSummary]:
        return {"prompt": ScoreSummary(0.5, 0.0, True), "subject": ScoreSummary(mean, spread, higher)}

    assert rank_runs([run(0.5, 0.01), run(0.62, 0.02), {}, run(0.63, 0.01)]) == ["3", "1=", "", "1="]
    assert rank_runs([run(0.5, None), run(0.4, None)]) == ["1", "2"]
    assert rank_runs([run(0.5, None, higher=False), run(0.4, None, higher=False)]) == ["2", "1"]


def test_the_table_of_results_is_ranked_where_runs_have_scores() -> None:
    def result(rate: str, mean: float | None) -> dict[str, object]:
        scores = {} if mean is None else {"subject": {"mean": mean, "spread": 0.01, "higher_is_better": True}}
        return {"values": {"train.learning_rate": rate}, "failed": None, "ran": 1, "cached": 2, "seconds": 3.0,
                "loss": 0.25, "outputs": "outputs/x", "scores": scores}

    rows = results_table([result("1e-4", 0.5), result("2e-4", 0.7), result("3e-4", None)]).splitlines()
    assert [row.split()[:2] for row in rows] == [["rank", "learning_rate"], ["1", "2e-4"], ["2", "1e-4"],
                                                 ["3e-4", "0.25"]]
    assert "0.700 ± 0.010" in rows[1]
    assert "rank" not in results_table([result("1e-4", None)])
