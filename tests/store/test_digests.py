"""A file is hashed again exactly when it can have changed, even where size, mtime and inode did not."""

import hashlib
import os
import time

import pytest

from dbrun.store import digests as module
from dbrun.store.digests import FileDigests
from dbrun.store.json_cache import JsonCache


@pytest.fixture(autouse=True, params=[0, 2**20], ids=["large", "small"])
def small(request, monkeypatch):
    """Every file is one that is read in pieces, and one that is read at once."""
    monkeypatch.setattr(module, "SMALL_FILE_BYTES", request.param)


@pytest.fixture
def hashed(monkeypatch):
    """How often a file was really read."""
    count = []
    real = module._digest

    def counting(file, size):
        count.append(file.name)
        return real(file, size)

    monkeypatch.setattr(module, "_digest", counting)
    return count


def digests(folder):
    return FileDigests(JsonCache(folder / "d.table", folder / "tmp"))


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def settled(monkeypatch):
    """Files count as old enough to be remembered at once; waiting would be the other way."""
    monkeypatch.setattr(module, "MIN_AGE_SECONDS", -60.0)


def test_a_settled_file_is_read_once_also_by_the_next_process(tmp_path, hashed, settled):
    (tmp_path / "f").write_text("one")
    first = digests(tmp_path)
    assert [first.sha256(tmp_path / "f"), first.sha256(tmp_path / "f")] == [sha("one")] * 2
    first.save()
    assert digests(tmp_path).sha256(tmp_path / "f") == sha("one")
    assert len(hashed) == 1


def test_a_young_file_is_read_again(tmp_path, hashed):
    (tmp_path / "f").write_text("one")
    first = digests(tmp_path)
    first.sha256(tmp_path / "f")
    first.sha256(tmp_path / "f")
    assert len(hashed) == 2


def test_a_file_from_the_future_is_read_again(tmp_path, hashed):
    (tmp_path / "f").write_text("one")
    os.utime(tmp_path / "f", (time.time() + 9999,) * 2)
    first = digests(tmp_path)
    first.sha256(tmp_path / "f")
    first.sha256(tmp_path / "f")
    assert len(hashed) == 2


def test_an_edit_that_keeps_size_mtime_and_inode_is_seen(tmp_path, settled):
    path = tmp_path / "f"
    path.write_text("one")
    os.utime(path, ns=(10**18, 10**18))
    first = digests(tmp_path)
    assert first.sha256(path) == sha("one")
    before = path.stat()
    time.sleep(0.02)
    with path.open("r+") as file:
        file.write("two")
    os.utime(path, ns=(10**18, 10**18))
    after = path.stat()
    assert (before.st_ino, before.st_size, before.st_mtime_ns) == (after.st_ino, after.st_size, after.st_mtime_ns)
    assert first.sha256(path) == sha("two")


def test_a_moved_file_is_known_by_its_inode(tmp_path, hashed, settled):
    (tmp_path / "f").write_text("one")
    first = digests(tmp_path)
    first.sha256(tmp_path / "f")
    os.link(tmp_path / "f", tmp_path / "g")
    first.sha256(tmp_path / "f")
    first.sha256(tmp_path / "g")
    assert len(hashed) == 2, "a link changes ctime: read once more, then known under both names"


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_text("one")
    real, calls = module._digest, []

    def racing(file, size):
        found = real(file, size)
        calls.append(1)
        if len(calls) == 1:
            path.write_text("longer")
        return found

    monkeypatch.setattr(module, "_digest", racing)
    assert digests(tmp_path).sha256(path) == sha("longer")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        digests(tmp_path).sha256(tmp_path / "nothing")
