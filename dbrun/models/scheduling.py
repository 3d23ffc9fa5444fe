"""How does the scheduler that suits a trained denoiser differ from the base's?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dbrun.diffusion.prediction import PredictionType

LEARNED_VARIANCE = ("learned", "learned_range")


def scheduler_changes(config: Mapping[str, Any], prediction: PredictionType | None,
                      zero_terminal_snr: bool) -> dict[str, object]:
    """What a scheduler's config must say otherwise of a denoiser that was trained like this; empty for nothing.

    Without signal at the end, sampling has to begin there, which trailing steps do (Lin et al. 2023,
    arXiv:2305.08891, section 3.3). A variance that the base learned is not learned on, so it is fixed.
    """
    changes: dict[str, object] = {}
    if prediction is not None and prediction != config.get("prediction_type", "epsilon"):
        changes["prediction_type"] = prediction
    if zero_terminal_snr and not config.get("rescale_betas_zero_snr"):
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if config.get("variance_type") in LEARNED_VARIANCE:
        changes["variance_type"] = "fixed_small"
    return changes
