"""Is each weighting that of its paper, under every prediction?"""

import math
from typing import get_args

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_loss_weighting_for_sd3, compute_snr
from option_settings import in_file_of, smallest

from dbrun.diffusion.ddpm import DiffusionProcess
from dbrun.diffusion.flow import FlowMatching
from dbrun.diffusion.prediction import DdpmPrediction, PredictionType
from dbrun.options.objective import Objective
from dbrun.options.weightings import (
    CosMap,
    Debiased,
    MinSnr,
    SigmaSqrt,
    SoftMinSnr,
    Unweighted,
    Weighting,
    weighting_types,
)

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PREDICTIONS = get_args(DdpmPrediction)
OWN = [Unweighted(), MinSnr(type="min_snr"), MinSnr(type="min_snr", gamma=1.0), SoftMinSnr(type="soft_min_snr"),
       SoftMinSnr(type="soft_min_snr", gamma=2.0), Debiased(type="debiased")]
FLOW = [SigmaSqrt(type="sigma_sqrt"), SigmaSqrt(type="sigma_sqrt", cap=4.0), CosMap(type="cosmap")]
"""Those that have a meaning under flow matching only."""
EVERY = [*OWN, *(smallest(kind) for kind in weighting_types()
                 if not in_file_of(kind, Weighting) and "ddpm" in kind.processes)]
"""Those of the file, and each that has a file of its own."""
CLOSED = {
    ("none", "epsilon"): lambda r, g: 1.0, ("none", "v_prediction"): lambda r, g: 1.0,
    ("none", "sample"): lambda r, g: 1.0,
    ("min_snr", "epsilon"): lambda r, g: min(1.0, g / r), ("min_snr", "v_prediction"): lambda r, g: min(r, g) / (r + 1),
    ("min_snr", "sample"): lambda r, g: min(r, g),
    ("soft_min_snr", "epsilon"): lambda r, g: 1 / (1 + r / g),
    ("soft_min_snr", "v_prediction"): lambda r, g: 1 / ((1 / r + 1 / g) * (r + 1)),
    ("soft_min_snr", "sample"): lambda r, g: 1 / (1 / r + 1 / g),
    ("debiased", "epsilon"): lambda r, g: r ** -0.5, ("debiased", "sample"): lambda r, g: r ** 0.5,
    # alpha sigma, the geometric mean of the two: sqrt(r) / (r + 1) with r = alpha^2 / sigma^2
    ("debiased", "v_prediction"): lambda r, g: math.sqrt(r / (1 + r) * (1 / (1 + r))),
}


def process(prediction: str = "epsilon", **changes: object) -> DiffusionProcess:
    return DiffusionProcess.from_config({**CONFIG, "prediction_type": prediction, **changes})


def test_the_closed_forms_are_for_all_of_them() -> None:
    own = {kind.NAME for kind in weighting_types() if in_file_of(kind, Weighting)}
    assert own == {name for name, _ in CLOSED} | {weighting.NAME for weighting in FLOW}


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("weighting", OWN, ids=str)
def test_closed_form(weighting: Weighting, prediction: PredictionType) -> None:
    t = torch.arange(1000)
    snr = process().snr(t)
    expected = [CLOSED[weighting.NAME, prediction](r, getattr(weighting, "gamma", 0)) for r in snr.tolist()]
    assert weighting.weights(snr, prediction).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weighting", OWN, ids=str)
def test_closed_form_under_flow_matching(weighting: Weighting) -> None:
    """The weight of noise - x0 is that of x0 times sigma², whose closed form has r = ((1 - sigma) / sigma)²."""
    sigmas = [(t + 1) / 1000 for t in range(999)]
    weights = weighting.weights(FlowMatching().snr(torch.arange(999)), "flow")
    expected = [1.0] * len(sigmas)
    if weighting.NAME != "none":
        of_x0, gamma = CLOSED[weighting.NAME, "sample"], getattr(weighting, "gamma", 0)
        expected = [s * s * of_x0(((1 - s) / s) ** 2, gamma) for s in sigmas]
    assert weights.tolist() == pytest.approx(expected, rel=1e-10)


def test_debiased_under_flow_matching_is_sigma_times_what_is_left() -> None:
    """sigma² sqrt(r) = sigma (1 - sigma): nothing at both ends, where noise - x0 says least of the other half."""
    sigma = FlowMatching().sigma(torch.arange(1000))
    weights = Debiased(type="debiased").weights(FlowMatching().snr(torch.arange(1000)), "flow")
    torch.testing.assert_close(weights, sigma * (1 - sigma), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("weighting", FLOW, ids=str)
def test_a_weighting_of_flow_is_that_of_diffusers(weighting: Weighting) -> None:
    process = FlowMatching()
    theirs = compute_loss_weighting_for_sd3(weighting.NAME, process.sigma(torch.arange(1000)))
    ours = weighting.weights(process.snr(torch.arange(1000)), "flow")
    if isinstance(weighting, SigmaSqrt):
        theirs = theirs.clamp(max=weighting.cap)
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=1e-6, atol=0)
    assert weighting.processes == ("flow",) and not weighting.needs_nonzero_snr("flow")


@pytest.mark.parametrize("weighting", [w for w in EVERY if w.NAME != "none"], ids=str)
def test_the_weighted_error_under_flow_matching_is_that_of_x0(weighting: Weighting) -> None:
    """Of one wrong guess of x0, said as noise - x0 (double precision, through the process's own target)."""
    draw = torch.Generator().manual_seed(0)
    x0, noise, wrong = (torch.randn(5, 4, 3, 3, generator=draw, dtype=torch.float64) for _ in range(3))
    of, t = FlowMatching(), torch.tensor([0, 33, 400, 850, 998])
    sigma = of.sigma(t).view(-1, 1, 1, 1)
    guess = (of.add_noise(x0, noise, t) - wrong) / sigma
    error = (of.target(x0, noise, t) - guess).square().flatten(1).mean(1)
    expected = weighting.weights(of.snr(t), "sample") * (x0 - wrong).square().flatten(1).mean(1)
    torch.testing.assert_close(weighting.weights(of.snr(t), "flow") * error, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("weighting", [w for w in EVERY if w.NAME != "none"], ids=str)
def test_the_weighted_error_is_the_same_whatever_is_predicted(weighting: Weighting) -> None:
    """Of one wrong guess of x0, said as noise, as v or as x0 (double precision, through the process's own target)."""
    draw = torch.Generator().manual_seed(0)
    x0, noise, wrong = (torch.randn(5, 4, 3, 3, generator=draw, dtype=torch.float64) for _ in range(3))
    t = torch.tensor([0, 33, 400, 850, 999])
    found = []
    for prediction in PREDICTIONS:
        of = process(prediction)
        x_t = of.add_noise(x0, noise, t)
        a, s = (of.alpha_bar[t] ** 0.5).view(-1, 1, 1, 1), ((1 - of.alpha_bar[t]) ** 0.5).view(-1, 1, 1, 1)
        # the guess of the noise that goes with the guess of x0 under the same x_t
        error = of.target(x0, noise, t) - of.target(wrong, (x_t - a * wrong) / s, t)
        found.append(weighting.weights(of.snr(t), prediction) * error.square().flatten(1).mean(1))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=0)
    torch.testing.assert_close(found[2], found[0], rtol=1e-9, atol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_scripts_rule_is_that_of_the_script(prediction: PredictionType) -> None:
    """`base_weight` of diffusers' train_dreambooth_lora.py, with 1 added under v."""
    t = torch.arange(0, 1000, 7)
    snr = compute_snr(DDPMScheduler(**CONFIG), t)
    expected = torch.stack([snr, 5.0 * torch.ones_like(t)], dim=1).min(dim=1)[0] / snr
    if prediction == "v_prediction":
        expected = expected + 1
    ours = MinSnr(type="min_snr", rule="dreambooth").weights(process().snr(t), prediction)
    torch.testing.assert_close(ours.float(), expected, rtol=1e-4, atol=0)
    assert (MinSnr(type="min_snr").weights(process().snr(t), prediction) == ours).all() == (prediction == "epsilon")


def test_snr_is_that_of_diffusers() -> None:
    t = torch.arange(1000)
    torch.testing.assert_close(process().snr(t).float(), compute_snr(DDPMScheduler(**CONFIG), t), rtol=2e-4, atol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("weighting", [*EVERY, MinSnr(type="min_snr", rule="dreambooth")], ids=str)
def test_what_needs_a_signal_says_so(weighting: Weighting, prediction: PredictionType) -> None:
    """At a timestep without signal, every weighting that says it can do without has a finite weight; no other has."""
    last = process(prediction, rescale_betas_zero_snr=True).snr(torch.tensor([999]))
    assert last.item() == 0.0
    assert FlowMatching().snr(torch.tensor([999])).item() == 0.0
    flow = bool(weighting.weights(last, "flow").isfinite())
    assert flow is not weighting.needs_nonzero_snr("flow")
    finite = bool(weighting.weights(last, prediction).isfinite())
    assert finite is not weighting.needs_nonzero_snr(prediction)


def test_gamma_is_greater_than_zero() -> None:
    for kind in ("min_snr", "soft_min_snr"):
        with pytest.raises(ValueError, match="greater than 0"):
            Objective.model_validate({"weighting": {"type": kind, "gamma": 0.0}})
