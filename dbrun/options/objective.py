"""What a recipe may say of the objective: what is predicted, under which noise, and how the error counts."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from dbrun.config_types import Bool, Float, OrNone, Part, tagged_union
from dbrun.diffusion.prediction import PredictionType
from dbrun.errors import KeyProblem
from dbrun.options import loss_functions, timesteps, weightings
from dbrun.options.noise import Pyramid

AnyWeighting: Any = tagged_union(weightings.weighting_types())
AnyDistance: Any = tagged_union(loss_functions.loss_function_types())
AnyTimesteps: Any = tagged_union(timesteps.timestep_distributions())


class Objective(Part):
    """What the denoiser learns to predict, and how its error counts. Left out, what the base was trained with."""

    NEUTRAL: ClassVar[dict[str, object]] = {
        "prediction": None, "zero_terminal_snr": False, "weighting": weightings.UNWEIGHTED,
        "distance": loss_functions.MSE, "timesteps": timesteps.UNIFORM, "noise_offset": 0.0,
        "input_perturbation": 0.0, "pyramid_noise": None, "unmasked_weight": None}

    prediction: Annotated[PredictionType | None, OrNone] = None
    """What is predicted; left out, as the base's scheduler says. Another one needs long training to be learnt."""
    zero_terminal_snr: Bool = False
    """Rescale the noise schedule so that nothing of the picture is left at its end (Lin et al. 2023), as for a base
    that cannot draw dark or bright pictures; needs v_prediction or sample. false: as the base's scheduler says."""
    weighting: AnyWeighting = weightings.UNWEIGHTED
    """How much each timestep's error counts."""
    distance: AnyDistance = loss_functions.MSE
    """How the error is measured."""
    timesteps: AnyTimesteps = timesteps.UNIFORM
    """Which timesteps are seen, and how often."""
    noise_offset: Annotated[Float, Field(ge=0, le=10)] = 0.0
    """Strength of a random brightness of each channel, added to the noise; 0.05 to 0.1 is usual, 0 is off."""
    input_perturbation: Annotated[Float, Field(ge=0, le=10)] = 0.0
    """Strength of noise that is added to the input only, not to the target; 0.1 is usual, 0 is off."""
    pyramid_noise: Annotated[Pyramid | None, OrNone] = None
    """Noise of several resolutions in place of white noise; left out, white."""
    unmasked_weight: Annotated[Float | None, Field(ge=0, le=1), OrNone] = None
    """With `images.masks`, how much what the mask hides counts beside what it shows; left out, 0.1. The error is the
    mean over the picture under these weights, so that a small subject is learnt as fast as a large one."""


DEFAULT_OBJECTIVE = Objective.from_defaults()
DEFAULT_UNMASKED_WEIGHT = 0.1
"""How much what a mask hides counts where `objective.unmasked_weight` is left out, as in OneTrainer."""


def check_objective(objective: Objective, config: Mapping[str, Any] | None) -> Iterator[KeyProblem]:
    """(dotted key, message, fix) of all that does not fit together.

    config: the base's scheduler config; None while only the recipe is known.
    """
    found = objective.timesteps.find_problem(None if config is None else _num_timesteps(config))
    if found is not None:
        key, message, fix = found
        yield KeyProblem(f"objective.timesteps.{key}", message, fix)
    known = {"prediction_type": None} if config is None else config
    prediction = objective.prediction or known.get("prediction_type", "epsilon")
    if prediction is None or not (objective.zero_terminal_snr or known.get("rescale_betas_zero_snr")):
        return
    asked = "zero_terminal_snr" if objective.zero_terminal_snr else "prediction" if objective.prediction else None
    if prediction == "epsilon" and asked:
        yield KeyProblem(f"objective.{asked}",
                         "found zero terminal SNR together with epsilon: where nothing of the picture is "
                         "left, the noise says nothing about it, and no sampler could begin there",
                         "write `prediction: v_prediction` under `objective`, or take `zero_terminal_snr` away")
    weighting = objective.weighting
    if weighting.needs_nonzero_snr(prediction):
        yield KeyProblem("objective.weighting.type",
                         f"found '{weighting.NAME}' under {prediction} with zero terminal SNR: it "
                         "divides by the SNR, which is 0 at the last timestep, so the loss would be no number",
                         "write `prediction: v_prediction` under `objective` (with `rule: paper`), or "
                         "`weighting: {type: none}`")


def _num_timesteps(config: Mapping[str, Any]) -> int:
    betas = config.get("trained_betas")
    return len(betas) if betas is not None else int(config.get("num_train_timesteps", 1000))
