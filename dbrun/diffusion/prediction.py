"""The known words of a diffusion process: what a denoiser predicts, and how its noise grows."""

from __future__ import annotations

from typing import Literal

ProcessKind = Literal["ddpm", "flow"]
"""How samples are noised: preserving their variance (Ho et al. 2020), or along straight lines (flow matching)."""

DdpmPrediction = Literal["epsilon", "v_prediction", "sample"]
"""The noise (Ho et al. 2020), the velocity (Salimans and Ho 2022), or the clean sample; named as in diffusers."""

PredictionType = Literal[DdpmPrediction, "flow"]
"""What a denoiser predicts; flow: noise - x0 (Liu et al. 2022, arXiv:2209.03003), the only one under flow matching."""

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
"""How beta grows with the timestep: linearly, linearly in its root, or so that alpha_bar is a squared cosine; named as
in diffusers."""
