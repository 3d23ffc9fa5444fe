"""A stage whose results cannot fit does not start, and a disk that fills up all the same costs nothing done before."""

import os
import subprocess
from types import SimpleNamespace

import pytest
from stub_world import Priors, Train, go, make_home, stub_stages

from dbrun import disk_space
from dbrun.disk_space import format_bytes, free_bytes
from dbrun.errors import StageFailed
from dbrun.events import StageStarted


def needing(bytes_needed, stage=Train):
    return {**stub_stages(), stage.NAME: type("Large", (stage,), {"max_disk_bytes": lambda self, job: bytes_needed})()}


def test_a_stage_that_cannot_fit_does_not_start(home, monkeypatch):
    log = home / "log"
    monkeypatch.setenv("STUB_RUNS", str(log))
    with pytest.raises(StageFailed, match=r"train needs up to 1048576.0 TiB in the store, and .* are free") as caught:
        go(home, stages=needing(2**60))
    assert "dbrun gc" in caught.value.fix and "DBRUN_STORE" in caught.value.fix
    assert "train" not in log.read_text().split() and "preprocess" in log.read_text().split()
    assert go(home).ran == ("train", "export")


def test_what_is_there_already_needs_no_room_again(home, monkeypatch):
    def cut(event):
        if getattr(event, "done", 0) == 5:
            raise KeyboardInterrupt

    with pytest.raises(Exception, match="interrupted"):
        go(home, emit=cut)
    there = free_bytes(home / "store")
    monkeypatch.setattr(disk_space, "free_bytes", lambda folder: there)
    with pytest.raises(StageFailed, match="needs up to"):
        go(home, "train.learning_rate=0.5", stages=needing(there + 4096))
    assert go(home, stages=needing(there + 4096)).ran == ("train", "export")


def test_items_that_are_there_need_no_room_again(home, monkeypatch):
    def cut(event):
        if isinstance(event, StageStarted) and event.stage == "preprocess":
            raise KeyboardInterrupt

    with pytest.raises(Exception, match="interrupted"):
        go(home, emit=cut)
    monkeypatch.setattr(disk_space, "free_bytes", lambda folder: 2**20)
    with pytest.raises(StageFailed, match="generate-priors needs"):
        go(home, "subject.class_prompt=a dog", stages=needing(2**20 + 4 * 64, Priors))
    assert "generate-priors" in go(home, "prior.count=5", stages=needing(2**20 + 4 * 64, Priors)).ran


def test_a_system_that_does_not_say_stops_nobody(home, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=0, f_frsize=512, f_blocks=0))
    assert len(go(home).ran) == 6
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=1, f_frsize=512, f_blocks=9))
    with pytest.raises(StageFailed, match="512 B are free"):
        go(home, "train.learning_rate=0.5")


@pytest.mark.parametrize(("size", "said"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 2**20, "5.0 MiB"),
                                            (2**34, "16 GiB"), (2**41, "2.0 TiB")])
def test_bytes_are_said_as_people_read_them(size, said):
    assert format_bytes(size) == said


@pytest.mark.parametrize("kilobytes", [16, 64, 100, 140, 180])
def test_a_disk_that_fills_up_is_a_clear_error_and_loses_nothing(fresh, monkeypatch, kilobytes):
    monkeypatch.setattr(disk_space, "free_bytes", lambda folder: None)
    home = make_home(fresh / "home")
    (home / "store").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", home / "store"],
                             capture_output=True)
    if mounted.returncode:
        pytest.skip("this process may not mount")
    try:
        with pytest.raises(StageFailed, match="the disk is full"):
            go(home)
        subprocess.run(["mount", "-o", "remount,size=8m", home / "store"], check=True)
        go(home)
        assert go(home).ran == ()
        assert list((home / "store" / "tmp").iterdir()) == []
    finally:
        subprocess.run(["umount", home / "store"], check=True)
