"""The known words of a diffusion process: what a denoiser predicts, and how its noise grows."""

from __future__ import annotations

from typing import Literal

PredictionType = Literal["epsilon", "v_prediction", "sample"]
"""The noise (Ho et al. 2020), the velocity (Salimans and Ho 2022), or the clean sample; named as in diffusers."""

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
"""How beta grows with the timestep: linearly, linearly in its root, or so that alpha_bar is a squared cosine; named as
in diffusers."""
