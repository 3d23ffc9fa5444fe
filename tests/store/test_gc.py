"""A gc takes what nobody needs, and never what a live, pinned or recent run does."""

import json
import os
import shutil
import signal
import time
import traceback

import pytest
from stub_world import go, make_home

from dbrun.errors import StoreCorrupt, UsageError
from dbrun.plan.selection import Selection
from dbrun.store.gc import collect_garbage
from dbrun.store.runs import ROOTS_FILE, list_runs, pin
from dbrun.store.store import Store
from dbrun.store.verify import verify_store

ROUNDS = [6, pytest.param(100, marks=pytest.mark.slow)]


@pytest.fixture
def store(home):
    return Store(home / "store")


def weights(home, name="stub"):
    return {p.relative_to(home).as_posix(): p.read_text() for p in (home / "outputs" / name).rglob("weights")}


def everything(store):
    return {p.relative_to(store.root) for p in store.root.rglob("*") if "locks" not in p.parts}


def test_what_the_last_runs_of_each_name_made_stays(home, store):
    for rate in ("0.1", "0.2", "0.3"):
        go(home, f"train.learning_rate={rate}")
    go(home, "name=other", "adapt.denoiser.rank=8")
    found = collect_garbage(store, 2, dry_run=False)
    assert sorted(run.name for run in found.remaining_runs) == ["other", "stub", "stub"]
    assert found.freed["results"].count == 2 and found.freed["runs"].count == 1 and found.freed_bytes > 0
    for changes in (["train.learning_rate=0.2"], ["train.learning_rate=0.3"], ["name=other", "adapt.denoiser.rank=8"]):
        assert go(home, *changes).ran == ()
    assert go(home, "train.learning_rate=0.1").ran == ("train", "export")
    assert verify_store(store).findings == ()


def test_what_can_be_lengthened_and_added_to_stays_with_its_run(home, store, monkeypatch):
    log = home / "log"
    monkeypatch.setenv("STUB_RUNS", str(log))
    go(home)
    collect_garbage(store, 1, dry_run=False)
    log.unlink()
    assert go(home, "train.steps=8", "prior.count=5").ran == ("generate-priors", "preprocess", "train", "export")
    assert log.read_text().count("  prior") == 1 and log.read_text().count("  picture") == 0
    go(home, "train.steps=10")
    collect_garbage(store, 1, dry_run=False)
    log.unlink()
    go(home, "train.steps=11")
    assert log.read_text().count("  step") == 1


def test_a_dry_run_says_the_same_and_takes_nothing(home, store):
    go(home)
    go(home, "train.steps=8")
    before = everything(store)
    said = collect_garbage(store, 1, dry_run=True)
    assert everything(store) == before
    assert collect_garbage(store, 1, dry_run=False) == said
    assert collect_garbage(store, 1, dry_run=False).freed == {}


def test_nothing_is_left_where_nothing_is_kept(home, store):
    go(home)
    go(home, "train.steps=8")
    collect_garbage(store, 0, dry_run=False)
    for part in ("objects", "traces", "work", "runs", "tmp", "quarantine"):
        assert not [p for p in (store.root / part).rglob("*") if p.is_file()], part
    assert go(home).ran and verify_store(store).findings == ()


def test_locks_that_nobody_holds_go_once_they_are_old(home, store):
    go(home)
    files = store.lock_files()
    assert len(files) == 7 and collect_garbage(store, 1, dry_run=False).freed == {}
    for path in files:
        os.utime(path, (0, 0))
    with store.lock(files[0].stem, "test", print, lambda: 0):
        os.utime(files[0], (0, 0))
        assert collect_garbage(store, 1, dry_run=False).freed["locks"].count == 6
    assert store.lock_files() == files[:1] and go(home).ran == ()


def test_a_pinned_run_keeps_what_it_made_until_it_is_let_go(home, store):
    go(home, "train.steps=8")
    pinned = pin(store, "stub")
    go(home)
    assert pinned.id in {run.id for run in collect_garbage(store, 0, dry_run=False).remaining_runs}
    assert go(home, "train.steps=8").ran == ()
    with pytest.raises(UsageError, match="no pinned run"):
        pin(store, "other", off=True)
    assert pin(store, "stub", off=True).id == pinned.id
    collect_garbage(store, 0, dry_run=False)
    assert len(go(home, "train.steps=8").ran) == 6


def test_a_killed_run_is_not_alive_and_its_work_stays_while_it_is_the_last(home, store, monkeypatch):
    log = home / "log"
    monkeypatch.setenv("STUB_RUNS", str(log))
    child = os.fork()
    if not child:
        go(home, emit=lambda event: getattr(event, "done", 0) == 4 and os.kill(os.getpid(), signal.SIGKILL))
        os._exit(0)
    os.waitpid(child, 0)
    run, = list_runs(store)
    assert run.state == "killed" and (run.folder / "live").exists()
    collect_garbage(store, 1, dry_run=False)
    log.unlink()
    go(home)
    assert log.read_text().count("  step") == 4 and log.read_text().count("  prior") == 0
    assert run.id in {p.name for p in store.runs.iterdir()}
    collect_garbage(store, 0, dry_run=False)
    assert list(store.runs.iterdir()) == []


def test_a_silent_run_of_another_machine_is_taken_for_dead_after_two_days(home, store):
    go(home)
    run, = list_runs(store)
    (run.folder / "live").write_text("0a0a0a0a-17-abcdef012345")
    assert list_runs(store)[0].is_live and collect_garbage(store, 0, dry_run=True).freed == {}
    old = time.time() - 3 * 86400
    for name in ("live", "events.jsonl"):
        os.utime(run.folder / name, (old, old))
    assert not list_runs(store)[0].is_live


def test_a_run_whose_record_is_damaged_stops_a_gc_until_it_is_put_aside(home, store):
    go(home)
    run, = list_runs(store)
    path = run.folder / ROOTS_FILE
    path.write_text(path.read_text().replace("load", "loaf"))
    before = everything(store)
    with pytest.raises(StoreCorrupt, match="dbrun verify"):
        collect_garbage(store, 1, dry_run=False)
    assert everything(store) == before
    assert [f.kind for f in verify_store(store).findings] == ["run"]
    collect_garbage(store, 1, dry_run=False)
    assert len(go(home).ran) == 6


def test_a_run_of_an_earlier_version_keeps_its_results(home, store):
    go(home)
    run, = list_runs(store)
    (run.folder / ROOTS_FILE).unlink()
    collect_garbage(store, 1, dry_run=False)
    assert go(home).ran == ()


def test_a_gc_that_is_killed_leaves_a_store_that_works(home, store, fresh):
    go(home)
    whole = weights(home)
    go(home, "train.steps=8")
    for number in range(1, 200):
        copy = fresh / str(number)
        shutil.copytree(home, copy)
        child = os.fork()
        if not child:
            real, count = os.rename, [0]

            def counted(*args, real=real, count=count, number=number):
                count[0] += 1
                if count[0] == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                real(*args)

            os.rename = counted
            collect_garbage(Store(copy / "store"), 0, dry_run=False)
            os._exit(0)
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        assert verify_store(Store(copy / "store")).findings == ()
        go(copy)
        assert weights(copy) == whole
        shutil.rmtree(copy)
        if not killed:
            break
    assert number > 10


@pytest.mark.parametrize("rounds", ROUNDS)
def test_no_live_run_breaks_under_a_gc(fresh, rounds):
    whole = {}
    for steps in (6, 9, 7):
        home = make_home(fresh / f"whole-{steps}")
        go(home, f"train.steps={steps}", f"name=n{steps}")
        whole[steps] = weights(home, f"n{steps}")
    home = make_home(fresh / "home")
    store, swept = Store(home / "store"), 0
    for number in range(rounds):
        children = {}
        for steps in whole:
            if not (child := os.fork()):
                code = 1
                try:
                    force = ("train",) if number % 3 == 0 else ()
                    go(home, f"train.steps={steps}", f"name=n{steps}", select=Selection(force=force))
                    code = 0
                except BaseException:
                    (fresh / "broken").write_text(traceback.format_exc())
                finally:
                    os._exit(code)
            children[child] = steps
        while children:
            if store.root.is_dir():
                collect_garbage(store, 0, dry_run=False)
                swept += 1
            done, status = os.waitpid(-1, os.WNOHANG)
            if done:
                assert status == 0, f"round {number}: {(fresh / 'broken').read_text()}"
                steps = children.pop(done)
                assert weights(home, f"n{steps}") == whole[steps]
    assert swept >= rounds
    # a gc that came last left whole results, or none
    assert verify_store(store).findings == ()
    assert json.loads(json.dumps(collect_garbage(store, 0, dry_run=True).to_json()))["format_version"] == 1
