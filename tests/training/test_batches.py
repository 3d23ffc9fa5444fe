"""Is a micro-batch a pure function of its address?"""

import pytest
import torch
from picture_sets import picture_set

from dbrun.models.base import CleanBatch, Randn
from dbrun.options.noise import Pyramid
from dbrun.training import batches as module
from dbrun.training.batches import Batch, Batches, PictureSet
from dbrun.training.noise import Noise


def pictures(name: str, count: int, prompt: int) -> PictureSet:
    """Picture i has moments whose mean is i everywhere."""
    return picture_set(name, [torch.full((4, 2, 2), float(i)) for i in range(count)], [prompt] * count)


def batches(size: int = 4, seed: int = 0, instance: int = 5, classes: int = 7) -> Batches:
    halves = [pictures("instance", instance, 0), pictures("class", classes, 1)]
    return Batches([h for h in halves if h.pictures], seed, size, 1000, lambda rows, randn: CleanBatch(rows[:, :2], {}))


def shown(batch: Batch) -> list[int]:
    return [int(row.flatten()[0]) for row in batch.x0]


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True)) and a[3:] == b[3:]


def test_the_same_address_gives_the_same_batch() -> None:
    assert same(batches()(17), batches()(17))
    for other in (batches()(18), batches(seed=1)(17)):
        assert not torch.equal(batches()(17).noise, other.noise)
        assert not torch.equal(batches()(17).t, other.t)


def test_drawing_uses_no_global_random_state() -> None:
    before = torch.get_rng_state()
    first = batches()(0)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert same(first, batches()(0))


def test_an_epoch_shows_each_picture_once_and_then_another_order() -> None:
    drawn = [picture for n in range(10) for picture in shown(batches()(n))[:4]]
    epochs = [tuple(drawn[i:i + 5]) for i in range(0, 40, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len(set(epochs)) > 3


def test_class_pictures_follow_instance_pictures() -> None:
    batch = batches()(0)
    assert batch.num_instances == 4 and batch.prompts == (0, 0, 0, 0, 1, 1, 1, 1)
    alone = batches(classes=0)(0)
    assert len(alone.x0) == alone.num_instances == 4


def test_the_instance_half_is_the_same_with_and_without_class_pictures() -> None:
    both, alone = batches()(3), batches(classes=0)(3)
    assert torch.equal(both.noise[:4], alone.noise) and torch.equal(both.t[:4], alone.t)


def test_accumulated_pictures_are_those_of_one_larger_batch() -> None:
    large = batches(size=6, classes=0)(1)
    small = [batches(size=2, classes=0)(n) for n in (3, 4, 5)]
    assert torch.equal(large.noise, torch.cat([b.noise for b in small]))
    assert torch.equal(large.t, torch.cat([b.t for b in small]))
    assert shown(large) == [p for b in small for p in shown(b)]


def test_two_rows_never_share_noise_and_timesteps_cover_their_range() -> None:
    drawn = [batches(size=50)(n) for n in range(20)]
    assert len({row.numpy().tobytes() for b in drawn for row in b.noise}) == 2000
    t = torch.cat([b.t for b in drawn])
    assert t.dtype == torch.int64 and t.min() < 10 and t.max() > 989 and abs(t.float().mean() - 500) < 30


def test_the_latent_draw_has_noise_of_its_own() -> None:
    seen = {}

    def draw(rows: torch.Tensor, randn: Randn) -> CleanBatch:
        seen["latents"], seen["other"] = randn("latents", (2, 2, 2)), randn("other", (1,))
        return CleanBatch(rows[:, :2], {"other": seen["other"]})

    batch = Batches([pictures("instance", 5, 0)], 0, 4, 1000, draw)(0)
    assert seen["latents"].shape == batch.noise.shape and not torch.equal(seen["latents"], batch.noise)
    assert batch.extra_conditions == {"other": seen["other"]} and len(seen["other"].unique()) == 4


def test_no_two_draws_share_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything on that draws."""
    seen: list[tuple[str | int, ...]] = []
    draw = module.generator
    monkeypatch.setattr(module, "generator", lambda *address: (seen.append(address), draw(*address))[1])
    half = picture_set("instance", [torch.zeros(4, 2, 2)] * 4, [0, 0], crops=[(0, 1), (2, 3)],
                      variants=[(1, 2), (3, 4)], dropout=[1e-9, 1e-9], empty_prompt=0)
    Batches([half], 0, 4, 1000, lambda rows, randn: CleanBatch(randn("latents", (4, 2, 2)), {}),
            noise=Noise(0.1, 0.1, Pyramid()))(0)
    assert len(seen) == len(set(seen)) == 4 * 9


def of_shapes(name: str, prompt: int, *shapes: tuple[int, int]) -> PictureSet:
    """Picture i is i everywhere."""
    return picture_set(name, [torch.full((4, *shape), float(i)) for i, shape in enumerate(shapes)],
                      [prompt] * len(shapes))


def plain(*halves: PictureSet, size: int = 2) -> Batches:
    return Batches(halves, 0, size, 1000, lambda rows, randn: CleanBatch(rows[:, :2], {}))


def test_halves_of_one_shape_stand_together_and_of_two_apart() -> None:
    made = plain(of_shapes("instance", 0, (2, 2), (2, 4), (2, 4)), of_shapes("class", 1, (2, 2)))
    seen = [made(n) for n in range(2)]
    together, apart = sorted(seen, key=lambda b: b.class_batch is not None)
    assert together.class_batch is None and together.num_instances == 1 and together.prompts == (0, 1, 1)
    assert apart.num_instances == len(apart.x0) == 2 and apart.x0.shape[2:] == (2, 4) and apart.prompts == (0, 0)
    assert apart.class_batch is not None
    assert apart.class_batch.num_instances == 0
    assert apart.class_batch.prompts == (1, 1)
    assert apart.class_batch.x0.shape[2:] == apart.class_batch.noise.shape[2:] == (2, 2)


def test_a_picture_is_seen_in_all_its_ways_and_only_in_its_own() -> None:
    """Ways 10 and 11 show picture 0, way 20 shows picture 1."""
    stored = [torch.full((4, 2, 2), value) for value in (10.0, 11.0, 20.0)]
    made = plain(picture_set("instance", stored, [0, 1], crops=[(0, 1), (2,)]))
    drawn = [(prompt, int(row[0, 0, 0])) for n in range(20) for prompt, row in zip(made(n).prompts, made(n).x0)]
    assert set(drawn) == {(0, 10), (0, 11), (1, 20)} and len(drawn) == 40
    assert same(made(7), made(7))


def test_repeats_make_an_epoch_longer() -> None:
    made = plain(picture_set("instance", [torch.full((4, 2, 2), float(i)) for i in range(2)], [0, 0], repeats=[3, 1]))
    assert sorted(picture for n in range(2) for picture in shown(made(n))) == [0, 0, 0, 1]


def test_places_count_as_their_picture_says_and_elsewhere_all_alike() -> None:
    half = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    stored = [torch.full((4, 2, 2), float(i)) for i in range(2)]
    made = plain(picture_set("instance", stored, [0, 0], loss_masks={1: half}), of_shapes("class", 1, (2, 2)))
    batch = made(0)
    assert batch.loss_mask is not None and batch.loss_mask.shape == (4, 1, 2, 2)
    where = shown(batch)[:2].index(1)
    assert torch.equal(batch.loss_mask[where, 0], half)
    assert batch.loss_mask[[i for i in range(4) if i != where]].unique().tolist() == [1.0]
    assert plain(of_shapes("instance", 0, (2, 2)))(0).loss_mask is None
