"""Sampling of many pictures: the prompts are encoded first, so that text encoders and denoiser never share memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache
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

    def draw_block(self, prompts: Sequence[str], *, seeds: Sequence[int], steps: int, guidance: float, resolution: int,
                   start_image: Image | None = None, on_step: Callable[[], object] = no_op) -> list[Image]:
        """Draw one picture of each prompt at once; arguments as those of `Model.generate_block`."""
        conditions = [self.conditions[prompt] for prompt in prompts]
        return self.model.generate_block(conditions, seeds, steps=steps, guidance=guidance, resolution=resolution,
                                         start_image=start_image, on_step=on_step)


class PictureBlocks:
    """Pictures that are asked for one by one, and drawn in blocks of one size, of which the last is kept.

    count: of the pictures; size: of a block; draw: gives a picture for each of these numbers. What is missing in the
    last block is its last picture again: a picture's bytes must not depend on how many there are.
    """

    def __init__(self, count: int, size: int, draw: Callable[[Sequence[int]], Sequence[Image]]) -> None:
        self.count, self.size, self.draw = count, size, draw
        self._block = lru_cache(maxsize=1)(self._draw_block)

    def __getitem__(self, number: int) -> Image:
        """The picture with this number, from 0."""
        block, place = divmod(number, self.size)
        return self._block(block)[place]

    def _draw_block(self, block: int) -> Sequence[Image]:
        first = block * self.size
        return self.draw([min(number, self.count - 1) for number in range(first, first + self.size)])
