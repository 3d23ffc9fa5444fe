"""Fixtures: new folders in memory, and a home for the stub stages in one."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from stub_world import make_home

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def quick() -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of small runs, each with its fsyncs, would wait for a disk."""
    home = Path(tempfile.mkdtemp(prefix="dbrun-tests-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def fresh(quick: Path) -> Iterator[Path]:
    """A new folder in memory."""
    folder = Path(tempfile.mkdtemp(dir=quick))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def home(fresh: Path) -> Path:
    """A folder with pictures and a recipe for the stub stages."""
    return make_home(fresh / "home")
