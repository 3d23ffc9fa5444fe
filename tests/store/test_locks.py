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
    with locks.exclusive_lock(path, "train"):
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
        with locks.exclusive_lock(tmp_path / "x.lock", "train", on_wait=pytest.fail) as lock:
            assert not lock.waited
            assert f"process {os.getpid()}" in (tmp_path / "x.lock").read_text()


def test_a_waiter_says_who_works_and_goes_on_when_that_one_dies(tmp_path, holder):
    told = []

    def waiting(text):
        told.append(text)
        holder.kill()

    with locks.exclusive_lock(tmp_path / "l" / "x.lock", "train", on_wait=waiting) as lock:
        assert lock.waited
    assert len(told) == 1
    assert f"process {holder.pid} on " in told[0] and "(train)" in told[0]


def test_a_waiter_can_be_interrupted(tmp_path, holder):
    with pytest.raises(Interrupted) as caught, \
            locks.exclusive_lock(tmp_path / "l" / "x.lock", "train", stop_signal=lambda: signal.SIGTERM):
        pytest.fail("the lock was not free")
    assert caught.value.exit_code == 143


def test_an_error_inside_frees_the_lock(tmp_path):
    with pytest.raises(KeyError), locks.exclusive_lock(tmp_path / "x.lock", "train"):
        raise KeyError
    with locks.exclusive_lock(tmp_path / "x.lock", "train", on_wait=pytest.fail):
        pass


def test_a_file_system_without_locks_is_taken_as_it_is(tmp_path, monkeypatch):
    def none(handle, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with locks.exclusive_lock(tmp_path / "x.lock", "train", on_wait=pytest.fail) as lock:
        assert not lock.waited


def test_a_lock_says_how_far_the_work_is(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "POLL_INTERVAL", 0.0)
    with locks.exclusive_lock(tmp_path / "x.lock", "train") as lock:
        lock.report_progress("step 12 of 300")
        said = f"process {os.getpid()} on {os.uname().nodename} (train, step 12 of 300)"
        assert (tmp_path / "x.lock").read_text() == said
        lock.report_progress()
        assert (tmp_path / "x.lock").read_text().endswith("(train)")


def test_how_far_the_work_is_is_not_written_at_every_step(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(os, "pwrite", lambda *what: written.append(what))
    with locks.exclusive_lock(tmp_path / "x.lock", "train") as lock:
        for step in range(100):
            lock.report_progress(f"step {step}")
    assert len(written) == 1


def test_many_share_what_one_alone_must_wait_for(tmp_path):
    path = tmp_path / "l" / "x.lock"
    with locks.shared_lock(path), locks.shared_lock(path), pytest.raises(Interrupted), \
            locks.exclusive_lock(path, "gc", stop_signal=lambda: signal.SIGINT):
        pytest.fail("it was not alone")
    with locks.exclusive_lock(path, "gc", on_wait=pytest.fail):
        pass


def test_another_users_lock_can_be_held_though_not_signed(tmp_path, monkeypatch):
    path, real = tmp_path / "x.lock", os.open
    path.write_text("process 1 on far (train)")

    def theirs(name, flags, mode=0o777):
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(name, flags, mode)

    monkeypatch.setattr(os, "open", theirs)
    with locks.exclusive_lock(path, "train", on_wait=pytest.fail):
        assert path.read_text() == "process 1 on far (train)"
