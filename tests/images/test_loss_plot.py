"""Does the loss curve show each line where its numbers lie?"""

import numpy as np
import pytest

from dbrun.images.loss_plot import HEIGHT, LEFT, LINE_COLOURS, TOP, WIDTH, axis_ticks, plot_losses, smooth


def where(page: np.ndarray, colour: str) -> tuple[np.ndarray, np.ndarray]:
    rgb = np.array([int(colour[i:i + 2], 16) for i in (1, 3, 5)])
    return np.nonzero(abs(page.astype(int) - rgb).max(-1) < 12)


def test_a_falling_line_falls_and_a_higher_line_lies_higher() -> None:
    falling = [(i, 1.0 - i / 200) for i in range(1, 101)]
    page = np.asarray(plot_losses({"instance": falling, "class": [(i, 0.2) for i in range(1, 101)]}))
    assert page.shape == (HEIGHT, WIDTH, 3)
    ys, xs = where(page[80:], LINE_COLOURS[0][0])
    assert ys[xs < 200].mean() < ys[xs > 800].mean() - 50
    low, _ = where(page[80:], LINE_COLOURS[1][0])
    assert low.mean() > ys.mean()


def test_smoothing_keeps_a_constant_and_halves_noise() -> None:
    assert all(y == pytest.approx(0.3) for _, y in smooth([(i, 0.3) for i in range(50)]))
    noisy = [(i, 1.0 + (-1) ** i * 0.5) for i in range(300)]
    assert np.std([y for _, y in smooth(noisy)][50:]) < 0.1


@pytest.mark.parametrize(("low", "high", "expected"), [
    (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (1, 300, [50, 100, 150, 200, 250, 300]),
    (0, 0.03, [0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03])])
def test_ticks_are_round_numbers(low, high, expected) -> None:
    assert axis_ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("points", [[], [(1, 0.5)], [(1, float("nan")), (2, 0.4)], [(1, 0.0), (2, 0.0)],
                                    [(i, 1e-7) for i in range(9)]])
def test_few_odd_or_no_points_still_draw(points) -> None:
    assert plot_losses({"instance": points}).size == (WIDTH, HEIGHT)


def columns_at_the_upper_edge(page: np.ndarray) -> int:
    _, xs = where(page[TOP:TOP + 6], LINE_COLOURS[0][0])
    return len(set(xs))


def test_a_high_beginning_is_shown_whole_and_not_as_a_plateau() -> None:
    points = [(i, 0.1 + 0.9 * np.exp(-i / 20)) for i in range(300)]
    page = np.asarray(plot_losses({"instance": points}))
    assert columns_at_the_upper_edge(page) < 20
    ys, xs = where(page[TOP:], LINE_COLOURS[0][0])
    tops = [ys[xs == x].min() for x in sorted(set(xs[xs > LEFT + 5]))]
    assert (np.diff(tops) >= -1).all(), "it falls from its first point on"


def test_a_line_that_is_far_above_the_axis_is_cut_at_its_edge() -> None:
    points = [(i, 1e9 if i == 150 else 0.1) for i in range(300)]
    page = np.asarray(plot_losses({"instance": points}))
    assert columns_at_the_upper_edge(page) < 20
    assert not len(where(page[TOP - 20:TOP - 2, LEFT:], LINE_COLOURS[0][0])[0])


def test_every_line_is_drawn_and_one_too_many_is_an_error() -> None:
    series = {f"line {n}": [(i, 0.1 * (n + 1) + i / 99) for i in range(9)] for n in range(len(LINE_COLOURS))}
    page = np.asarray(plot_losses(series))
    for strong, _ in LINE_COLOURS:
        assert len(where(page[TOP:], strong)[0]) > 50
    with pytest.raises(ValueError, match="colours"):
        plot_losses({**series, "more": [(0, 1.0)]})


def test_one_point_is_a_dot() -> None:
    page = np.asarray(plot_losses({"instance": [(1, 0.5)]}))
    assert len(where(page[TOP:], LINE_COLOURS[0][0])[0]) > 20
