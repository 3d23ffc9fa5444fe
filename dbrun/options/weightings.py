"""How much does a timestep's error count? Weights of the squared error by signal-to-noise ratio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dbrun.config_types import Float, Part, subclasses
from dbrun.diffusion.prediction import PredictionType

if TYPE_CHECKING:
    from torch import Tensor

Gamma = Annotated[Float, Field(gt=0)]


class Weighting(Part):
    """A weight for each timestep, stated for the error of x0 and carried over to what is predicted.

    An error of x0 is one of the noise times 1 / snr and one of v times 1 / (snr + 1), all squared (Salimans and Ho
    2022, arXiv:2202.00512, app. D), so that one weighting means the same under every prediction.
    """

    NAME: ClassVar[str]

    def x0_weights(self, snr: Tensor) -> Tensor:
        """The weight of the squared error of x0; snr, weight: float64 [B]."""
        raise NotImplementedError

    def weights(self, snr: Tensor, prediction: PredictionType) -> Tensor:
        """The weight of the squared error of what is predicted; snr, weight: float64 [B]."""
        of_one = {"epsilon": snr, "v_prediction": snr + 1.0, "sample": snr.new_ones(())}
        return self.x0_weights(snr) / of_one[prediction]

    def needs_nonzero_snr(self, prediction: PredictionType) -> bool:
        """Whether it has no value at a timestep without signal, where snr is 0."""
        return prediction == "epsilon"


class Unweighted(Weighting):
    """Every timestep's squared error counts the same, whatever is predicted."""

    NAME: ClassVar[str] = "none"
    type: Literal["none"] = "none"
    """The weighting."""

    def weights(self, snr: Tensor, prediction: PredictionType) -> Tensor:
        """1."""
        return snr.new_ones(snr.shape)

    def needs_nonzero_snr(self, prediction: PredictionType) -> bool:
        """Never."""
        return False


UNWEIGHTED = Unweighted.from_defaults()


class MinSnr(Weighting):
    """Min-SNR-gamma (Hang et al. 2023, arXiv:2303.09556): min(snr, gamma) on x0."""

    NAME: ClassVar[str] = "min_snr"
    type: Literal["min_snr"]
    """The weighting."""
    gamma: Gamma = 5.0
    """Timesteps with a higher SNR than this count no more than one of this SNR."""
    rule: Literal["paper", "dreambooth"] = "paper"
    """`dreambooth` is that of diffusers' DreamBooth script: under v min(snr, gamma) / snr + 1 in place of the paper's
    min(snr, gamma) / (snr + 1), under sample min(snr, gamma) / snr; under epsilon the two agree."""

    def x0_weights(self, snr: Tensor) -> Tensor:
        """min(snr, gamma)."""
        return snr.clamp(max=self.gamma)

    def weights(self, snr: Tensor, prediction: PredictionType) -> Tensor:
        """As the paper, or as diffusers' DreamBooth script, which weighs epsilon and sample alike and adds 1 for v."""
        if self.rule == "paper":
            return super().weights(snr, prediction)
        return self.x0_weights(snr) / snr + (1.0 if prediction == "v_prediction" else 0.0)

    def needs_nonzero_snr(self, prediction: PredictionType) -> bool:
        """Under epsilon, and always by the script's rule."""
        return self.rule == "dreambooth" or super().needs_nonzero_snr(prediction)


class SoftMinSnr(Weighting):
    """Soft-min-SNR (Crowson et al. 2024, arXiv:2401.11605, section 3.4): snr gamma / (snr + gamma) on x0."""

    NAME: ClassVar[str] = "soft_min_snr"
    type: Literal["soft_min_snr"]
    """The weighting."""
    gamma: Gamma = 5.0
    """The SNR around which the weight levels off."""

    def x0_weights(self, snr: Tensor) -> Tensor:
        """snr gamma / (snr + gamma)."""
        return snr * self.gamma / (snr + self.gamma)


class Debiased(Weighting):
    """Debiased estimation (Yu et al. 2023, arXiv:2310.08442): 1 / sqrt(snr) under epsilon, so sqrt(snr) on x0.

    Under v that is sqrt(snr) / (snr + 1); kohya's scripts use 1 / (snr + 1) there, which is another weighting.
    """

    NAME: ClassVar[str] = "debiased"
    type: Literal["debiased"]
    """The weighting."""

    def x0_weights(self, snr: Tensor) -> Tensor:
        """sqrt(snr)."""
        return snr.sqrt()


def weighting_types() -> tuple[type[Weighting], ...]:
    """Every weighting."""
    return subclasses("dbrun.options", Weighting)
