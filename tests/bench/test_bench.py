"""The measurements run, each as small as it can be."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from bench import gpu, growth, host_work, loops, side_by_side, stages
from bench.rounds import ROOT, cpu_seconds, in_turns, print_table

from dbrun.store.atomic import disk_usage
from dbrun.store.runs import list_runs
from dbrun.store.store import Store
from dbrun.store.usage import disk_usage_by_run

CORES = sorted(os.sched_getaffinity(0))


def test_commands_take_turns_and_become_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []

    def measured(name: str, number: float) -> dict[str, float]:
        order.append(name)
        return {"work, s": number * len(order), f"{name}, s": 2.0}

    found = in_turns({"before": lambda: measured("before", 4.0), "this": lambda: measured("this", 1.0)}, 3)
    assert order == ["before", "this"] * 3
    print_table(found)
    # the middle rounds: 4 x 3 and 1 x 4; of what one command alone has there is no ratio
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [["before", "this"], ["work,", "s", "12.00", "4.00", "0.33x"], ["before,", "s", "2.00"],
                    ["this,", "s", "2.00"]]


@pytest.mark.skipif(len(CORES) < 2, reason="needs a core for each command")
def test_commands_run_at_the_same_time_on_cores_that_they_swap() -> None:
    both = Barrier(2, timeout=60)
    allowed: list[tuple[str, set[int]]] = []

    def measured(name: str) -> dict[str, float]:
        both.wait()
        words = (sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))")
        found = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        allowed.append((name, {int(core) for core in found.split()}))
        return {"work, s": 1.0}

    found = in_turns({"before": lambda: measured("before"), "this": lambda: measured("this")}, 2, together=True)
    assert found == {"before": [{"work, s": 1.0}] * 2, "this": [{"work, s": 1.0}] * 2}
    one, other = CORES[:2]
    assert sorted(allowed[:2]) == [("before", {one}), ("this", {other})]
    assert sorted(allowed[2:]) == [("before", {other}), ("this", {one})]
    assert sorted(os.sched_getaffinity(0)) == CORES, "this process may still use all of them"


def test_more_commands_than_cores_cannot_run_at_the_same_time() -> None:
    many = {str(number): dict[str, float] for number in range(len(CORES) + 1)}
    with pytest.raises(ValueError, match=f"want as many cores, and there are {len(CORES)}"):
        in_turns(many, 1, together=True)


def test_the_seconds_of_a_command_are_its_own_whatever_runs_beside_it(tmp_path: Path) -> None:
    idle = (sys.executable, "-c", "import time; time.sleep(1)")
    busy = (sys.executable, "-c", "import time\nwhile time.process_time() < 1: pass")
    with ThreadPoolExecutor(2) as pool:
        seconds = [pool.submit(cpu_seconds, words, ROOT, tmp_path) for words in (idle, busy)]
    assert seconds[0].result() < 0.5 < 1 <= seconds[1].result()
    with pytest.raises(SystemExit, match="said on its way out"):
        cpu_seconds((sys.executable, "-c", "raise SystemExit('said on its way out')"), ROOT, tmp_path)


def test_a_step_over_many_tensors_costs_the_host_little_more_than_one_over_few() -> None:
    """Without one buffer for them, fifty times as many tensors took some thirty times as long."""
    few, many = (host_work.host_milliseconds(tensors, 12) for tensors in (20, 1000))
    assert 0 < many < 10 * few


def test_a_step_waits_for_its_numbers_once() -> None:
    waits = host_work.count_waits(5)
    assert waits.reads == 1
    assert waits.copies == [] and waits.queued


def test_runs_on_record_are_as_the_store_writes_them(tmp_path: Path) -> None:
    store = Store(tmp_path / ".dbrun")
    growth.write_runs(store, 3)
    runs = list_runs(store)
    assert [run.state for run in runs] == ["done"] * 3
    results = len(growth.SHARED) + growth.CLASS_IMAGES + len(growth.OWN)
    a_result = disk_usage(next((store.root / "objects").glob("*/*")))
    assert list(disk_usage_by_run(store, runs)) == [results * a_result] * 3


def test_the_seconds_of_stages_are_read_from_the_events(tmp_path: Path) -> None:
    run = tmp_path / ".dbrun" / "runs" / "20261130-000000.000000-dog"
    run.mkdir(parents=True)
    events = [{"event": "run_started"}, {"event": "stage_finished", "stage": "train", "seconds": 3}]
    (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    assert list(stages.stage_seconds(tmp_path)) == [("train", 3.0)]


def test_both_programs_are_asked_for_the_same_work(tmp_path: Path) -> None:
    work = side_by_side.Work(steps=30, rows=4, classes=8)
    recipe = Path(side_by_side.dbrun_words(Path("base"), tmp_path, work)[-1]).read_text()
    words = " ".join(side_by_side.peer_words(Path("script.py"), Path("base"), tmp_path, work))
    for ours, theirs in (("steps: 30", "--max_train_steps 30"), ("batch_size: 4", "--train_batch_size 4"),
                         ("path: base", "--pretrained_model_name_or_path base"),
                         ("count: 8", "--num_class_images 8"), ("learning_rate: 1.0e-4", "--learning_rate 1.0e-4")):
        assert ours in recipe and theirs in words
    alone = work._replace(classes=0)
    recipe = Path(side_by_side.dbrun_words(Path("base"), tmp_path, alone)[-1]).read_text()
    assert "prior" not in recipe and "class_prompt: null" in recipe
    assert "class" not in " ".join(side_by_side.peer_words(Path("script.py"), Path("base"), tmp_path, alone))


@pytest.mark.slow
def test_both_loops_do_the_same_arithmetic() -> None:
    operations = [loops.count_operations(loop(2, 2)) for loop in (loops.shortest_loop, loops.dbrun_loop)]
    assert operations[0] == operations[1] > 0


@pytest.mark.slow
def test_the_gpu_script_measures_tiny_bases(tmp_path: Path) -> None:
    bench = gpu.Bench(tiny=True, folder=tmp_path)
    for loop in gpu.LOOPS:
        numbers = gpu.train_case(bench, gpu.Case("sd", 32, 2, loop))
        assert numbers["ms a step"] > 0 and numbers["% of matmul rate"] > 0
    difference = gpu.parity(bench)["relative difference, CPU and device"]
    assert difference == 0 if bench.device.type == "cpu" else difference < 1e-3
