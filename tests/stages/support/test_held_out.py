"""Are the held-out pictures chosen by what they show and by the seed, and by nothing else?"""

import pytest

from dbrun.models.base import Sampling
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.sources import BaseSource, Picture, Sources
from dbrun.stages.support.held_out import held_out_indices
from dbrun.stages.train import Train

BASE = BaseSource("files:x", "sd", None, None, {}, Sampling(2, 2.0))


def recipe(share: float | None = 0.25, seed: int = 0) -> Recipe:
    train = {} if share is None else {"held_out": {"share": share}}
    return Recipe.model_validate({
        "schema": "dbrun/v1", "name": "x", "base": {"path": "base"}, "train": train, "seed": seed,
        "subject": {"images": "pictures", "instance_prompt": "a photo of sks dog"},
        "adapt": {"denoiser": {"type": "lora"}}})


def pictures(*numbers: int) -> tuple[Picture, ...]:
    return tuple(Picture(f"{number * 7919 % 1000:064}", "a photo of sks dog") for number in numbers)


def chosen(found: tuple[Picture, ...], **how: object) -> set[str]:
    return {found[i].digest for i in held_out_indices(recipe(**how), Sources(BASE, found))}


@pytest.mark.parametrize(("count", "share", "held"), [
    (8, 0.25, 2), (8, 0.01, 1), (3, 0.9, 2), (2, 0.5, 1), (1, 0.5, 0)])
def test_so_many_are_held_out_and_one_stays(count: int, share: float, held: int) -> None:
    assert len(chosen(pictures(*range(count)), share=share)) == held


def test_without_the_option_none_is() -> None:
    assert held_out_indices(recipe(None), Sources(BASE, pictures(1, 2, 3))) == ()


def test_the_seed_decides_and_neither_order_nor_newcomers_do() -> None:
    found = pictures(*range(12))
    assert chosen(found) == chosen(found[::-1])
    assert len({frozenset(chosen(found, seed=seed)) for seed in range(6)}) > 1
    more = pictures(*range(13))
    assert len(chosen(more) & chosen(found)) >= len(chosen(found)) - 1


def test_a_picture_that_stands_there_twice_is_held_out_twice() -> None:
    found = pictures(*range(4))
    twice = tuple(p for p in found for _ in range(2))
    numbers = held_out_indices(recipe(), Sources(BASE, twice))
    assert len(numbers) == 2 and len({twice[i].digest for i in numbers}) == 1


def test_each_subject_gives_some_and_keeps_some() -> None:
    one, two = pictures(1, 2, 3, 4), pictures(5, 6)
    held = {(one + two)[i].digest
            for i in held_out_indices(recipe(), Sources(BASE, one + two, pictures_by_subject=(one, two)))}
    for own in (one, two):
        assert 1 <= len(held & {p.digest for p in own}) < len(own)


def test_train_is_asked_by_their_numbers() -> None:
    found = Sources(BASE, pictures(*range(8)))
    assert Train().params(recipe(), found).held == held_out_indices(recipe(), found) != ()
