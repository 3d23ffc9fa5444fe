"""Has a picture in each draw one of its prompts, or the empty one, as often as asked and always alike?"""

from typing import Any

import torch
from picture_sets import picture_set

from dbrun.models.base import CleanBatch
from dbrun.training.batches import Batches

VARIED = {"variants": ((1, 2, 3), (4,)), "dropout": (0.25, 0.0), "empty_prompt": 0}


def batches(varied: dict[str, Any], size: int = 400, seed: int = 0) -> Batches:
    stored = [torch.full((4, 2, 2), float(i)) for i in range(2)]
    halves = [picture_set("instance", stored, (1, 4), **varied), picture_set("class", stored, (5, 5))]
    return Batches(halves, seed, size, 1000, lambda rows, randn: CleanBatch(rows[:, :2], {}))


def drawn(made: Batches, number: int = 0) -> dict[int, list[int]]:
    """Picture → its prompts in a micro-batch's instance rows."""
    batch = made(number)
    found: dict[int, list[int]] = {0: [], 1: []}
    for row, prompt in zip(batch.x0[:batch.num_instances], batch.prompts, strict=False):
        found[int(row.flatten()[0])].append(prompt)
    return found


def test_prompts_and_the_empty_one_come_as_often_as_asked() -> None:
    first, second = drawn(batches(VARIED, 2000)).values()
    shares = [first.count(prompt) / len(first) for prompt in range(4)]
    assert all(abs(share - 0.25) < 0.05 for share in shares), shares
    assert set(second) == {4}


def test_the_class_half_keeps_its_prompts() -> None:
    assert set(batches(VARIED)(0).prompts[400:]) == {5}


def test_a_draw_has_an_address() -> None:
    assert batches(VARIED)(3).prompts == batches(VARIED)(3).prompts != batches(VARIED)(4).prompts
    assert batches(VARIED)(3).prompts != batches(VARIED, seed=1)(3).prompts
    large, small = batches(VARIED, 6)(1), [batches(VARIED, 2)(n) for n in (3, 4, 5)]
    assert large.prompts[:6] == tuple(p for batch in small for p in batch.prompts[:2])


def test_pictures_noise_and_timesteps_do_not_depend_on_the_words() -> None:
    plain, varied = batches({})(0), batches(VARIED)(0)
    assert plain.prompts != varied.prompts
    assert all(torch.equal(a, b) for a, b in zip(plain[:3], varied[:3], strict=True))


def test_dropout_and_variants_go_alone() -> None:
    dropped = drawn(batches({"dropout": (0.5, 0.5), "empty_prompt": 7}))
    assert set(dropped[0]) == {1, 7} and set(dropped[1]) == {4, 7}
    assert set(drawn(batches({"variants": ((1, 2), (4, 3))}))[1]) == {3, 4}
