"""The recipe section `objective`: what the denoiser predicts, under which noise, and how its error is weighted."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from dbrun.config_types import Bool, Float, OrNone, Part, tagged_union
from dbrun.diffusion.prediction import PredictionType, ProcessKind
from dbrun.errors import KeyProblem
from dbrun.options import loss_functions, timesteps, weightings
from dbrun.options.noise import Pyramid

AnyWeighting: Any = tagged_union(weightings.weighting_types())
AnyDistance: Any = tagged_union(loss_functions.loss_function_types())
AnyTimesteps: Any = tagged_union(timesteps.timestep_distributions())


class Objective(Part):
    """What the denoiser learns to predict, and how its error counts. Left out, what the base was trained with."""

    # each of these options came after results were in stores; left out of the key, those results stay valid
    NEUTRAL: ClassVar[dict[str, object]] = {
        "prediction": None, "zero_terminal_snr": False, "weighting": weightings.UNWEIGHTED,
        "distance": loss_functions.MSE, "timesteps": timesteps.UNIFORM, "noise_offset": 0.0,
        "input_perturbation": 0.0, "pyramid_noise": None, "unmasked_weight": None}

    prediction: Annotated[PredictionType | None, OrNone] = None
    """What the denoiser predicts; left out, what the base's scheduler says. Changing it needs long training."""
    zero_terminal_snr: Bool = False
    """Rescale the noise schedule so that the last timestep is pure noise (zero terminal SNR, Lin et al. 2023): for a
    base that cannot draw very dark or very bright pictures. Needs v_prediction or sample. false: as the base's
    scheduler says."""
    weighting: AnyWeighting = weightings.UNWEIGHTED
    """How much the error at each timestep counts."""
    distance: AnyDistance = loss_functions.MSE
    """How the error is measured."""
    timesteps: AnyTimesteps = timesteps.UNIFORM
    """Which timesteps are drawn, and how often."""
    noise_offset: Annotated[Float, Field(ge=0, le=10)] = 0.0
    """Strength of a random brightness per channel that is added to the noise; 0.05 to 0.1 is usual, 0 is off."""
    input_perturbation: Annotated[Float, Field(ge=0, le=10)] = 0.0
    """Strength of noise that is added to the input but not to the target; 0.1 is usual, 0 is off."""
    pyramid_noise: Annotated[Pyramid | None, OrNone] = None
    """Multi-resolution noise instead of white noise; left out, white noise."""
    unmasked_weight: Annotated[Float | None, Field(ge=0, le=1), OrNone] = None
    """With `images.masks`, the weight of the area outside the mask; the area inside counts 1. Left out, 0.1. The error
    is the weighted mean over the picture, so that a small subject is learnt as fast as a large one."""


DEFAULT_OBJECTIVE = Objective.from_defaults()
DEFAULT_UNMASKED_WEIGHT = 0.1
"""Weight of the area outside a mask where `objective.unmasked_weight` is left out; OneTrainer's default."""


def check_objective(objective: Objective, process: ProcessKind,
                    config: Mapping[str, Any] | None) -> Iterator[KeyProblem]:
    """Problems of the objective: settings that contradict each other, or the base.

    process: the family's; config: the base's scheduler config, None while only the recipe is known.
    """
    if process == "flow":
        yield from _flow_problems(objective, config)
        return
    yield from _ddpm_problems(objective)
    num_timesteps, base_prediction, base_zero_snr = None, None, False
    if config is not None:
        num_timesteps = _num_timesteps(config)
        # diffusers leaves a setting out of the config where it has its default
        base_prediction = config.get("prediction_type", "epsilon")
        base_zero_snr = bool(config.get("rescale_betas_zero_snr"))
    unfit = objective.timesteps.find_problem(num_timesteps)
    if unfit is not None:
        key, message, fix = unfit
        yield KeyProblem(f"objective.timesteps.{key}", message, fix)
    prediction = objective.prediction or base_prediction
    # without a base the prediction may be unknown; the check runs again with the base's config
    if prediction is not None and (objective.zero_terminal_snr or base_zero_snr):
        yield from _zero_snr_problems(objective, prediction)


def _flow_problems(objective: Objective, config: Mapping[str, Any] | None) -> Iterator[KeyProblem]:
    """Settings that have no meaning for a base of flow matching."""
    distribution, weighting = objective.timesteps, objective.weighting
    if objective.prediction not in (None, "flow"):
        yield KeyProblem("objective.prediction", f"found '{objective.prediction}', allowed for this base: flow; it was "
                         "trained by flow matching, which predicts noise minus picture", "leave `prediction` out")
    if objective.zero_terminal_snr:
        yield KeyProblem("objective.zero_terminal_snr", "found true, but flow matching has no noise schedule to "
                         "rescale: its last timestep is pure noise anyway", "leave `zero_terminal_snr` out")
    if weighting.needs_nonzero_snr("flow"):
        yield KeyProblem("objective.weighting.rule", "found 'dreambooth', which divides by the signal-to-noise ratio: "
                         "under flow matching it is 0 at the last timestep, so the loss would not be a number",
                         "write `rule: paper`")
    unfit = distribution.find_problem(None if config is None else _num_timesteps(config))
    if unfit is not None:
        key, message, fix = unfit
        yield KeyProblem(f"objective.timesteps.{key}", message, fix)
    fixed = config is not None and not config.get("use_dynamic_shifting")
    if fixed and distribution.wanted_shift == "resolution":
        yield KeyProblem("objective.timesteps.shift", "found 'resolution', but the scheduler of this base has the same "
                         f"shift for all sizes, {(config or {}).get('shift', 1.0):g}",
                         "leave `shift` out for that, or write a number")


def _ddpm_problems(objective: Objective) -> Iterator[KeyProblem]:
    """Settings that have a meaning for a base of flow matching only."""
    if objective.prediction == "flow":
        yield KeyProblem("objective.prediction", "found 'flow', allowed for this base: epsilon, v_prediction, sample; "
                         "it was not trained by flow matching", "leave `prediction` out")
    if objective.timesteps.wanted_shift is not None:
        yield KeyProblem("objective.timesteps.shift", f"found {objective.timesteps.wanted_shift!r}, but only bases of "
                         "flow matching have a shift", "leave `shift` out; `type: late` draws noisy timesteps more "
                         "often")
    if "ddpm" not in objective.weighting.processes:
        yield KeyProblem("objective.weighting.type", f"found '{objective.weighting.NAME}', which is for bases of flow "
                         "matching", "write `weighting: {type: min_snr}`, or leave `weighting` out")


def _zero_snr_problems(objective: Objective, prediction: PredictionType) -> Iterator[KeyProblem]:
    """Problems at a last timestep of pure noise, where the signal-to-noise ratio is 0."""
    # a base may itself combine epsilon and zero SNR; only what the recipe asks for is refused
    cause = None
    if objective.zero_terminal_snr:
        cause = "zero_terminal_snr"
    elif objective.prediction:
        cause = "prediction"
    if prediction == "epsilon" and cause:
        yield KeyProblem(f"objective.{cause}",
                         "found zero terminal SNR together with epsilon: the last timestep is pure noise, so the noise "
                         "says nothing about the picture, and no sampler could start there",
                         "write `prediction: v_prediction` under `objective`, or remove `zero_terminal_snr`")
    weighting = objective.weighting
    if weighting.needs_nonzero_snr(prediction):
        yield KeyProblem("objective.weighting.type",
                         f"found '{weighting.NAME}' under {prediction} with zero terminal SNR: it "
                         "divides by the SNR, which is 0 at the last timestep, so the loss would not be a number",
                         "write `prediction: v_prediction` under `objective` (with `rule: paper`), or "
                         "`weighting: {type: none}`")


def _num_timesteps(config: Mapping[str, Any]) -> int:
    betas = config.get("trained_betas")
    if betas is not None:
        return len(betas)
    return int(config.get("num_train_timesteps", 1000))
