"""Sampling of many pictures: the prompts are encoded first, so that text encoders and denoiser never share memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from dbrun.models.base import Model, no_op
from dbrun.models.prompt_encoding import NOTHING_KNOWN, KnownOutputs

if TYPE_CHECKING:
    from PIL.Image import Image


class Sampler:
    """Draws pictures of a base as it is now, adapters included.

    prompts: all that will be drawn. They are encoded at once; then the text encoders are released, unless they carry
    adapters or new words. known: as in `Model.sampling_conditions`; kept_encoders: those that are needed again, and so
    stay, by their names in model_index.json.
    """

    def __init__(self, model: Model, prompts: Iterable[str], known: KnownOutputs = NOTHING_KNOWN,
                 kept_encoders: Collection[str] = ()) -> None:
        self.model = model
        self.conditions = model.sampling_conditions(tuple(prompts), known)
        model.release_text_encoders(except_for=kept_encoders)

    def draw(self, prompt: str, *, seed: int, steps: int, guidance: float, resolution: int,
             start_image: Image | None = None, on_step: Callable[[], object] = no_op) -> Image:
        """Draw one picture of resolution × resolution pixels; arguments as those of `Model.generate`."""
        return self.model.generate(prompt, seed=seed, steps=steps, guidance=guidance, resolution=resolution,
                                   start_image=start_image, on_step=on_step, conditions=self.conditions[prompt])

    def draw_block(self, prompts: Sequence[str], *, seeds: Sequence[int], steps: int, guidance: float, resolution: int,
                   on_step: Callable[[], object] = no_op) -> list[Image]:
        """Draw one picture of each prompt at once; arguments as those of `Model.generate_block`."""
        conditions = [self.conditions[prompt] for prompt in prompts]
        return self.model.generate_block(conditions, seeds, steps=steps, guidance=guidance, resolution=resolution,
                                         on_step=on_step)
