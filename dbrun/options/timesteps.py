"""Which timesteps does training see, and how often?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dbrun.config_types import Float, Int, Part, subclasses

if TYPE_CHECKING:
    from torch import Generator, Tensor


class TimestepDistribution(Part):
    """A distribution of timesteps t in [0, T); 0 is the cleanest, T - 1 the noisiest. T is usually 1000."""

    NAME: ClassVar[str]

    def sample(self, timesteps: int, generator: Generator) -> Tensor:
        """One timestep, int64 [1]; timesteps: T."""
        raise NotImplementedError

    def find_problem(self, timesteps: int | None) -> tuple[str, str, str] | None:
        """(key, message, fix) where it does not fit a base of T timesteps, which may not be known yet."""
        return None


class Uniform(TimestepDistribution):
    """Every timestep as often as any other."""

    NAME: ClassVar[str] = "uniform"
    type: Literal["uniform"] = "uniform"
    """The distribution."""

    def sample(self, timesteps: int, generator: Generator) -> Tensor:
        """An integer of [0, T)."""
        import torch

        return torch.randint(timesteps, (1,), generator=generator)


UNIFORM = Uniform.from_defaults()


class Window(TimestepDistribution):
    """Only the timesteps from `low` up to, but without, `high`; each as often as any other."""

    NAME: ClassVar[str] = "window"
    type: Literal["window"]
    """The distribution."""
    low: Annotated[Int, Field(ge=0)]
    """The first timestep that is seen; 0 is the cleanest."""
    high: Annotated[Int, Field(ge=1)]
    """The first timestep that is no longer seen; the base's T (usually 1000) for all to the end."""

    def sample(self, timesteps: int, generator: Generator) -> Tensor:
        """An integer of [low, high)."""
        import torch

        return torch.randint(self.low, self.high, (1,), generator=generator)

    def find_problem(self, timesteps: int | None) -> tuple[str, str, str] | None:
        """An empty window, or one that the base's timesteps end before."""
        if self.low >= self.high:
            return ("low", f"found {self.low} with `high: {self.high}`: no timestep lies between them",
                    f"write a `low` below {self.high}, or a `high` above {self.low}")
        if timesteps is not None and self.high > timesteps:
            return "high", f"found {self.high}, but this base has {timesteps} timesteps", f"write `high: {timesteps}`"
        return None


class ContinuousDistribution(TimestepDistribution):
    """A distribution given as a place u in [0, 1), of which t = floor(u T)."""

    def sample_u(self, generator: Generator) -> Tensor:
        """u, float64 [1]."""
        raise NotImplementedError

    def sample(self, timesteps: int, generator: Generator) -> Tensor:
        """floor(u T)."""
        return (self.sample_u(generator) * timesteps).long().clamp(max=timesteps - 1)


class BiasedDistribution(ContinuousDistribution):
    """More of one end."""

    strength: Annotated[Float, Field(gt=1, le=100)] = 2.0
    """s of the density s u^(s-1): the end's mean share of T is s / (s + 1); 1 would be uniform."""

    def sample_u(self, generator: Generator) -> Tensor:
        """The inverse of the distribution function u^s, of a uniform number."""
        import torch

        uniform = torch.rand((1,), generator=generator, dtype=torch.float64)
        return uniform.pow(1.0 / self.strength)


class Late(BiasedDistribution):
    """More of the noisy timesteps, which decide on the composition: u is of Beta(s, 1), with mean s / (s + 1)."""

    NAME: ClassVar[str] = "late"
    type: Literal["late"]
    """The distribution."""


class Early(BiasedDistribution):
    """More of the clean timesteps, which decide on fine detail: u is of Beta(1, s), with mean 1 / (s + 1)."""

    NAME: ClassVar[str] = "early"
    type: Literal["early"]
    """The distribution."""

    def sample_u(self, generator: Generator) -> Tensor:
        """The mirror image of `late`."""
        return 1.0 - super().sample_u(generator)


class LogitNormal(ContinuousDistribution):
    """More of the middle: the logit of u is normal (Esser et al. 2024, arXiv:2403.03206, section 3.1)."""

    NAME: ClassVar[str] = "logit_normal"
    type: Literal["logit_normal"]
    """The distribution."""
    mean: Annotated[Float, Field(ge=-10, le=10)] = 0.0
    """Mean of the logit; below 0 for cleaner, above for noisier timesteps."""
    std: Annotated[Float, Field(gt=0, le=10)] = 1.0
    """Standard deviation of the logit."""

    def sample_u(self, generator: Generator) -> Tensor:
        """The logistic function of a normal number."""
        import torch

        normal = torch.randn((1,), generator=generator, dtype=torch.float64)
        return torch.sigmoid(self.mean + self.std * normal)


def timestep_distributions() -> tuple[type[TimestepDistribution], ...]:
    """Every distribution of timesteps."""
    return subclasses("dbrun.options", TimestepDistribution)
