"""A store is shared: read from where it cannot be written, and never open to strangers."""

import os
import shutil
import stat
import subprocess

import pytest
from stub_world import go, make_home

from dbrun.errors import DbrunError
from dbrun.events import Note
from dbrun.store.runs import list_runs
from dbrun.store.store import Store


@pytest.fixture
def mounted(home, fresh):
    """A home with a finished store on a mount for reading, and another copy of its recipe to change."""
    go(home)
    shutil.rmtree(home / "outputs")
    mount = subprocess.run(["mount", "--bind", "-o", "ro", home / "store", home / "store"], capture_output=True)
    if mount.returncode:
        pytest.skip("this process may not mount")
    yield home
    subprocess.run(["umount", home / "store"], check=True)


def everything(folder):
    return sorted((str(p), p.stat().st_mtime_ns) for p in folder.rglob("*"))


def test_a_store_on_a_mount_for_reading_serves_what_it_has(mounted):
    before = everything(mounted / "store")
    outcome = go(mounted)
    assert outcome.ran == () and (mounted / "outputs" / "stub" / "peft" / "weights").is_file()
    assert go(mounted, "name=other").ran == ()
    assert everything(mounted / "store") == before


def test_what_it_lacks_is_refused_with_the_way_out(mounted):
    with pytest.raises(DbrunError, match="is read-only, and train, export would") as caught:
        go(mounted, "train.steps=7")
    assert "DBRUN_STORE" in caught.value.fix


def test_a_store_that_may_not_be_written_serves_what_it_has(home, monkeypatch):
    """The same without a mount, as another user finds it."""
    go(home)
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "store" not in str(path) and real(path, mode))
    before = everything(home / "store")
    told = []
    assert go(home, emit=told.append).ran == ()
    assert everything(home / "store") == before and not any(isinstance(e, Note) for e in told)
    with pytest.raises(DbrunError, match="is read-only"):
        go(home, "train.steps=7")


@pytest.mark.parametrize(("mask", "files", "folders"), [(0o077, 0o600, 0o700), (0o022, 0o644, 0o755),
                                                        (0o002, 0o664, 0o775), (0o000, 0o664, 0o775)])
def test_files_are_for_those_whom_the_umask_lets(home, mask, files, folders):
    before = os.umask(mask)
    try:
        go(home)
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    for root in (home / "store", home / "outputs"):
        for path in [root, *root.rglob("*")]:
            mode = stat.S_IMODE(path.stat().st_mode)
            sealed = "objects" in path.parts and path.is_file()
            assert mode == (folders if path.is_dir() else files & 0o444 if sealed else files), path


def test_a_run_says_that_it_lives_and_what_it_wants(home):
    seen = []
    go(home,
       emit=lambda event: seen.append([(run.state, set(run.roots.keys)) for run in list_runs(Store(home / "store"))]))
    assert ("running", {"load", "adapt"}) in [run for now in seen for run in now]
    assert [run.state for run in list_runs(Store(home / "store"))] == ["done"]


def test_a_result_names_the_items_that_it_is_made_of(home):
    go(home)
    store = Store(home / "store")
    run, = list_runs(store)
    for stage, count in (("generate-priors", 4), ("preprocess", 3), ("train", 0)):
        trace = store.traces.read(stage, run.roots.keys[stage])
        assert len(trace.items) == count
        assert all(store.look_up(f"{stage}.item", item) for item in trace.items)


def test_two_users_of_a_group_share_a_store(fresh):
    if os.geteuid():
        pytest.skip("only root can become others")
    home = make_home(fresh / "home")
    (home / "store").mkdir()
    os.chown(home / "store", -1, 4242)
    (home / "store").chmod(0o2775)
    for place in (fresh.parent, fresh, home):
        place.chmod(0o777)
    for user, changes in ((4001, []), (4002, []), (4002, ["train.steps=8"]), (4001, ["train.steps=9"])):
        child = os.fork()
        if not child:
            code = 1
            try:
                os.umask(0o002)
                os.setgroups([4242])
                os.setgid(4242)
                os.setuid(user)
                go(home, *changes, f"name=u{user}")
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0, (user, changes)
    assert {p.stat().st_uid for p in (home / "store").rglob("*")} >= {4001, 4002}
