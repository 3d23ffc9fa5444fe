"""Settings for all tests, made before torch is loaded, and the fixture that compares what is said to people."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from golden import Golden

# one thread a process: two that wait for each other on a busy machine are many times slower than one
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-golden", action="store_true", help="write golden texts instead of comparing with them")


@pytest.fixture
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Golden:
    """`golden(label, text)` fails unless the text is the one in `golden/<test file>.txt`."""
    return Golden(request.path, request.node.originalname, tmp_path, request.config.getoption("--rewrite-golden"))
