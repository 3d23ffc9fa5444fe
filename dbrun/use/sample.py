"""Sample images of a prompt with adapters on one base, one after another or blended."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.errors import UsageError
from dbrun.input_file import file_exists, folder_exists, path_exists
from dbrun.models.base import Model
from dbrun.models.scheduling import scheduler_changes
from dbrun.resolve.base import read_sampling
from dbrun.use.adapter_files import AdapterFile
from dbrun.use.bases import LocalBase
from dbrun.use.blend import Blend

if TYPE_CHECKING:
    from PIL.Image import Image

BASE_LABEL = "base"
"""Label of the row without adapters."""
RECORD = "sample.json"
"""File that records the settings of a sample."""
PICTURE_NAME = re.compile(r"(grid|(\d+-)?\d+)\.png")
"""Names of the pictures that a sample writes."""


@dataclass(frozen=True)
class SampleRequest:
    """Settings of a sample as the user gave them.

    count: images per row, with seeds counting up from `seed`; resolution: side in pixels;
    steps, guidance, resolution: None for the default of the adapter's recipe or of the base;
    each: one row per adapter below a row of the bare base; otherwise one row with all adapters blended.
    """

    prompt: str
    count: int = 1
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    resolution: int | None = None
    each: bool = False


@dataclass(frozen=True)
class ResolvedSettings:
    """Settings with all defaults filled in. steps: of the sampler; guidance: scale; resolution: side in pixels."""

    steps: int
    guidance: float
    resolution: int


def resolve_settings(wish: SampleRequest, adapters: Sequence[AdapterFile], base: LocalBase) -> ResolvedSettings:
    """Fill in defaults from the first adapter's recipe, otherwise from the base.

    Raises UsageError if the base makes no images from text alone, or for a resolution that it does not allow.
    """
    why = base.family.start_image_reason
    if why is not None:
        raise UsageError(f"found a base of type {base.family.NAME}, which makes no pictures from a prompt "
                         f"alone: it {why}",
                         fix="see before_after.png in the outputs of its run")
    usual = read_sampling(base.folder, base.family.default_sampling)
    steps, guidance = usual.steps, usual.guidance
    if wish.steps:
        steps = wish.steps
    # 0 is a guidance of its own, not a missing one.
    if wish.guidance is not None:
        guidance = wish.guidance
    side = wish.resolution or _trained_resolution(adapters) or base.family.native_resolution(base.folder)
    multiple = base.family.resolution_multiple(base.folder)
    if side % multiple:
        nearest = max(multiple, side // multiple * multiple)
        raise UsageError(f"found the resolution {side}, allowed for this base: multiples of {multiple}",
                         fix=f"write --resolution {nearest}")
    return ResolvedSettings(steps, guidance, side)


def _trained_resolution(adapters: Sequence[AdapterFile]) -> int | None:
    """Resolution in pixels that the first adapter with a provenance was trained at; None without one."""
    for adapter in adapters:
        side = adapter.document.get("recipe", {}).get("images", {}).get("resolution")
        if side:
            return int(side)
    return None


def rows(wish: SampleRequest, adapters: Sequence[AdapterFile]) -> dict[str, tuple[AdapterFile, ...]]:
    """Label of a row -> the adapters that are applied to the base for its images."""
    labels = [adapter.label for adapter in adapters]
    if not wish.each:
        return {" + ".join(labels): tuple(adapters)}
    by_label: dict[str, tuple[AdapterFile, ...]] = {BASE_LABEL: ()}
    for number, (label, adapter) in enumerate(zip(labels, adapters, strict=True), start=1):
        # Files of one name in two folders: their places on the command line tell them apart.
        if labels.count(label) > 1:
            label = f"{label} {number}"
        by_label[label] = (adapter,)
    return by_label


def draw(wish: SampleRequest, adapters: Sequence[AdapterFile], base: LocalBase, model: Model,
         report_progress: Callable[[int, int], None]) -> dict[str, list[Image]]:
    """Draw the images: label of a row -> its images. model: the loaded base, unchanged afterwards.

    report_progress: called before each image with the number of finished images and of all.
    """
    settings = resolve_settings(wish, adapters, base)
    adapters_of_row = rows(wish, adapters)
    total = len(adapters_of_row) * wish.count
    done = 0
    images: dict[str, list[Image]] = {}
    # One base for all rows: loading it anew for each would take longer than sampling.
    blend = Blend(model)
    for label, chosen in adapters_of_row.items():
        blend.apply(chosen)
        sampled = model.with_scheduler_changes(_scheduler_changes_for(chosen, model))
        images[label] = []
        for i in range(wish.count):
            report_progress(done, total)
            # The same seeds in every row: images of one column differ by their adapters only.
            image = sampled.generate(wish.prompt, seed=wish.seed + i, steps=settings.steps,
                                     guidance=settings.guidance, resolution=settings.resolution)
            images[label].append(image)
            done += 1
    blend.restore()
    return images


def check_output(folder: Path) -> None:
    """Raise UsageError if the folder holds pictures of the names of new ones that no sample wrote."""
    if not path_exists(folder):
        return
    if not folder_exists(folder):
        raise UsageError(f"{folder} is not a folder", fix="name another: -o FOLDER")
    pictures = sorted(path.name for path in folder.iterdir() if PICTURE_NAME.fullmatch(path.name))
    if pictures and not file_exists(folder / RECORD):
        raise UsageError(f"{folder} holds {pictures[0]}, which `dbrun sample` did not write and could overwrite",
                         fix="name another: -o FOLDER")


def save(folder: Path, pictures: dict[str, list[Image]], wish: SampleRequest, adapters: Sequence[AdapterFile],
         base: LocalBase) -> Path:
    """Write the images, a grid of them and `sample.json` with the settings; returns the grid's path.

    Raises UsageError if the folder cannot be written.
    """
    from dbrun.images.grid import draw_grid, save_png

    settings = resolve_settings(wish, adapters, base)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # First: pictures without it would look like somebody else's.
        record = {"format_version": 1, "prompt": wish.prompt, "seed": wish.seed, "count": wish.count,
                  "steps": settings.steps, "guidance": settings.guidance, "resolution": settings.resolution,
                  "base": base.identity, "rows": list(pictures),
                  "adapters": [{"name": a.label, "format": a.form.NAME, "weight": a.weight} for a in adapters]}
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        (folder / RECORD).write_text(text, encoding="utf-8")
        for row, images in enumerate(pictures.values()):
            for column, image in enumerate(images):
                name = f"{column:02d}.png"
                if len(pictures) > 1:
                    name = f"{row}-{name}"
                save_png(image, folder / name)
        captions = [f"seed {wish.seed + i}" for i in range(wish.count)]
        save_png(draw_grid(list(pictures.items()), captions), folder / "grid.png")
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}", fix="name another: -o FOLDER") from None
    return folder / "grid.png"


def _scheduler_changes_for(chosen: Sequence[AdapterFile], model: Model) -> dict[str, object]:
    """Scheduler settings for adapters that were trained with another prediction type than the base's."""
    # The first decides: a blend of two prediction types has no right scheduler.
    for adapter in chosen:
        objective = adapter.document.get("recipe", {}).get("objective", {})
        changes = scheduler_changes(model.scheduler.config, objective.get("prediction"),
                                    bool(objective.get("zero_terminal_snr")))
        if changes:
            return changes
    return {}
