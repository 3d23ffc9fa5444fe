"""One works, the other waits, says for whom, and goes on when the first is done or dead."""

import errno
import fcntl
import multiprocessing
import os
import signal
import time

import pytest

from dbrun.errors import Interrupted
from dbrun.store import locks

fork = multiprocessing.get_context("fork")


def hold(path, ready, seconds):
    with locks.held(path, "train"):
        ready.set()
        time.sleep(seconds)


@pytest.fixture
def holder(tmp_path):
    """A process that holds a lock for a while."""
    ready = fork.Event()
    process = fork.Process(target=hold, args=(tmp_path / "l" / "x.lock", ready, 30))
    process.start()
    assert ready.wait(10)
    yield process
    process.kill()
    process.join()


def test_a_free_lock_is_taken_at_once_and_again(tmp_path):
    for _ in range(2):
        with locks.held(tmp_path / "x.lock", "train", waiting=pytest.fail) as waited:
            assert not waited
            assert f"process {os.getpid()}" in (tmp_path / "x.lock").read_text()


def test_a_waiter_says_who_works_and_goes_on_when_that_one_dies(tmp_path, holder):
    told = []

    def waiting(text):
        told.append(text)
        holder.kill()

    with locks.held(tmp_path / "l" / "x.lock", "train", waiting=waiting) as waited:
        assert waited
    assert len(told) == 1
    assert f"process {holder.pid} on " in told[0] and "(train)" in told[0]


def test_a_waiter_can_be_interrupted(tmp_path, holder):
    with pytest.raises(Interrupted) as caught, \
            locks.held(tmp_path / "l" / "x.lock", "train", stopping=lambda: signal.SIGTERM):
        pytest.fail("the lock was not free")
    assert caught.value.exit_code == 143


def test_an_error_inside_frees_the_lock(tmp_path):
    with pytest.raises(KeyError), locks.held(tmp_path / "x.lock", "train"):
        raise KeyError
    with locks.held(tmp_path / "x.lock", "train", waiting=pytest.fail):
        pass


def test_a_file_system_without_locks_is_taken_as_it_is(tmp_path, monkeypatch):
    def none(handle, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with locks.held(tmp_path / "x.lock", "train", waiting=pytest.fail) as waited:
        assert not waited
