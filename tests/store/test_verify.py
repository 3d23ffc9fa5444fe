"""A bit that flips anywhere in the store is found, and the next run makes whole what it touched."""

import os
import random
import shutil

import pytest
from stub_world import go, make_home

from dbrun.store.store import Store
from dbrun.store.verify import verify_store

LOGS = ("events.jsonl", "log", "live", ".gitignore", "last.json", "items")
"""What only tells, and decides nothing: it has no digest."""


def kind(path):
    """Which sort of file in the store this is."""
    return ".".join(part for part in path.parts[1:-1] if 2 < len(part) < 40 and "stub" not in part) + path.suffix


def flip(path, chance):
    """Change one bit, and put size and times back."""
    state, content = path.stat(), bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.chmod(0o644)
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def outputs(home):
    return {p.relative_to(home).as_posix(): p.read_bytes() for p in (home / "outputs").rglob("weights")}


@pytest.fixture(scope="module")
def whole(quick):
    """A home after a run, whose tables are written too."""
    home = make_home(quick / "flips")
    go(home)
    store = Store(home / "store")
    store.digests._cache.put("0:0", "x")
    store.save_caches()
    return home


def files(home):
    """A file of every kind in the store that something depends on."""
    found = {}
    for path in sorted((home / "store").rglob("*")):
        if path.is_file() and path.stat().st_size and path.name not in LOGS and "locks" not in path.parts:
            relative = path.relative_to(home)
            found.setdefault(f"{kind(relative)} {path.name if 'runs' in path.parts else ''}", []).append(relative)
    return found


def test_every_kind_of_file_is_there(whole):
    kinds = "\n".join(files(whole))
    for part in ("objects", "traces.train", "traces.preprocess.item", "runs", ".table"):
        assert part in kinds, kinds


@pytest.mark.parametrize("times", [1, pytest.param(60, marks=pytest.mark.slow)])
def test_a_flipped_bit_is_found_and_healed(whole, fresh, times):
    chance, wanted = random.Random(times), outputs(whole)
    for sort, paths in files(whole).items():
        for number in range(times):
            home = fresh / f"{number}"
            shutil.copytree(whole, home)
            flip(home / chance.choice(paths), chance)
            report = verify_store(Store(home / "store"))
            assert report.findings, f"{sort}: nothing found"
            assert verify_store(Store(home / "store")).findings == (), sort
            shutil.rmtree(home / "outputs")
            go(home)
            assert outputs(home) == wanted, sort
            assert verify_store(Store(home / "store")).findings == (), sort
            shutil.rmtree(home)


@pytest.mark.parametrize("times", [1, pytest.param(40, marks=pytest.mark.slow)])
def test_a_flipped_bit_never_reaches_a_result_though_nobody_verified(whole, fresh, times):
    chance = random.Random(times)
    longer = make_home(fresh / "longer")
    go(longer, "train.steps=9")
    wanted = outputs(longer)
    for sort, paths in files(whole).items():
        for number in range(times):
            home = fresh / f"{number}"
            shutil.copytree(whole, home)
            flip(home / chance.choice(paths), chance)
            go(home, "train.steps=9")
            assert outputs(home) == wanted, sort
            shutil.rmtree(home)


@pytest.mark.parametrize("harm", ["cut", "empty", "gone"])
def test_cut_empty_and_missing_files_too(whole, fresh, harm):
    for sort, paths in files(whole).items():
        home = fresh / "home"
        shutil.copytree(whole, home)
        path = home / paths[0]
        path.parent.chmod(0o755)
        path.chmod(0o644)
        if harm == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if harm == "cut" else b"")
        found = verify_store(Store(home / "store")).findings
        assert found or (harm == "gone" and "objects" not in sort), sort
        go(home)
        assert outputs(home) == outputs(whole), sort
        shutil.rmtree(home)
