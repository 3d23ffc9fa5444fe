"""Is each distance what its words say?"""

import math

import pytest
import torch
from option_settings import smallest
from torch.nn import functional

from dbrun.diffusion.ddpm import DiffusionProcess
from dbrun.diffusion.flow import FlowMatching
from dbrun.options.loss_functions import MSE, AbsoluteError, Huber, loss_function_types

PROCESS = DiffusionProcess.from_config({"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"})
T = torch.tensor([0, 250, 500, 999])
SCHEDULES = {
    "constant": lambda delta, t, sigma: delta,
    # kohya's and diffusers' scheduled Huber loss: exp(-alpha t) with alpha = -ln(delta) / T
    "exponential": lambda delta, t, sigma: math.exp(math.log(delta) / 1000 * t),
    "snr": lambda delta, t, sigma: (1 - delta) / (1 + sigma) ** 2 + delta,
}


def pair(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    pred, target = (torch.randn(4, 3, 5, 5, generator=draw, dtype=torch.float64) for _ in range(2))
    return pred.to(dtype), target.to(dtype)


def test_mse_and_l1_are_those_of_torch() -> None:
    pred, target = pair()
    for ours, theirs in ((MSE, functional.mse_loss), (AbsoluteError(type="l1"), functional.l1_loss)):
        expected = theirs(pred, target, reduction="none").mean([1, 2, 3])
        torch.testing.assert_close(ours.per_sample(pred, target, T, PROCESS), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("delta", [0.1, 0.5])
def test_huber_closed_form_in_float64(schedule: str, delta: float) -> None:
    pred, target = pair(torch.float64)
    huber = Huber(type="huber", delta=delta, schedule=schedule)
    expected = []
    for row, t in enumerate(T.tolist()):
        alpha_bar = PROCESS.alpha_bar[t].item()
        c = SCHEDULES[schedule](delta, t, math.sqrt((1 - alpha_bar) / alpha_bar))
        assert huber.deltas(T, PROCESS)[row].item() == pytest.approx(c, rel=1e-12)
        each = [2 * c * (math.sqrt(d * d + c * c) - c) for d in (pred[row] - target[row]).flatten().tolist()]
        expected.append(sum(each) / len(each))
    assert huber.per_sample(pred, target, T, PROCESS).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("delta", [0.1, 0.5])
def test_huber_closed_form_under_flow_matching(delta: float) -> None:
    """1 / (1 + noise / signal) = 1 - sigma, so that delta falls with its square to `delta` at pure noise."""
    process, t = FlowMatching(), torch.arange(1000)
    sigma = process.sigma(t)
    by_snr = Huber(type="huber", delta=delta, schedule="snr").deltas(t, process)
    torch.testing.assert_close(by_snr, (1 - delta) * (1 - sigma).square() + delta, rtol=1e-12, atol=0)
    exponential = Huber(type="huber", delta=delta, schedule="exponential").deltas(t, process)
    assert exponential.tolist() == pytest.approx([SCHEDULES["exponential"](delta, k, 0.0) for k in range(1000)])


def test_huber_is_squared_for_small_and_straight_for_large_differences() -> None:
    huber = Huber(type="huber", delta=0.1, schedule="constant")
    for difference, expected in ((1e-4, 1e-8), (1e3, 2 * 0.1 * (1e3 - 0.1))):
        pred = torch.full((1, 4), difference)
        found = huber.per_sample(pred, torch.zeros(1, 4), T[:1], PROCESS).item()
        assert found == pytest.approx(expected, rel=1e-5)


def test_without_signal_huber_has_a_delta() -> None:
    zero = DiffusionProcess.from_config({"beta_schedule": "linear", "rescale_betas_zero_snr": True})
    for schedule in SCHEDULES:
        delta = Huber(type="huber", schedule=schedule).deltas(torch.tensor([999]), zero).item()
        assert 0.1 <= delta < 0.11


@pytest.mark.parametrize("kind", loss_function_types(), ids=lambda k: k.NAME)
def test_every_distance_is_computed_in_float32(kind) -> None:
    far = smallest(kind).per_sample(torch.full((2, 4), 300.0, dtype=torch.float16), torch.zeros(2, 4), T[:2],
                                          PROCESS)
    assert far.dtype == torch.float32 and far.shape == (2,) and bool(far.isfinite().all())
