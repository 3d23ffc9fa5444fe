"""Timestep distributions: which timesteps training draws, and how often."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from dbrun.config_types import Float, Int, OrNone, Part, subclasses

if TYPE_CHECKING:
    from torch import Generator, Tensor

MAX_SHIFT = 100.0


def _check_shift(value: str | float) -> str | float:
    if isinstance(value, float) and not 0 < value <= MAX_SHIFT:
        raise PydanticCustomError("wants_shift", "expected none, resolution, or a number above 0, at most {most}",
                                  {"most": f"{MAX_SHIFT:g}"})
    return value


Shift = Annotated[Literal["none", "resolution"] | Float, AfterValidator(_check_shift)]
"""Shift of noise levels: no shift, the base's own by the number of tokens, or a factor."""


class TimestepDistribution(Part):
    """A distribution over timesteps t in [0, T); 0 is the cleanest, T - 1 the noisiest. T is usually 1000."""

    NAME: ClassVar[str]

    def sample(self, timesteps: int, generator: Generator, shift: float = 1.0) -> Tensor:
        """One timestep, int64 [1] in [0, T); timesteps: T; shift: as in `diffusion.flow.shifted`, 1 for none."""
        raise NotImplementedError

    @property
    def wanted_shift(self) -> Shift | None:
        """The recipe's shift; None where it says none, for that of the base."""
        return None

    def find_problem(self, timesteps: int | None) -> tuple[str, str, str] | None:
        """(key, message, fix) where the distribution does not fit T timesteps, else None; timesteps: T, if known."""
        return None


class ShiftedDistribution(TimestepDistribution):
    """A distribution of a continuous u in [0, 1), the noise level, that may be shifted; the timestep is floor(u T)."""

    NEUTRAL: ClassVar[dict[str, object]] = {"shift": None}

    shift: Annotated[Shift | None, OrNone] = None
    """For flow matching, how noise levels are shifted once they are drawn: u becomes a u / (1 + (a - 1) u). `none`: not
    at all; a number: that a, above 1 for noisier timesteps; `resolution`: an a that grows with the size of the picture,
    by the base's scheduler. Left out, as the base was trained."""

    @property
    def wanted_shift(self) -> Shift | None:
        """The field `shift`."""
        return self.shift

    def sample_u(self, generator: Generator) -> Tensor:
        """One u, float64 [1]."""
        raise NotImplementedError

    def sample(self, timesteps: int, generator: Generator, shift: float = 1.0) -> Tensor:
        """floor(u T) of the shifted u, int64 [1]."""
        from dbrun.diffusion.flow import shifted

        u = self.sample_u(generator)
        if shift != 1.0:
            u = shifted(u, shift)
        # u rounds up to 1.0 in rare draws, where floor(u T) would be T
        return (u * timesteps).long().clamp(max=timesteps - 1)


class Uniform(ShiftedDistribution):
    """Every timestep equally often."""

    NAME: ClassVar[str] = "uniform"
    type: Literal["uniform"] = "uniform"
    """The distribution."""

    def sample_u(self, generator: Generator) -> Tensor:
        """A uniform u, float64 [1]."""
        import torch

        return torch.rand((1,), generator=generator, dtype=torch.float64)

    def sample(self, timesteps: int, generator: Generator, shift: float = 1.0) -> Tensor:
        """A uniform integer from [0, T), int64 [1]; with a shift, floor(u T) of the shifted u."""
        import torch

        if shift == 1.0:
            return torch.randint(timesteps, (1,), generator=generator)
        return super().sample(timesteps, generator, shift)


UNIFORM = Uniform.from_defaults()


class Window(TimestepDistribution):
    """Only the timesteps from `low` to `high` - 1, each equally often."""

    NAME: ClassVar[str] = "window"
    type: Literal["window"]
    """The distribution."""
    low: Annotated[Int, Field(ge=0)]
    """First timestep that is drawn; 0 is the cleanest."""
    high: Annotated[Int, Field(ge=1)]
    """First timestep after the window; the base's number of timesteps (usually 1000) for no upper limit."""

    def sample(self, timesteps: int, generator: Generator, shift: float = 1.0) -> Tensor:
        """A uniform integer from [low, high), int64 [1], whatever the shift: the window itself says which."""
        import torch

        return torch.randint(self.low, self.high, (1,), generator=generator)

    def find_problem(self, timesteps: int | None) -> tuple[str, str, str] | None:
        """Problem of an empty window, or of one beyond the base's last timestep."""
        if self.low >= self.high:
            return ("low", f"found {self.low} with `high: {self.high}`: no timestep lies between them",
                    f"write a `low` below {self.high}, or a `high` above {self.low}")
        if timesteps is not None and self.high > timesteps:
            return "high", f"found {self.high}, but this base has {timesteps} timesteps", f"write `high: {timesteps}`"
        return None


class BiasedDistribution(ShiftedDistribution):
    """Timesteps near one end more often than near the other."""

    strength: Annotated[Float, Field(gt=1, le=100)] = 2.0
    """Exponent s of the density s u^(s-1), whose mean is s / (s + 1); 1 would be uniform."""

    def sample_u(self, generator: Generator) -> Tensor:
        """One u of Beta(s, 1), float64 [1], by inverting the distribution function u^s."""
        import torch

        uniform = torch.rand((1,), generator=generator, dtype=torch.float64)
        return uniform.pow(1.0 / self.strength)


class Late(BiasedDistribution):
    """Noisy timesteps more often; they decide the composition. u follows Beta(s, 1), with mean s / (s + 1)."""

    NAME: ClassVar[str] = "late"
    type: Literal["late"]
    """The distribution."""


class Early(BiasedDistribution):
    """Clean timesteps more often; they decide fine detail. u follows Beta(1, s), with mean 1 / (s + 1)."""

    NAME: ClassVar[str] = "early"
    type: Literal["early"]
    """The distribution."""

    def sample_u(self, generator: Generator) -> Tensor:
        """One u of Beta(1, s), float64 [1]: the mirror image of `late`."""
        return 1.0 - super().sample_u(generator)


class LogitNormal(ShiftedDistribution):
    """Middle timesteps more often: the logit of u is normal (Esser et al. 2024, arXiv:2403.03206, section 3.1)."""

    NAME: ClassVar[str] = "logit_normal"
    type: Literal["logit_normal"]
    """The distribution."""
    mean: Annotated[Float, Field(ge=-10, le=10)] = 0.0
    """Mean of the logit; below 0 for cleaner timesteps, above 0 for noisier ones."""
    std: Annotated[Float, Field(gt=0, le=10)] = 1.0
    """Standard deviation of the logit."""

    def sample_u(self, generator: Generator) -> Tensor:
        """One u, float64 [1]: the logistic function of a normal number."""
        import torch

        normal = torch.randn((1,), generator=generator, dtype=torch.float64)
        return torch.sigmoid(self.mean + self.std * normal)


class Sigmoid(ShiftedDistribution):
    """Middle timesteps more often: `logit_normal` with mean 0, by the name that kohya's scripts and ai-toolkit use."""

    NAME: ClassVar[str] = "sigmoid"
    type: Literal["sigmoid"]
    """The distribution."""
    scale: Annotated[Float, Field(gt=0, le=10)] = 1.0
    """Standard deviation of the logit of u (kohya's `sigmoid_scale`); larger spreads the timesteps to both ends."""

    def sample_u(self, generator: Generator) -> Tensor:
        """One u, float64 [1]: the logistic function of a normal number."""
        import torch

        normal = torch.randn((1,), generator=generator, dtype=torch.float64)
        return torch.sigmoid(self.scale * normal)


class Mode(ShiftedDistribution):
    """Middle timesteps more often, but with heavy tails (Esser et al. 2024, arXiv:2403.03206, eq. 20)."""

    NAME: ClassVar[str] = "mode"
    type: Literal["mode"]
    """The distribution."""
    scale: Annotated[Float, Field(ge=-1, le=1.75)] = 1.29
    """Above 0 for the middle, below 0 for both ends; 0 would be uniform. Beyond these bounds u would leave [0, 1]."""

    def sample_u(self, generator: Generator) -> Tensor:
        """One u, float64 [1]: 1 - v - scale (cos²(pi v / 2) - 1 + v) of a uniform v."""
        import torch

        v = torch.rand((1,), generator=generator, dtype=torch.float64)
        return 1.0 - v - self.scale * ((math.pi * v / 2.0).cos().square() - 1.0 + v)


def timestep_distributions() -> tuple[type[TimestepDistribution], ...]:
    """Every timestep distribution class of this package."""
    return subclasses("dbrun.options", TimestepDistribution)
