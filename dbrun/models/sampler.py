"""Sampling of many pictures: the prompts are encoded first, so that text encoders and denoiser never share memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from dbrun.models.base import Model, SamplingConditions, no_op

if TYPE_CHECKING:
    from PIL.Image import Image


class Sampler:
    """Draws pictures of a base as it is now, adapters included.

    prompts: all that will be drawn; conditions: prompt → its conditions. Left out, they are encoded at once; then the
    text encoders are released, unless they carry adapters or new words.
    """

    def __init__(self, model: Model, prompts: Iterable[str],
                 conditions: Mapping[str, SamplingConditions] | None = None) -> None:
        self.model = model
        if conditions is None:
            conditions = model.sampling_conditions(tuple(prompts))
            model.release_text_encoders()
        self.conditions = conditions

    def draw(self, prompt: str, *, seed: int, steps: int, guidance: float, resolution: int,
             start_image: Image | None = None, on_step: Callable[[], object] = no_op) -> Image:
        """Draw one picture of resolution × resolution pixels; arguments as those of `Model.generate`."""
        return self.model.generate(prompt, seed=seed, steps=steps, guidance=guidance, resolution=resolution,
                                   start_image=start_image, on_step=on_step, conditions=self.conditions[prompt])
