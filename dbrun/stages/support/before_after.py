"""The comparison pictures of an export: the same prompts and seeds without and with the adapter, cached one by one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.images.samples import ADAPTED_ROW, BASE_ROW, SampleSettings, write_samples
from dbrun.models.base import Model
from dbrun.models.prompt_encoding import KnownOutputs
from dbrun.models.sampler import PictureBlocks, Sampler
from dbrun.stages.base import StageContext
from dbrun.stages.load import read_base_record
from dbrun.stages.support.drawing import attach_for_drawing

if TYPE_CHECKING:
    from PIL.Image import Image

ROWS = (BASE_ROW, ADAPTED_ROW)
"""The rows of before_after.png. The base's is drawn first; the adapter is then attached to the same base."""


def draw_before_after(ctx: StageContext[Any], model: Model, adapters: Mapping[str, ComponentAdapter],
                      keys: Sequence[Mapping[str, object]], known: Callable[[], KnownOutputs],
                      kept_encoders: Collection[str]) -> None:
    """Draw before_after.png and samples/: the same prompts and seeds without and with the adapter.

    model: the untouched base, which it is again afterwards; keys: of the pictures, row after row; known: what the text
    encoders that the adapters leave as they are give of all prompts, the empty one included; kept_encoders: text
    encoders that are needed afterwards, too, and stay in memory.
    """
    from PIL.Image import open as open_image

    from dbrun.formats.merge_weights import restore_base
    from dbrun.images.grid import draw_grid, save_png

    params = ctx.params
    # both are made at the first picture that is not cached; the rows are drawn in order, so that nobody needs the
    # bare base once the adapter is attached
    @cache
    def base() -> Sampler:
        return Sampler(model, params.prompts, known(), kept_encoders)

    @cache
    def adapted() -> Sampler:
        attach_for_drawing(model, adapters)
        sampled = model.with_scheduler_changes(params.scheduler_overrides(model))
        return Sampler(sampled, params.prompts, known(), kept_encoders)

    def draw(sampler: Callable[[], Sampler], columns: Sequence[int]) -> list[Image]:
        # a base that starts from pictures has blocks of one
        return sampler().draw_block([params.prompts[column] for column in columns],
                                    seeds=[params.seed + column for column in columns], steps=params.steps,
                                    guidance=params.guidance, resolution=params.resolution,
                                    start_image=_start_image(ctx, columns[0]), on_step=ctx.check_interrupt)

    def save(pictures: PictureBlocks, column: int, folder: Path) -> None:
        save_png(pictures[column], folder / "picture.png")

    drawn = [PictureBlocks(len(params.prompts), params.block, partial(draw, sampler)) for sampler in (base, adapted)]
    rows: dict[str, list[Image]] = {row: [] for row in ROWS}
    for place, key in enumerate(keys):
        ctx.check_interrupt()
        ctx.progress(place, len(keys), "pictures")
        row, column = divmod(place, len(params.prompts))
        made = ctx.items.get(key, partial(save, drawn[row], column))
        rows[ROWS[row]].append(open_image(made / "picture.png"))

    # a base that enlarges pictures has a first row with what they start from
    start_images: list[Image] = []
    for column in range(len(params.prompts)):
        picture = _start_image(ctx, column)
        if picture:
            start_images.append(picture)
    grid: list[tuple[str, Sequence[Image]]] = [*rows.items()]
    if start_images:
        grid.insert(0, ("small", start_images))
    restore_base(model)
    save_png(draw_grid(grid, params.prompts), ctx.out / "before_after.png")
    write_samples(ctx.out, SampleSettings(params.prompts, params.seed, params.steps, params.guidance), rows)
    ctx.progress(len(keys), len(keys), "pictures")


def _start_image(ctx: StageContext[Any], column: int) -> Image | None:
    """The picture that this column starts from; None for a base that draws from text alone."""
    params = ctx.params
    if params.starts is None:
        return None
    family = read_base_record(ctx.inputs["load"]).family
    picture: Image = params.starts.start_image(column, ctx.files, params.resolution, family)
    return picture
