"""Is each distribution of timesteps the one that its words name? (empirical, with fixed seeds)"""

import math

import pytest
import torch
from option_settings import in_file_of, smallest

from dbrun.options.timesteps import (
    UNIFORM,
    Early,
    Late,
    LogitNormal,
    Mode,
    ShiftedDistribution,
    Sigmoid,
    TimestepDistribution,
    Uniform,
    Window,
    timestep_distributions,
)

COUNT, T = 20_000, 1000


def drawn(choice: TimestepDistribution, count: int = COUNT, timesteps: int = T, shift: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.cat([choice.sample(timesteps, generator, shift) for _ in range(count)])


def below_mode(u: float, scale: float) -> float:
    """Share of draws of `mode` below u: 1 - v, where v gives u; found by halving, since u falls as v grows."""
    low, high = 0.0, 1.0
    for _ in range(50):
        v = (low + high) / 2
        if 1 - v - scale * (math.cos(math.pi / 2 * v) ** 2 - 1 + v) > u:
            low = v
        else:
            high = v
    return 1 - low


def standard(share: float) -> float:
    return 0.5 * (1 + math.erf(share / math.sqrt(2)))


CASES = [
    (UNIFORM, lambda u: u),
    (Window(type="window", low=200, high=600), lambda u: min(1.0, max(0.0, (u - 0.2) / 0.4))),
    (Late(type="late"), lambda u: u ** 2), (Late(type="late", strength=4.0), lambda u: u ** 4),
    (Early(type="early"), lambda u: 1 - (1 - u) ** 2), (Early(type="early", strength=4.0), lambda u: 1 - (1 - u) ** 4),
    (LogitNormal(type="logit_normal"), lambda u: standard(math.log(u / (1 - u)))),
    (LogitNormal(type="logit_normal", mean=1.0, std=0.5), lambda u: standard((math.log(u / (1 - u)) - 1.0) / 0.5)),
    (Sigmoid(type="sigmoid", scale=1.5), lambda u: standard(math.log(u / (1 - u)) / 1.5)),
    (Mode(type="mode"), lambda u: below_mode(u, 1.29)), (Mode(type="mode", scale=-0.9), lambda u: below_mode(u, -0.9)),
]


@pytest.mark.parametrize(("choice", "distribution"), CASES,
                         ids=lambda c: str(c) if isinstance(c, TimestepDistribution) else "")
def test_the_distribution_function_is_the_one_stated(choice: TimestepDistribution, distribution) -> None:
    """Kolmogorov and Smirnov: at every tenth, the share of draws below it is off by less than 1.95 / sqrt(n)."""
    t = drawn(choice)
    assert t.dtype == torch.int64 and t.min() >= 0 and t.max() < T
    for tenth in range(1, 10):
        below = (t < tenth * T // 10).float().mean().item()
        assert below == pytest.approx(distribution(tenth / 10), abs=1.95 / math.sqrt(COUNT))


@pytest.mark.parametrize("choice", [UNIFORM, LogitNormal(type="logit_normal"), Late(type="late")], ids=str)
@pytest.mark.parametrize("shift", [0.4, 3.0])
def test_a_shift_moves_every_share_of_the_draws(choice: TimestepDistribution, shift: float) -> None:
    """u is below a bound as often as the unshifted u is below the bound that the shift takes there."""
    _, distribution = next(case for case in CASES if case[0] == choice)
    t = drawn(choice, 4000, shift=shift)
    for bound in (0.2, 0.5, 0.8):
        unshifted = bound / (shift - (shift - 1) * bound)
        below = (t < bound * T).float().mean().item()
        assert below == pytest.approx(distribution(unshifted), abs=1.95 / math.sqrt(4000))


def test_only_a_window_has_no_shift_of_its_own() -> None:
    window = Window(type="window", low=3, high=6)
    assert set(drawn(window, 200, shift=3.0).tolist()) == {3, 4, 5} and window.wanted_shift is None
    others = [kind for kind in timestep_distributions() if kind is not Window]
    assert all(issubclass(kind, ShiftedDistribution) for kind in others)
    assert Uniform(type="uniform", shift="resolution").wanted_shift == "resolution"
    assert UNIFORM.wanted_shift is None


def test_every_distribution_of_the_file_is_tried() -> None:
    own = {kind for kind in timestep_distributions() if in_file_of(kind, TimestepDistribution)}
    assert {type(choice) for choice, _ in CASES} == own


@pytest.mark.parametrize("kind", timestep_distributions(), ids=lambda kind: kind.NAME)
def test_every_draw_is_a_timestep_and_follows_from_its_generator(kind: type[TimestepDistribution]) -> None:
    choice = smallest(kind)
    first, again = ([choice.sample(T, torch.Generator().manual_seed(seed)) for seed in range(50)] for _ in range(2))
    for t, same in zip(first, again, strict=True):
        assert t.shape == (1,) and t.dtype == torch.int64 and 0 <= t.item() < T
        assert torch.equal(t, same)


@pytest.mark.parametrize(("choice", "mean"), [(Late(type="late", strength=3.0), 0.75),
                                              (Early(type="early", strength=3.0), 0.25)])
def test_the_mean_is_the_one_documented(choice: TimestepDistribution, mean: float) -> None:
    assert drawn(choice).float().mean().item() / T == pytest.approx(mean, abs=0.006)


def test_uniform_draws_what_it_always_drew() -> None:
    generator = torch.Generator().manual_seed(9)
    expected = torch.randint(1000, (1,), generator=generator)
    assert torch.equal(UNIFORM.sample(1000, torch.Generator().manual_seed(9)), expected)


def test_a_window_holds_its_low_and_not_its_high() -> None:
    assert set(drawn(Window(type="window", low=3, high=6), 200).tolist()) == {3, 4, 5}


def test_a_base_with_few_timesteps_gets_all_of_them() -> None:
    for choice in (UNIFORM, Late(type="late"), Early(type="early"), LogitNormal(type="logit_normal")):
        assert set(drawn(choice, 500, 3).tolist()) == {0, 1, 2}
