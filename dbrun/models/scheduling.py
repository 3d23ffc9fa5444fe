"""A base's scheduler config: what of it can be trained here, and what a trained denoiser changes in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from dbrun.diffusion.prediction import BetaSchedule, PredictionType
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
KNOWN_WORDS: Mapping[str, tuple[object, ...]] = {
    "prediction_type": get_args(PredictionType), "beta_schedule": get_args(BetaSchedule),
    # these samplers can also run on another process, and only these flags say so
    "use_flow_sigmas": (False, None), "timestep_type": ("discrete",), "rescale_betas_zero_snr": (False, True, None)}
"""Key of a scheduler config → the values that training can follow; diffusers' defaults are among them."""
MAX_TIMESTEPS = 100_000
"""Most timesteps of a process; the published ones have 1000."""


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
            raise RecipeError(f"the scheduler of the base is {str(name)[:60]} ({file}): it may follow another equation "
                              f"than the training here; allowed: {', '.join(classes)}",
                              fix="choose a base that one of these schedulers samples")
    for key, allowed in KNOWN_WORDS.items():
        # as JSON, since in Python 0 equals false
        words = [json.dumps(value) for value in allowed]
        if key in config and json.dumps(config[key]) not in words:
            raise wrong_setting(file, key, config[key], ", ".join(words))
    _check_betas(config, file)


def _check_betas(config: Mapping[str, Any], file: object) -> None:
    """Raise RecipeError where the numbers of the noise schedule are none."""
    betas = config.get("trained_betas")
    if betas is not None and not (isinstance(betas, list) and betas and all(map(_is_beta, betas))):
        raise wrong_setting(file, "trained_betas", betas, "a list of numbers from 0 to 1, or null")
    steps = config.get("num_train_timesteps", 1000)
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_TIMESTEPS:
        raise wrong_setting(file, "num_train_timesteps", steps, f"a whole number from 1 to {MAX_TIMESTEPS}")
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
    if prediction is not None and prediction != config.get("prediction_type", "epsilon"):
        changes["prediction_type"] = prediction
    # with no signal at the last timestep, sampling has to start at exactly that one, which only trailing spacing does
    # (Lin et al. 2023, arXiv:2305.08891, section 3.3)
    if zero_terminal_snr and not config.get("rescale_betas_zero_snr"):
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    # training drops the variance channels, so the learned variance no longer fits the changed denoiser
    if config.get("variance_type") in LEARNED_VARIANCE:
        changes["variance_type"] = "fixed_small"
    return changes
