"""Makes the judge importable, and trains it once per machine."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def judge():
    from judge import trained_judge

    return trained_judge()
