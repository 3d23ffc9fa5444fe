"""The prediction types: what a denoiser predicts of a noisy sample."""

from __future__ import annotations

from typing import Literal

PredictionType = Literal["epsilon", "v_prediction", "sample"]
"""The noise (Ho et al. 2020), the velocity (Salimans and Ho 2022), or the clean sample; named as in diffusers."""
