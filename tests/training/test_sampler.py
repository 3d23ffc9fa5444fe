"""Do micro-batches hold one shape each, and is every picture seen once an epoch all the same?"""

from collections import Counter

import pytest

from dbrun.training.sampler import Epoch, micro_batch

WIDE, TALL, SQUARE = (2, 4), (4, 2), (3, 3)


def epoch(*shapes: tuple[int, int], seed: int = 0, half: str = "instance") -> Epoch:
    return Epoch(seed, half, tuple(range(len(shapes))), shapes)


MIXED = epoch(*[WIDE] * 5, *[TALL] * 3, SQUARE)
PER_EPOCH = 3 + 2 + 1
"""Micro-batches of two: 5 wide ones make three, 3 tall ones two, the square one one."""


@pytest.mark.parametrize("number", range(3))
def test_micro_batches_hold_one_shape_and_an_epoch_every_picture_once(number: int) -> None:
    seen = [micro_batch(MIXED, 2, number * PER_EPOCH + i) for i in range(PER_EPOCH)]
    assert all(1 <= len(some) <= 2 and len({MIXED.shapes[picture] for _, picture in some}) == 1 for some in seen)
    assert Counter(picture for some in seen for _, picture in some) == dict.fromkeys(range(9), 1)


def test_every_draw_has_an_address_of_its_own_and_they_count_up() -> None:
    positions = [position for i in range(3 * PER_EPOCH) for position, _ in micro_batch(MIXED, 2, i)]
    assert positions == list(range(27))


def test_pictures_and_shapes_come_in_another_order_each_epoch() -> None:
    def shapes(number: int) -> tuple[object, ...]:
        return tuple(MIXED.shapes[micro_batch(MIXED, 2, number * PER_EPOCH + i)[0][1]] for i in range(PER_EPOCH))
    assert len({shapes(number) for number in range(8)}) > 3
    pairs = {tuple(picture for _, picture in micro_batch(MIXED, 2, i)) for i in range(8 * PER_EPOCH)}
    assert len(pairs) > 12


def test_a_micro_batch_depends_on_its_number_alone() -> None:
    late = micro_batch(MIXED, 2, 1000)
    assert late == micro_batch(MIXED, 2, 1000) != micro_batch(MIXED._replace(seed=1), 2, 1000)


def test_one_shape_runs_on_across_epochs_in_full_micro_batches() -> None:
    five = epoch(*[WIDE] * 5)
    seen = [micro_batch(five, 4, i) for i in range(10)]
    assert {len(some) for some in seen} == {4}
    assert Counter(picture for some in seen for _, picture in some) == dict.fromkeys(range(5), 8)


def test_the_halves_are_shuffled_each_by_itself() -> None:
    for shapes in ([WIDE] * 5, MIXED.shapes):
        one, other = ([picture for i in range(20) for _, picture in micro_batch(epoch(*shapes, half=half), 2, i)]
                      for half in ("instance", "class"))
        assert one != other


def test_a_repeated_picture_is_seen_as_often() -> None:
    twice = Epoch(0, "instance", (0, 1, 1, 2), (WIDE, TALL, TALL, WIDE))
    for number in range(3):
        seen = [picture for i in range(2) for _, picture in micro_batch(twice, 2, 2 * number + i)]
        assert Counter(seen) == {0: 1, 1: 2, 2: 1}
