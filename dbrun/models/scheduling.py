"""A base's scheduler config: what of it can be trained here, and what a trained denoiser changes in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from dbrun.diffusion.prediction import BetaSchedule, DdpmPrediction, PredictionType
from dbrun.errors import RecipeError
from dbrun.models.configs import wrong_setting

LEARNED_VARIANCE = ("learned", "learned_range")
VARIANCE_PRESERVING = (
    "DDIMParallelScheduler", "DDIMScheduler", "DDPMParallelScheduler", "DDPMScheduler", "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler", "DPMSolverSDEScheduler", "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LMSDiscreteScheduler", "PNDMScheduler",
    "SASolverScheduler", "UniPCMultistepScheduler")
"""diffusers' schedulers of a variance-preserving process with betas. Left out: those of flow matching, EDM and
consistency models, whose denoisers were trained on another equation."""
FLOW_MATCHING = ("FlowMatchEulerDiscreteScheduler",)
"""diffusers' schedulers of flow matching."""
OTHER_PROCESSES: Mapping[tuple[str, ...], str] = {
    ("EDM", "CosineDPMSolver"): "the noise levels of EDM (Karras et al. 2022), as Playground v2.5 has them",
    ("FlowMatch", "FlowMapEuler"): "flow matching, a straight path from picture to noise",
    ("LCM", "TCD", "CMStochastic"): "a consistency model, distilled to draw in a few steps"}
"""Beginnings of the class names of other schedulers → what a base with such a one was trained on."""
KNOWN_WORDS: Mapping[str, tuple[object, ...]] = {
    "prediction_type": get_args(DdpmPrediction), "beta_schedule": get_args(BetaSchedule),
    # these samplers can also run on another process, and only these flags say so
    "use_flow_sigmas": (False, None), "timestep_type": ("discrete",), "rescale_betas_zero_snr": (False, True, None)}
"""Key of a scheduler config → the values that training can follow; diffusers' defaults are among them."""
KNOWN_FLOW_WORDS: Mapping[str, tuple[object, ...]] = {
    "use_dynamic_shifting": (False, True), "time_shift_type": ("exponential", "linear"),
    # backwards, from the sample to the noise
    "invert_sigmas": (False, None)}
"""The same for a scheduler of flow matching."""
MAX_TIMESTEPS = 100_000
"""Most timesteps of a process; the published ones have 1000."""
MAX_SHIFT = 100.0
"""Largest shift of a scheduler of flow matching; the published ones have at most 6."""
MAX_TOKENS = 10**7
"""Most tokens of a picture that a scheduler of flow matching names; the published ones have at most 16,384."""


def check_scheduler_config(config: Mapping[str, Any], file: object, classes: Sequence[str],
                           loaded_class: str | None) -> None:
    """Raise RecipeError for a scheduler of another process than the one that training follows.

    file: of the config, for messages; classes: allowed values of `_class_name`; loaded_class: the class that
    model_index.json names, which diffusers loads whatever the config says.
    """
    names = [name for name in (loaded_class, config.get("_class_name")) if name is not None]
    if not names:
        raise RecipeError(f"{file} of the base names no scheduler (`_class_name`)", fix="fetch the whole base again")
    for name in names:
        if name not in classes:
            raise RecipeError(f"the scheduler of the base is {str(name)[:60]} ({file}): {_other_process(str(name))}; "
                              f"allowed: {', '.join(classes)}",
                              fix="choose a base that one of these schedulers samples")
    flow = set(classes) <= set(FLOW_MATCHING)
    for key, allowed in (KNOWN_FLOW_WORDS if flow else KNOWN_WORDS).items():
        # as JSON, since in Python 0 equals false
        words = [json.dumps(value) for value in allowed]
        if key in config and json.dumps(config[key]) not in words:
            raise wrong_setting(file, key, config[key], ", ".join(words))
    steps = config.get("num_train_timesteps", 1000)
    if not _is_count(steps, MAX_TIMESTEPS):
        raise wrong_setting(file, "num_train_timesteps", steps, f"a whole number from 1 to {MAX_TIMESTEPS}")
    if flow:
        _check_shift(config, file)
    else:
        _check_betas(config, file)


def _is_count(value: object, most: int) -> bool:
    """Whether a value is a whole number from 1 to most."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _check_shift(config: Mapping[str, Any], file: object) -> None:
    """Raise RecipeError where the numbers of the shift are none."""
    for key, lowest in (("shift", 0.0), ("base_shift", -MAX_SHIFT), ("max_shift", -MAX_SHIFT)):
        value = config.get(key, 1.0)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        # false for nan
        if not (number and lowest < value <= MAX_SHIFT):
            raise wrong_setting(file, key, value, f"a number above {lowest:g}, at most {MAX_SHIFT:g}")
    fewest, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    for key, value in (("base_image_seq_len", fewest), ("max_image_seq_len", most)):
        if not _is_count(value, MAX_TOKENS):
            raise wrong_setting(file, key, value, f"a whole number from 1 to {MAX_TOKENS}")
    if fewest >= most:
        raise wrong_setting(file, "max_image_seq_len", most, f"a number above `base_image_seq_len`, {fewest}")


def _other_process(scheduler: str) -> str:
    """What a scheduler of another class says of its base, a clause."""
    for beginnings, process in OTHER_PROCESSES.items():
        if scheduler.startswith(beginnings):
            return f"the base was trained on {process}, and this `base.type` trains on another process"
    return "it may follow another equation than the training here"


def _check_betas(config: Mapping[str, Any], file: object) -> None:
    """Raise RecipeError where the numbers of the noise schedule are none."""
    betas = config.get("trained_betas")
    if betas is not None and not (isinstance(betas, list) and betas and all(map(_is_beta, betas))):
        raise wrong_setting(file, "trained_betas", betas, "a list of numbers from 0 to 1, or null")
    for key in ("beta_start", "beta_end"):
        if not _is_beta(config.get(key, 0.01)):
            raise wrong_setting(file, key, config[key], "a number from 0 to 1")


def _is_beta(value: object) -> bool:
    # false for nan
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def published_prediction(config: Mapping[str, Any]) -> str:
    """What a base predicts, as `modelspec` writes it: `v`, `epsilon`. config: of its scheduler."""
    return str(config.get("prediction_type", "epsilon")).removesuffix("_prediction")


def scheduler_changes(config: Mapping[str, Any], prediction: PredictionType | None,
                      zero_terminal_snr: bool) -> dict[str, object]:
    """Changes to a base's scheduler config for sampling with the trained denoiser; empty where none is needed.

    prediction: the prediction type that was trained, None for the base's own; zero_terminal_snr: whether training used
    betas that were rescaled to no signal at the last timestep.
    """
    changes: dict[str, object] = {}
    # flow matching has one prediction type, which its scheduler's config does not name
    if prediction not in (None, "flow", config.get("prediction_type", "epsilon")):
        changes["prediction_type"] = prediction
    # with no signal at the last timestep, sampling has to start at exactly that one, which only trailing spacing does
    # (Lin et al. 2023, arXiv:2305.08891, section 3.3)
    if zero_terminal_snr and not config.get("rescale_betas_zero_snr"):
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    # training drops the variance channels, so the learned variance no longer fits the changed denoiser
    if config.get("variance_type") in LEARNED_VARIANCE:
        changes["variance_type"] = "fixed_small"
    return changes
