"""Does flow matching noise samples, state targets and shift timesteps as diffusers' schedulers and scripts do?"""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from dbrun.diffusion.flow import FlowMatching, resolution_shift, shifted

T = torch.arange(1000)
DEV = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256,
       "max_image_seq_len": 4096}
"""The scheduler of FLUX.1 dev."""


def sample() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(7)
    x0, noise = (torch.randn(1000, 4, 2, 3, generator=draw) for _ in range(2))
    return x0, noise


def test_noising_is_that_of_diffusers() -> None:
    """`scale_noise` at each of the 1000 timesteps of an unshifted scheduler, which it counts from the noisiest."""
    reference = FlowMatchEulerDiscreteScheduler()
    x0, noise = sample()
    theirs = reference.scale_noise(x0, reference.timesteps.flip(0), noise)
    torch.testing.assert_close(FlowMatching().add_noise(x0, noise, T), theirs, rtol=0, atol=3e-7)


def test_the_sample_follows_from_what_is_predicted() -> None:
    """x0 = x_t - sigma (noise - x0), in double precision."""
    process = FlowMatching(250)
    x0, noise = (tensor[:250].double() for tensor in sample())
    t = torch.arange(250)
    x_t, speed = process.add_noise(x0, noise, t), process.target(x0, noise, t)
    sigma = process.sigma(t).view(-1, 1, 1, 1)
    torch.testing.assert_close(x_t - sigma * speed, x0, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(x_t + (1 - sigma) * speed, noise, rtol=1e-12, atol=1e-12)


def test_snr_closed_form_is_zero_at_the_last_timestep() -> None:
    expected = [((1 - s) / s) ** 2 for s in ((t + 1) / 1000 for t in range(1000))]
    assert FlowMatching().snr(T).tolist() == pytest.approx(expected, rel=1e-12)
    assert FlowMatching().snr(T)[-1].item() == 0.0 and FlowMatching().snr(T).dtype == torch.float64


def test_it_follows_from_the_scheduler_and_its_dtypes_stay() -> None:
    process = FlowMatching.from_config({"num_train_timesteps": 20})
    assert process.num_timesteps == 20 and process.prediction == "flow"
    x_t = process.add_noise(torch.ones(2, 4, 3, 2, dtype=torch.bfloat16), torch.zeros(2, 4, 3, 2, dtype=torch.bfloat16),
                            torch.tensor([0, 19]))
    assert x_t.dtype == torch.bfloat16
    assert x_t[0, 0, 0, 0].item() == pytest.approx(0.95, rel=2**-8) and x_t[1].abs().max().item() == 0.0


def test_a_fixed_shift_is_that_of_diffusers() -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0).sigmas.flip(0)
    torch.testing.assert_close(shifted(FlowMatching().sigma(T), 3.0).float(), theirs, rtol=0, atol=2e-7)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("tokens", [64, 256, 1024, 4096, 9216])
def test_the_shift_by_resolution_is_that_of_the_pipeline(tokens: int, kind: str) -> None:
    """`calculate_shift` of the pipeline and `time_shift` of the scheduler, which are used one after the other."""
    config = {**DEV, "time_shift_type": kind}
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    sigma = FlowMatching().sigma(T)
    theirs = scheduler.time_shift(calculate_shift(tokens), 1.0, sigma)
    torch.testing.assert_close(shifted(sigma, resolution_shift(config, tokens)), theirs, rtol=1e-12, atol=0)


def test_the_published_shifts_of_flux() -> None:
    assert math.log(resolution_shift(DEV, 256)) == pytest.approx(0.5)
    assert math.log(resolution_shift(DEV, 4096)) == pytest.approx(1.15)


def test_the_ends_stay_and_one_is_no_shift() -> None:
    u = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    assert shifted(u, 3.0).tolist() == [0.0, 0.5, 1.0] and torch.equal(shifted(u, 1.0), u)
