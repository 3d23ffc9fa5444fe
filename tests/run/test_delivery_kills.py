"""Killed at any of its calls to the system, a delivery loses no file of the user, and the next command hides none.

The stages are cached: the next command has nothing to do but to look. The default set kills a few times; `slow` kills
200 times, at each call of each scene, and at every other the finishing too.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from stub_world import go, make_home

CALLS = ("rename", "replace", "link", "unlink", "mkdir", "rmdir", "fsync", "sendfile", "scandir")
"""The system's calls that a delivery changes the disk by, and one between two of them."""
AFTER = ("export=[peft,kohya]",)
"""The words of the command whose delivery is killed."""


def own_files(out: Path) -> None:
    """Files with names of their own, in folders of their own and of the delivery."""
    for name in ("notes.txt", "diffusers/mine", "peft/mine", "loras/a/b"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(f"mine: {name}")


def own_names_clash(out: Path) -> None:
    """Files whose names the delivery takes, and a delivered file that was edited."""
    for name in ("kohya", "peft/weights", "diffusers/weights", "kohya-kept"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(f"mine: {name}")


def linked(out: Path) -> None:
    """The folder is a link to another disk, with files of the user."""
    own_files(out)
    elsewhere = out.parent.parent / "elsewhere"
    elsewhere.mkdir()
    out.rename(elsewhere / "dog")
    out.symlink_to(elsewhere / "dog")


def own_record_lost(out: Path) -> None:
    """The record cannot be read: nobody knows what was delivered."""
    own_files(out)
    (out / "dbrun.json").write_text("{")


SCENES: tuple[Callable[[Path], None], ...] = (own_names_clash, own_files, linked, own_record_lost)
USUAL = [(own_names_clash, 12), (own_names_clash, 20), (own_files, 16), (linked, 22)]


def killed(home: Path, number: int) -> bool:
    """Run the command in a forked process, killed at this one of its calls; False where it ended before."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    from dbrun.run import runner

    count = [0]

    def counting(real: Callable[..., object]) -> Callable[..., object]:
        def disturbed(*args: object, **kwargs: object) -> object:
            count[0] += 1
            if count[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return disturbed

    def only_within(delivery: Callable[..., object]) -> Callable[..., object]:
        def counted(*args: object, **kwargs: object) -> object:
            for call in CALLS:
                setattr(os, call, counting(getattr(os, call)))
            return delivery(*args, **kwargs)
        return counted

    try:
        for name in ("deliver", "finish_interrupted"):
            setattr(runner, name, only_within(getattr(runner, name)))
        go(home, *AFTER)
    finally:
        os._exit(0)


def contents(folder: Path) -> list[str]:
    return sorted(p.read_text() for p in folder.rglob("*") if p.is_file() and p.read_text().startswith("mine: "))


def scene(folder: Path, prepare: Callable[[Path], None]) -> Path:
    """A project whose command is cached, with files of the user in the delivery of an earlier one."""
    home = make_home(folder)
    go(home, *AFTER)
    go(home, "export=[diffusers]")
    prepare(home / "outputs" / "stub")
    return home


def attempt(folder: Path, prepare: Callable[[Path], None], *kills: int) -> int:
    """Kill once or several times, run once more, and look; returns how many kills struck."""
    home = scene(folder, prepare)
    out = home / "outputs" / "stub"
    before = contents(out)
    struck = sum([killed(home, number) for number in kills])
    real = Path(os.path.realpath(out)) if out.is_symlink() else out
    assert go(home, *AFTER).ran == ()
    assert contents(out) == before, "every file of the user is there, once"
    for home_of_it in {out.parent, real.parent}:
        assert len(list(home_of_it.iterdir())) == 1, "nothing hidden is left"
    for name in ("peft", "kohya"):
        assert (out / name / "weights").read_text().startswith(f"{name} ")
    assert out.is_symlink() == (prepare is linked)
    assert go(home, *AFTER).ran == () and contents(out) == before
    return struck


@pytest.mark.parametrize(("prepare", "number"), USUAL)
def test_a_kill_loses_and_hides_nothing(quick: Path, tmp_path: Path, prepare: Callable[[Path], None],
                                        number: int) -> None:
    assert attempt(tmp_path / "project", prepare, number) == 1


@pytest.mark.slow
def test_two_hundred_kills_lose_and_hide_nothing(tmp_path: Path) -> None:
    struck, number = 0, 0
    while struck < 200:
        number += 1
        for prepare in SCENES:
            kills = (number,) if number % 2 else (number, number // 2, 3)
            struck += attempt(tmp_path / f"{prepare.__name__}-{number}", prepare, *kills)
        assert number < 200, f"only {struck} kills struck"
