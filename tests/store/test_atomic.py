"""Files are replaced whole, temporary names tell their owner, the system's errors become words."""

import errno
import os
import subprocess
import sys

import pytest

from dbrun.errors import DbrunError
from dbrun.store import atomic


def test_a_file_is_replaced_whole(tmp_path):
    target = tmp_path / "deep" / "file"
    atomic.replace_file(target, b"one", scratch=tmp_path / "tmp")
    atomic.replace_file(target, b"two", scratch=tmp_path / "tmp")
    assert target.read_bytes() == b"two"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_failed_replacement_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "file"
    atomic.replace_file(target, b"one", scratch=tmp_path / "tmp")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        atomic.replace_file(target, b"two", scratch=tmp_path / "tmp")
    assert target.read_bytes() == b"one"
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(("number", "word"), [
    (errno.ENOSPC, "full"), (errno.EACCES, "permission"), (errno.EROFS, "read-only"), (errno.EIO, "input/output"),
    (errno.EDQUOT, "quota")])
def test_errors_of_the_system_become_words(number, word):
    with pytest.raises(DbrunError, match=word) as caught, atomic.disk_errors("keeping it"):
        raise OSError(number, os.strerror(number), "/somewhere")
    assert caught.value.fix
    assert caught.value.message.startswith("keeping it")


def test_an_error_without_a_way_out_gives_no_empty_advice():
    with pytest.raises(DbrunError, match="Not a directory") as caught, atomic.disk_errors("keeping it"):
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), "/somewhere")
    assert caught.value.fix is None


def test_orphans_are_those_of_dead_processes_here():
    assert not atomic.is_orphan(atomic.temp_name())
    child = subprocess.run([sys.executable, "-c", "from dbrun.store.atomic import temp_name; print(temp_name())"],
                           capture_output=True, text=True, check=True).stdout.strip()
    assert atomic.is_orphan(child)
    assert not atomic.is_orphan("0badcafe-" + child.split("-", 1)[1])
    assert not atomic.is_orphan("notes.txt")


def test_a_process_id_that_was_given_out_again_is_another_process():
    host, pid, rest = atomic.temp_name().split("-")
    began, _, chance = rest.partition(".")
    assert began == atomic.process_start(os.getpid()) != atomic.process_start(1)
    assert atomic.is_orphan(f"{host}-{pid}-{atomic.process_start(1)}.{chance}")
    # names of earlier versions say nothing about the start, nor does a system without /proc
    assert not atomic.is_orphan(f"{host}-{pid}-{chance}")
    assert not atomic.is_orphan(f"{host}-{pid}-.{chance}")
    assert atomic.process_start(2**30) == ""
    assert atomic.is_orphan(f"{host}-{'9' * 40}-{rest}") is True


def test_remove_takes_read_only_things_and_what_is_gone(tmp_path):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "file").write_text("x")
    (folder / "file").chmod(0o444)
    atomic.remove_tree(tmp_path / "a")
    atomic.remove_tree(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_remove_does_not_follow_links(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    atomic.remove_tree(tmp_path / "link")
    assert (tmp_path / "kept" / "file").exists()
