"""Candidates of a training: adapters of earlier steps, kept beside the last one to choose from."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from dbrun.config_types import Int, Part


class Candidates(Part):
    """Adapters of earlier steps that the training keeps beside its last one, so that `select` can choose the best.

    Each holds the weights that an export at that step would have. The last step is always among them.
    """

    every: Annotated[Int, Field(ge=1)]
    """Steps between two candidates."""

    def step_limits(self, steps: int) -> Mapping[str, int]:
        """The last candidate may be at the last step."""
        return {"every": steps}

    def steps_until(self, done: int) -> tuple[int, ...]:
        """The steps of all candidates of a training of `done` steps, in order; the last step is one of them."""
        multiples = tuple(range(self.every, done + 1, self.every))
        if done and done % self.every:
            return (*multiples, done)
        return multiples
