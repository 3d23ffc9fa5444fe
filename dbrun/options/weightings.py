"""Loss weightings: the weight of each timestep's squared error, as a function of its signal-to-noise ratio (SNR)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dbrun.config_types import Float, Part, subclasses
from dbrun.diffusion.prediction import PredictionType, ProcessKind

if TYPE_CHECKING:
    from torch import Tensor

Gamma = Annotated[Float, Field(gt=0)]


class Weighting(Part):
    """A weight per timestep, defined for the error of x0 and converted to the predicted quantity.

    The squared error of x0 is that of the noise times 1 / snr, and that of v times 1 / (snr + 1) (Salimans and Ho 2022,
    arXiv:2202.00512, app. D). Under flow matching it is that of noise - x0 times sigma² = 1 / (1 + sqrt(snr))². So one
    weighting means the same under every prediction.
    """

    NAME: ClassVar[str]
    processes: ClassVar[tuple[ProcessKind, ...]] = ("ddpm", "flow")
    """Processes that it is defined for."""

    def x0_weights(self, snr: Tensor) -> Tensor:
        """Weight of the squared error of x0, float64 [B]; snr: float64 [B], at least 0."""
        raise NotImplementedError

    def weights(self, snr: Tensor, prediction: PredictionType) -> Tensor:
        """Weight of the squared error of the predicted quantity, float64 [B]; snr: float64 [B], at least 0."""
        # squared error of the predicted quantity / squared error of x0
        error_ratio = {"epsilon": snr, "v_prediction": snr + 1.0, "sample": snr.new_ones(()),
                       "flow": (1.0 + snr.sqrt()).square()}
        return self.x0_weights(snr) / error_ratio[prediction]

    def needs_nonzero_snr(self, prediction: PredictionType) -> bool:
        """Whether the weight is undefined where the SNR is 0, at a timestep of pure noise."""
        # only epsilon divides by the SNR itself
        return prediction == "epsilon"


class Unweighted(Weighting):
    """The same weight for every timestep, under every prediction."""

    NAME: ClassVar[str] = "none"
    type: Literal["none"] = "none"
    """The weighting."""

    def weights(self, snr: Tensor, prediction: PredictionType) -> Tensor:
        """Ones, float64 [B]."""
        return snr.new_ones(snr.shape)

    def needs_nonzero_snr(self, prediction: PredictionType) -> bool:
        """False: nothing is divided by the SNR."""
        return False


UNWEIGHTED = Unweighted.from_defaults()


class FlowWeighting(Weighting):
    """A weight of the error of noise - x0 by the noise level sigma = 1 / (1 + sqrt(snr)) of flow matching."""

    processes: ClassVar[tuple[ProcessKind, ...]] = ("flow",)

    def flow_weights(self, sigma: Tensor) -> Tensor:
        """Weight of the squared error of noise - x0, float64 [B]; sigma: float64 [B] in (0, 1]."""
        raise NotImplementedError

    def x0_weights(self, snr: Tensor) -> Tensor:
        """The same weight for the error of x0, float64 [B]."""
        sigma = 1.0 / (1.0 + snr.sqrt())
        return self.flow_weights(sigma) / sigma.square()


class SigmaSqrt(FlowWeighting):
    """1 / sigma², by its name in diffusers' scripts: clean timesteps count most. Cut off, since it grows to 1e6."""

    NAME: ClassVar[str] = "sigma_sqrt"
    type: Literal["sigma_sqrt"]
    """The weighting."""
    cap: Annotated[Float, Field(ge=1)] = 100.0
    """Largest weight; that of every timestep below sigma = 1 / sqrt(cap)."""

    def flow_weights(self, sigma: Tensor) -> Tensor:
        """min(1 / sigma², cap), float64 [B]."""
        return (1.0 / sigma.square()).clamp(max=self.cap)


class CosMap(FlowWeighting):
    """2 / (pi (1 - 2 sigma + 2 sigma²)): up to twice as much in the middle (Esser et al. 2024, arXiv:2403.03206)."""

    NAME: ClassVar[str] = "cosmap"
    type: Literal["cosmap"]
    """The weighting."""

    def flow_weights(self, sigma: Tensor) -> Tensor:
        """2 / (pi (1 - 2 sigma + 2 sigma²)), float64 [B]."""
        return 2.0 / (math.pi * (1.0 - 2.0 * sigma + 2.0 * sigma.square()))


class MinSnr(Weighting):
    """Min-SNR-gamma (Hang et al. 2023, arXiv:2303.09556): min(snr, gamma) on x0."""

    NAME: ClassVar[str] = "min_snr"
    type: Literal["min_snr"]
    """The weighting."""
    gamma: Gamma = 5.0
    """Cap of the SNR in the weight: timesteps with a higher SNR count as if they had this one."""
    rule: Literal["paper", "dreambooth"] = "paper"
    """`paper`: as published. `dreambooth`: as in diffusers' DreamBooth script, which differs in two cases. Under
    v_prediction it uses min(snr, gamma) / snr + 1 instead of min(snr, gamma) / (snr + 1); under sample it uses
    min(snr, gamma) / snr instead of min(snr, gamma)."""

    def x0_weights(self, snr: Tensor) -> Tensor:
        """min(snr, gamma), float64 [B]."""
        return snr.clamp(max=self.gamma)

    def weights(self, snr: Tensor, prediction: PredictionType) -> Tensor:
        """Weight by the paper's rule or by that of diffusers' DreamBooth script, float64 [B]."""
        if self.rule == "paper":
            return super().weights(snr, prediction)
        # the script divides by the SNR under every prediction, and adds 1 under v
        weights = self.x0_weights(snr) / snr
        if prediction == "v_prediction":
            weights = weights + 1.0
        return weights

    def needs_nonzero_snr(self, prediction: PredictionType) -> bool:
        """True under epsilon, and under every prediction with `rule: dreambooth`."""
        return self.rule == "dreambooth" or super().needs_nonzero_snr(prediction)


class SoftMinSnr(Weighting):
    """Soft-min-SNR (Crowson et al. 2024, arXiv:2401.11605, section 3.4): snr gamma / (snr + gamma) on x0."""

    NAME: ClassVar[str] = "soft_min_snr"
    type: Literal["soft_min_snr"]
    """The weighting."""
    gamma: Gamma = 5.0
    """SNR around which the weight levels off."""

    def x0_weights(self, snr: Tensor) -> Tensor:
        """snr gamma / (snr + gamma), float64 [B]."""
        return snr * self.gamma / (snr + self.gamma)


class Debiased(Weighting):
    """Debiased estimation (Yu et al. 2023, arXiv:2310.08442): 1 / sqrt(snr) under epsilon, so sqrt(snr) on x0.

    Under v that is sqrt(snr) / (snr + 1); kohya's scripts use 1 / (snr + 1) there, which is another weighting.
    """

    NAME: ClassVar[str] = "debiased"
    type: Literal["debiased"]
    """The weighting."""

    def x0_weights(self, snr: Tensor) -> Tensor:
        """sqrt(snr), float64 [B]."""
        return snr.sqrt()


def weighting_types() -> tuple[type[Weighting], ...]:
    """Every weighting class of this package."""
    return subclasses("dbrun.options", Weighting)
