"""Are all values in the plot, readable, and where they belong?"""

import math

import pytest

from dbrun.ui.report.plot import HEIGHT, MAX_POINTS, WIDTH, make_plot


def places(path: str) -> list[tuple[float, float]]:
    found = []
    for pair in path.removeprefix("M").split("L"):
        x, y = pair.split()
        found.append((float(x), float(y)))
    return found


@pytest.mark.parametrize("spike", [0.5, 50.0, 5000.0])
def test_nothing_is_cut_off(spike: float) -> None:
    """A spike is in the plot, and the rest is not flat: it keeps a good part of the height."""
    losses = [(step, 0.2 + 0.3 * (step % 2)) for step in range(1, 101)]
    losses[49] = (50, spike)
    plot = make_plot({"loss": losses})
    assert plot is not None
    heights = [y for _, y in places(plot.lines[0].raw)]
    assert min(heights) >= 0 and max(heights) <= HEIGHT
    assert plot.is_log == (spike > 5) and plot.high > spike
    assert max(heights) - sorted(heights)[1] > HEIGHT / (20 if spike > 1000 else 8)


def test_a_spike_of_a_long_run_is_drawn() -> None:
    losses = [(step, 0.5) for step in range(10000)]
    losses[7777] = (7777, 0.9)
    plot = make_plot({"loss": losses})
    assert plot is not None and plot.lines[0].raw.count("L") < 2 * MAX_POINTS
    highest = min(places(plot.lines[0].raw), key=lambda place: place[1])
    assert highest[0] == pytest.approx(WIDTH * 7777 / 9999, abs=0.1)
    assert len(plot.lines[0].values) == MAX_POINTS and plot.lines[0].values[-1][0] == 9999


def test_what_is_no_number_is_counted() -> None:
    plot = make_plot({"loss": [(1, 0.5), (2, math.nan), (3, math.inf)], "class": [(1, math.nan)]})
    assert plot is not None and plot.note.startswith("3 values") and [line.name for line in plot.lines] == ["loss"]
    assert plot.lines[0].dot is not None, "one point has no line"
    assert make_plot({"loss": [(1, math.nan)]}) is None and make_plot({}) is None


def test_labels_are_round_and_in_the_plot() -> None:
    plot = make_plot({"loss": [(step, 1.0 / step) for step in range(1, 301)]})
    assert plot is not None
    assert [tick.text for tick in plot.x_ticks] == ["50", "100", "150", "200", "250", "300"]
    assert all(0 <= tick.at <= 100 for tick in (*plot.x_ticks, *plot.y_ticks)) and len(plot.y_ticks) >= 3
    row = plot.table_row(plot.lines[0])
    assert len(row) == len(plot.table_steps()) and row[0] == 1.0
