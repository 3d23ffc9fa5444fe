"""Does the process noise samples and state targets as the papers and diffusers say?"""

import math
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from dbrun.diffusion.ddpm import DiffusionProcess
from dbrun.errors import RecipeError

STABLE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULES: list[dict[str, Any]] = [
    STABLE, {"beta_schedule": "linear", "num_train_timesteps": 250}, {"beta_schedule": "squaredcos_cap_v2"},
    {**STABLE, "rescale_betas_zero_snr": True}, {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3}]


def sample(count: int, timesteps: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    x0, noise = (torch.randn(count, 4, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    return x0, noise, torch.randint(timesteps, (count,), generator=generator)


@pytest.mark.parametrize("config", SCHEDULES)
def test_noising_is_that_of_diffusers(config: dict[str, Any]) -> None:
    process, reference = DiffusionProcess.from_config(config), DDPMScheduler.from_config(config)
    x0, noise, t = sample(64, process.num_timesteps)
    assert process.num_timesteps == len(reference.alphas_cumprod)
    torch.testing.assert_close(process.alpha_bar.float(), reference.alphas_cumprod, rtol=2e-4, atol=1e-6)
    torch.testing.assert_close(process.add_noise(x0.float(), noise.float(), t),
                               reference.add_noise(x0.float(), noise.float(), t), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", SCHEDULES)
def test_velocity_is_that_of_diffusers(config: dict[str, Any]) -> None:
    config = {**config, "prediction_type": "v_prediction"}
    process, reference = DiffusionProcess.from_config(config), DDPMScheduler.from_config(config)
    x0, noise, t = sample(64, process.num_timesteps)
    torch.testing.assert_close(process.target(x0.float(), noise.float(), t),
                               reference.get_velocity(x0.float(), noise.float(), t), rtol=1e-4, atol=1e-4)


def test_linear_closed_form() -> None:
    """alpha_bar_t is the product of 1 - beta_s, in double precision."""
    process = DiffusionProcess.from_config({"beta_schedule": "linear", "beta_start": 0.01, "beta_end": 0.05,
                                            "num_train_timesteps": 5})
    betas = [0.01, 0.02, 0.03, 0.04, 0.05]
    expected = [math.prod(1 - b for b in betas[: i + 1]) for i in range(5)]
    assert process.alpha_bar.tolist() == pytest.approx(expected, rel=1e-14)
    assert process.snr(torch.tensor([2])).item() == pytest.approx(expected[2] / (1 - expected[2]), rel=1e-14)


def test_what_is_predicted_leads_back_to_the_sample() -> None:
    """x0 and noise follow from x_t and v, to double precision (Salimans and Ho 2022, app. D)."""
    process = DiffusionProcess.from_config({**STABLE, "prediction_type": "v_prediction"})
    x0, noise, t = sample(16, process.num_timesteps)
    x_t, v = process.add_noise(x0, noise, t), process.target(x0, noise, t)
    a = process.alpha_bar[t].sqrt().view(-1, 1, 1, 1)
    s = (1 - process.alpha_bar[t]).sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(a * x_t - s * v, x0, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(s * x_t + a * v, noise, rtol=1e-12, atol=1e-12)


def test_epsilon_and_sample_targets() -> None:
    x0, noise, t = sample(4, 1000)
    assert DiffusionProcess.from_config(STABLE).target(x0, noise, t) is noise
    assert DiffusionProcess.from_config({**STABLE, "prediction_type": "sample"}).target(x0, noise, t) is x0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_factors_are_rounded_but_once(dtype: torch.dtype) -> None:
    """The roots are taken in 64 bits: near 1, what is left to 1 would lose its digits in fewer."""
    process = DiffusionProcess.from_config(STABLE)
    ones, t = torch.ones(1000, 1, 1, 1, dtype=dtype), torch.arange(1000)
    signal, noise = (process.add_noise(a * ones, (1 - a) * ones, t).flatten() for a in (1, 0))
    assert torch.equal(signal, process.alpha_bar.sqrt().to(dtype))
    assert torch.equal(noise, (1.0 - process.alpha_bar).sqrt().to(dtype))


def test_zero_terminal_snr() -> None:
    plain = DiffusionProcess.from_config(STABLE)
    zero = DiffusionProcess.from_config({**STABLE, "rescale_betas_zero_snr": True})
    assert zero.snr(torch.tensor([999])).item() == 0.0
    assert plain.snr(torch.tensor([999])).item() > 0.004
    assert zero.alpha_bar[0].item() == pytest.approx(plain.alpha_bar[0].item(), rel=1e-12)


@pytest.mark.parametrize(("shape", "dtype"), [((2, 4, 8, 8), torch.float32), ((2, 3, 4, 8, 8), torch.bfloat16)])
def test_shape_and_dtype_stay(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x_t = DiffusionProcess.from_config(STABLE).add_noise(torch.ones(shape, dtype=dtype), torch.ones(shape, dtype=dtype),
                                                         torch.tensor([0, 999]))
    assert x_t.shape == shape and x_t.dtype == dtype


@pytest.mark.parametrize(("config", "word"), [({"prediction_type": "flow_prediction"}, "flow_prediction"),
                                              ({"beta_schedule": "sigmoid"}, "sigmoid")])
def test_an_unknown_process_is_refused(config: dict[str, Any], word: str) -> None:
    with pytest.raises(RecipeError, match=word):
        DiffusionProcess.from_config(config)
