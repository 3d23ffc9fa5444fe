"""Learning-rate schedules: the factor of `train.learning_rate` at each step."""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dbrun.config_types import Float, Int, Part, subclasses


class LearningRateSchedule(Part):
    """A learning-rate schedule: linear warm-up, then the schedule's own shape.

    depends_on_steps: whether a step's factor depends on the total number of steps. Where it does not, a longer run can
    continue from the checkpoint of a shorter one.
    """

    NAME: ClassVar[str]
    depends_on_steps: ClassVar[bool]

    warmup_steps: Annotated[Int, Field(ge=0)] = 0
    """Steps over which the rate rises linearly from 0."""

    def step_limits(self, steps: int) -> Mapping[str, int]:
        """A warm-up must end before the last step, or the rate never reaches its peak."""
        return {"warmup_steps": steps - 1}

    def factor(self, step: int, steps: int) -> float:
        """Factor in [0, 1] at optimizer step `step`, counted from 0, of `steps`."""
        if step < self.warmup_steps:
            return step / max(1, self.warmup_steps)
        # a warm-up may be as long as the training; then nothing is left to decay over
        decay_steps = max(1, steps - self.warmup_steps)
        return self.decay((step - self.warmup_steps) / decay_steps)

    def decay(self, progress: float) -> float:
        """Factor in [0, 1] after warm-up; progress runs from 0 to 1."""
        raise NotImplementedError


class Constant(LearningRateSchedule):
    """The same rate throughout."""

    NAME: ClassVar[str] = "constant"
    depends_on_steps: ClassVar[bool] = False
    type: Literal["constant"] = "constant"
    """The schedule's shape."""

    def decay(self, progress: float) -> float:
        """1."""
        return 1.0


class Linear(LearningRateSchedule):
    """Linear decay to zero."""

    NAME: ClassVar[str] = "linear"
    depends_on_steps: ClassVar[bool] = True
    type: Literal["linear"]
    """The schedule's shape."""

    def decay(self, progress: float) -> float:
        """1 - progress."""
        return max(0.0, 1.0 - progress)


class Cosine(LearningRateSchedule):
    """Decay to zero along half a cosine (Loshchilov and Hutter 2016, arXiv:1608.03983, eq. 5)."""

    NAME: ClassVar[str] = "cosine"
    depends_on_steps: ClassVar[bool] = True
    type: Literal["cosine"]
    """The schedule's shape."""

    def decay(self, progress: float) -> float:
        """(1 + cos(pi progress)) / 2."""
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


class CosineWithRestarts(LearningRateSchedule):
    """Several cosine decays, each from the peak to zero (Loshchilov and Hutter 2016, arXiv:1608.03983)."""

    NAME: ClassVar[str] = "cosine_with_restarts"
    depends_on_steps: ClassVar[bool] = True
    type: Literal["cosine_with_restarts"]
    """The schedule's shape."""
    cycles: Annotated[Int, Field(ge=1, le=1000)] = 2
    """Number of cosine decays; 1 is the same as `cosine`."""

    def step_limits(self, steps: int) -> Mapping[str, int]:
        """Also a decay needs at least one step."""
        return {**super().step_limits(steps), "cycles": max(1, steps - self.warmup_steps)}

    def decay(self, progress: float) -> float:
        """(1 + cos(pi u)) / 2, where u runs from 0 to 1 in each cycle; 0 at the very end."""
        # the remainder below would begin another cycle at the peak
        if progress >= 1.0:
            return 0.0
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * (self.cycles * progress % 1.0))))


class Polynomial(LearningRateSchedule):
    """Polynomial decay to `end`."""

    NAME: ClassVar[str] = "polynomial"
    depends_on_steps: ClassVar[bool] = True
    type: Literal["polynomial"]
    """The schedule's shape."""
    power: Annotated[Float, Field(gt=0, le=100)] = 2.0
    """Exponent of the decay; 1 is linear, above 1 falls fast at first, below 1 falls fast at the end."""
    end: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    """Share of the peak rate that is left at the last step."""

    def decay(self, progress: float) -> float:
        """(1 - end) (1 - progress)^power + end."""
        return float((1.0 - self.end) * max(0.0, 1.0 - progress) ** self.power + self.end)


def schedule_types() -> tuple[type[LearningRateSchedule], ...]:
    """Every schedule class of this package."""
    return subclasses("dbrun.options", LearningRateSchedule)
