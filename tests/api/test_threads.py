"""Eight threads in one process: every result is right, and nothing is left behind."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from projects import lay_out
from second_base import as_second

import dbrun
from dbrun.events import Event, Progress
from dbrun.run.turns import take_turn
from dbrun.store.atomic import umask
from dbrun.store.locks import is_unlocked
from dbrun.store.runs import list_runs
from dbrun.store.store import Store

FEW = ("train.steps=3", "samples.prompts=[a photo of sks dog]", "export=[diffusers]")


def weights(run: dbrun.Run) -> bytes:
    return next(file for file in run.files if file.name == "pytorch_lora_weights.safetensors").read_bytes()


@pytest.mark.slow
def test_eight_threads_over_two_bases(tmp_path: Path) -> None:
    home = lay_out(tmp_path).folder
    as_second(Path(shutil.copytree(home / "base", home / "second")))
    (home / "broken").mkdir()
    shutil.copy(home / "pictures" / "0.png", home / "broken" / "whole.png")
    (home / "broken" / "cut.png").write_bytes((home / "pictures" / "1.png").read_bytes()[:200])
    before = umask()

    def go(*overrides: str, store: str = "store", cancelled: bool = False) -> dbrun.Run | dbrun.DbrunError:
        cancel = threading.Event()

        def watch(event: Event) -> None:
            if cancelled and isinstance(event, Progress) and event.stage == "train":
                cancel.set()

        try:
            return dbrun.run(home / "tiny.yaml", *FEW, *overrides, folder=home, store=home / store, cancel=cancel,
                             outputs=home / f"outputs-{store}", on_event=watch)
        except dbrun.DbrunError as error:
            return error

    rates = [f"train.learning_rate={number}e-3" for number in range(1, 7)]
    asked = [*(((f"name=run{number}", rate), False) for number, rate in enumerate(rates[:4])),
             *(((f"name=stopped{number}", rate), True) for number, rate in enumerate(rates[4:])),
             (("name=cut", "subject.images=broken"), False), (("name=other", "base.path=second"), False)]
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(go, *words, cancelled=cancelled) for words, cancelled in asked]
    done = [one.result() for one in waiting]

    assert [type(one).__name__ for one in done] == ["Run"] * 4 + ["Cancelled"] * 2 + ["InvalidRecipe", "Run"], done
    assert "cut.png" in str(done[6])
    for number in (0, 3, 7):
        alone = go(*asked[number][0], store="alone")
        assert isinstance(alone, dbrun.Run) and isinstance(done[number], dbrun.Run)
        assert weights(alone) == weights(done[number])
    resumed = go(*asked[4][0])
    assert isinstance(resumed, dbrun.Run) and (resumed.ran, resumed.reused) == (2, 4)
    # tqdm, with which libraries show progress, keeps a thread of its own
    left = [thread for thread in threading.enumerate() if not thread.daemon]
    assert umask() == before and left == [threading.main_thread()]
    store = Store(home / "store")
    assert not any(store.scratch.iterdir()) and not any(run.is_live for run in list_runs(store))
    assert all(is_unlocked(path) for path in store.lock_files())
    assert sorted(path.name for path in (home / "outputs-store").iterdir()) == \
        ["other", "run0", "run1", "run2", "run3", "stopped0"]
    dbrun.release()


def test_a_turn_is_waited_for_until_the_run_is_cancelled() -> None:
    told: list[str] = []
    with take_turn():
        thread = threading.Thread(target=_wait, args=(told,))
        thread.start()
        thread.join(10)
    assert told == ["waiting", "Interrupted"]
    with take_turn(lambda: told.append("waiting again")):
        assert told == ["waiting", "Interrupted"]


def _wait(told: list[str]) -> None:
    from dbrun.errors import Interrupted

    try:
        with take_turn(lambda: told.append("waiting"), lambda: 2):
            told.append("had a turn")
    except Interrupted as error:
        told.append(type(error).__name__)
