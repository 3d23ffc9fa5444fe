"""Does the embedded recipe, killed at any instant of any stage, end in the bytes of an undisturbed run?

The default set kills runs of a tiny base (tests/flow) and of stub stages (tests/run); this takes half an hour.
"""

from pathlib import Path

import pytest
from faults.kills import Harness


@pytest.mark.slow
def test_two_hundred_kills_end_in_the_same_bytes(tmp_path: Path) -> None:
    harness, kills, number = Harness.ready(tmp_path), 0, 1000
    while kills < 200:
        kills += harness.attempt(number)
        number += 1
