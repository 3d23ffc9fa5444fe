"""Does noise other than white have the mean, the spread and the reach that it should?"""

import random

import pytest
import torch

from dbrun.diffusion.noise import offset_noise, pyramid_noise


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def white(seed: int = 0, side: int = 16) -> torch.Tensor:
    return torch.randn(4, side, side, generator=generator(seed))


def test_an_offset_moves_each_channel_by_its_own_number() -> None:
    moved = offset_noise(white(), 0.1, torch.tensor([1.0, -2.0, 0.0, 3.0]).view(4, 1, 1)) - white()
    assert moved.mean([1, 2]).tolist() == pytest.approx([0.1, -0.2, 0.0, 0.3], abs=1e-6)
    assert moved.std(dim=[1, 2]).max() < 1e-6


@pytest.mark.parametrize(("discount", "levels"), [(0.4, 6), (0.9, 10), (0.4, 2)])
def test_a_pyramid_is_that_of_the_report(discount: float, levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report's own loop, fed with the same numbers."""
    source = generator(3)
    monkeypatch.setattr(random, "random", lambda: torch.rand((), generator=source, dtype=torch.float64).item())
    expected = white()[None].clone()
    upsample = torch.nn.Upsample(size=(16, 16), mode="bilinear")
    for i in range(levels):
        r = random.random() * 2 + 2
        w, h = max(1, int(16 / (r ** i))), max(1, int(16 / (r ** i)))
        expected += upsample(torch.randn(1, 4, w, h, generator=source)) * discount ** i
        if w == 1 or h == 1:
            break
    expected = expected / expected.std()
    torch.testing.assert_close(pyramid_noise(white(), discount, levels, generator(3))[None], expected, rtol=1e-6,
                               atol=1e-6)


def test_a_pyramid_has_unit_spread_and_reaches_far() -> None:
    """Neighbours agree more than in white noise, the more so the larger the discount."""
    def agreement(noise: torch.Tensor) -> float:
        return (noise[..., 1:] * noise[..., :-1]).mean().item()

    found = {discount: torch.stack([pyramid_noise(white(i, 32), discount, 8, generator(1000 + i)) for i in range(40)])
             for discount in (0.5, 0.9)}
    for noise in found.values():
        assert noise.std(dim=[1, 2, 3]).tolist() == pytest.approx([1.0] * 40, rel=1e-5)
    plain = agreement(torch.stack([white(i, 32) for i in range(40)]))
    assert abs(plain) < 0.02 < agreement(found[0.5]) < agreement(found[0.9])
    assert agreement(found[0.9]) > 0.3


def test_one_level_is_white() -> None:
    noise = torch.stack([pyramid_noise(white(i), 0.9, 1, generator(99 + i)) for i in range(200)])
    assert abs((noise[..., 1:] * noise[..., :-1]).mean().item()) < 0.01


def test_pictures_that_are_not_square_and_tiny_ones_work() -> None:
    assert pyramid_noise(torch.randn(3, 4, 12, generator=generator()), 0.5, 6, generator()).shape == (3, 4, 12)
    assert pyramid_noise(torch.randn(3, 2, 1, generator=generator()), 0.5, 6, generator()).shape == (3, 2, 1)
