"""Changes of the scheduler's config that a trained denoiser needs when it samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dbrun.diffusion.prediction import PredictionType

LEARNED_VARIANCE = ("learned", "learned_range")


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
