"""Is the time left said as roughly as it is known, and no further than it is known?"""

import pytest

from dbrun.events import TimeLeft
from dbrun.ui.time_left import rough_duration, time_left_text


@pytest.mark.parametrize(("known", "elapsed", "text"), [
    (TimeLeft("train", 200.0, 90.0), 0.0, "about 3 min left"),
    (TimeLeft("train", 200.0, 90.0), 80.0, "about 2 min left"),
    # only the running stage's time runs down
    (TimeLeft("train", 200.0, 90.0), 99.0, "about 2 min left"),
    (TimeLeft("train", 200.0, 90.0), 101.0, "train takes longer; about 2 min left after it"),
    (TimeLeft("export", 5.0, 5.0), 16.0, "export takes longer than expected"),
    (TimeLeft("load", 0.0, None, ("load", "train"), "train"), 60.0, "time left is known soon after train begins"),
    (TimeLeft("train", 0.0, None, ("train",), "train"), 60.0, "time left is known soon"),
    (TimeLeft("load", 0.0, None, ("load",)), 60.0, "time left is not known"),
    (TimeLeft("train", 40.0, 40.0, ("train", "export"), "export"), 0.0,
     "at least 40 s left; more is known soon after export begins"),
    (TimeLeft("train", 40.0, None, ("train",), "train"), 99.0, "at least 40 s left; more is known soon"),
    (TimeLeft("train", 40.0, 40.0, ("train",)), 25.0, "at least 15 s left"),
    (TimeLeft("train", 40.0, 40.0, ("train",)), 99.0, "time left is not known")])
def test_only_what_is_known_is_said(known: TimeLeft, elapsed: float, text: str) -> None:
    assert time_left_text(known, elapsed) == f"whole run: {text}"


def test_a_rough_duration_has_no_false_precision() -> None:
    seconds = (0, 7, 8, 57, 58, 95, 3500, 3600, 4200, 35_400, 36_000, 100_000)
    assert [rough_duration(one) for one in seconds] == [
        "a few seconds", "a few seconds", "10 s", "55 s", "1 min", "2 min", "58 min", "1 h 00 min", "1 h 10 min",
        "9 h 50 min", "10 h", "28 h"]
