"""The store's folder looks after itself, and a result counts only with its trace and all its files."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dbrun.errors import DbrunError
from dbrun.store import digests
from dbrun.store.store import Damage, Store, current_store
from dbrun.store.traces import Trace

KEY = "12" * 32


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def publish(store, text="good"):
    folder = store.make_temp_folder()
    (folder / "file").write_text(text)
    return store.publish("train", KEY, {"params": {}}, folder, seconds=1.0)


def test_looking_makes_no_store(tmp_path):
    store = Store(tmp_path / "store")
    assert store.look_up("train", KEY) is None
    store.save_caches()
    assert not store.root.exists()


def test_the_store_hides_from_git(store):
    assert (store.root / ".gitignore").read_text() == "*\n"


def test_a_result_is_there_once_published(store):
    trace = publish(store)
    assert store.look_up("train", KEY) == store.look_up("train", KEY, "digests") == trace
    assert list(store.scratch.iterdir()) == []


def test_an_object_without_a_trace_does_not_count(store):
    publish(store)
    store.traces.path("train", KEY).unlink()
    assert store.look_up("train", KEY) is None


@pytest.mark.parametrize("damage", ["truncate", "delete", "delete folder"])
def test_damage_is_seen_on_every_use(store, damage):
    file = store.objects.path(publish(store).digest) / "file"
    file.chmod(0o644)
    if damage == "truncate":
        file.write_text("g")
    else:
        file.unlink()
    if damage == "delete folder":
        file.parent.rmdir()
    found = store.look_up("train", KEY)
    assert isinstance(found, Damage) and "file" in found.lines[0]


def test_a_flipped_bit_is_seen_by_the_deep_check(store):
    file = store.objects.path(publish(store).digest) / "file"
    before = file.stat()
    file.chmod(0o644)
    file.write_text("goOd")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert isinstance(store.look_up("train", KEY), Trace)
    found = store.look_up("train", KEY, "digests")
    assert isinstance(found, Damage) and "other bytes" in found.lines[0]


def test_the_deep_check_reads_no_file_twice(store, monkeypatch):
    publish(store)
    monkeypatch.setattr(digests, "MIN_AGE_SECONDS", -60.0)
    store.look_up("train", KEY, "digests")
    store.save_caches()
    monkeypatch.setattr(digests.FileDigests, "_hash", lambda self, path: pytest.fail(f"read {path}"))
    assert isinstance(Store(store.root).look_up("train", KEY, "digests"), Trace)


def test_a_file_that_cannot_be_read_is_damage(store, monkeypatch):
    publish(store)

    def broken(self, path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(digests.FileDigests, "sha256", broken)
    found = store.look_up("train", KEY, "digests")
    assert isinstance(found, Damage) and found.lines == ("file cannot be read: Input/output error",)


def test_leftovers_of_the_dead_are_cleared_those_of_the_living_stay(store):
    mine = store.make_temp_folder()
    code = ("import sys; from pathlib import Path; from dbrun.store.store import Store;"
            "Store(Path(sys.argv[1])).make_temp_folder()")
    subprocess.run([sys.executable, "-c", code, store.root], check=True)
    assert len(list(store.scratch.iterdir())) == 2
    Store(store.root).prepare()
    assert list(store.scratch.iterdir()) == [mine]


def test_a_store_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DbrunError, match="opening the store"):
        Store(tmp_path / "file" / "store").prepare()


def test_where_the_store_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DBRUN_STORE", raising=False)
    assert current_store().root == Path.cwd() / ".dbrun"
    monkeypatch.setenv("DBRUN_STORE", str(tmp_path / "elsewhere"))
    assert current_store().root == tmp_path / "elsewhere"


def test_a_result_is_damaged_only_if_a_second_look_says_so(store, monkeypatch):
    """A network file system says for a while that a new name is not there, until its folder is opened."""
    trace, opened = publish(store), []
    real_open, real_stat = os.scandir, Path.stat

    def scandir(path):
        opened.append(Path(path))
        return real_open(path)

    def stat(path, **options):
        if path.name == "file" and store.objects.path(trace.digest) not in opened:
            raise FileNotFoundError(errno.ENOENT, "a remembered absence", str(path))
        return real_stat(path, **options)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr(Path, "iterdir", lambda path: (Path(entry.path) for entry in scandir(path)))
    assert store.look_up("train", KEY) == trace
    opened.clear()
    (store.objects.path(trace.digest) / "file").unlink()
    assert isinstance(store.look_up("train", KEY), Damage)
