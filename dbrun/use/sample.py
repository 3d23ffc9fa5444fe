"""What does a prompt look like under adapters, one after another or together, over one base?"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbrun.errors import UsageError
from dbrun.models.base import Model
from dbrun.models.scheduling import scheduler_changes
from dbrun.use.adapter_files import AdapterFile
from dbrun.use.bases import LocalBase
from dbrun.use.blend import Blend

if TYPE_CHECKING:
    from PIL.Image import Image

BASE_LABEL = "base"
RECORD = "sample.json"


@dataclass(frozen=True)
class SampleRequest:
    """What is to be drawn. count: pictures a row, their seeds counting up; None: what the recipe or the base suggests.

    each: a row for each adapter alone, under one of the base's; else one row with all of them together.
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
    """A wish with its open ends settled. steps, guidance: the sampler's; resolution: pixels."""

    steps: int
    guidance: float
    resolution: int


def resolve_settings(wish: SampleRequest, adapters: Sequence[AdapterFile], base: LocalBase) -> ResolvedSettings:
    """The numbers that a wish leaves open: from the first adapter's recipe, else from the base. Raises UsageError."""
    if (why := base.family.start_image_reason) is not None:
        raise UsageError(f"a base of type {base.family.NAME} {why}, and makes none from words",
                         fix="see before_after.png in the outputs of its run")
    usual = base.family.default_sampling
    try:
        usual_of_base = json.loads((base.folder / "manifest.json").read_bytes())["sampling"]
        steps, guidance = int(usual_of_base["steps"]), float(usual_of_base["guidance"])
    except (OSError, ValueError, KeyError, TypeError):
        steps, guidance = usual.steps, usual.guidance
    told = [side for a in adapters if (side := a.document.get("recipe", {}).get("images", {}).get("resolution"))]
    side = wish.resolution or (int(told[0]) if told else base.family.native_resolution(base.folder))
    multiple = base.family.resolution_multiple(base.folder)
    if side % multiple:
        raise UsageError(f"found the resolution {side}, allowed for this base: multiples of {multiple}",
                         fix=f"write --resolution {max(multiple, side // multiple * multiple)}")
    return ResolvedSettings(wish.steps or steps, guidance if wish.guidance is None else wish.guidance, side)


def rows(wish: SampleRequest, adapters: Sequence[AdapterFile]) -> dict[str, tuple[AdapterFile, ...]]:
    """Label of a row -> the adapters that stand in the base while it is drawn."""
    if not wish.each:
        return {" + ".join(a.label for a in adapters): tuple(adapters)}
    labels = [a.label for a in adapters]
    named = {label if labels.count(label) == 1 else f"{label} {i + 1}": (a,)
             for i, (label, a) in enumerate(zip(labels, adapters, strict=True))}
    return {BASE_LABEL: (), **named}


def draw(wish: SampleRequest, adapters: Sequence[AdapterFile], base: LocalBase, model: Model,
         seen: Callable[[int, int], None]) -> dict[str, list[Image]]:
    """The pictures of each row; the base is loaded already, once. seen: told before each how many of how many are."""
    numbers, found, wanted = resolve_settings(wish, adapters, base), dict[str, Any](), rows(wish, adapters)
    blend, total = Blend(model), len(wanted) * wish.count
    for label, chosen in wanted.items():
        blend.apply(chosen)
        sampled = model.with_scheduler_changes(_changes(chosen, model))
        found[label] = []
        for i in range(wish.count):
            seen(sum(map(len, found.values())), total)
            found[label].append(sampled.generate(
                wish.prompt, seed=wish.seed + i, steps=numbers.steps, guidance=numbers.guidance,
                resolution=numbers.resolution))
    blend.restore()
    return found


def save(folder: Path, pictures: dict[str, list[Image]], wish: SampleRequest, adapters: Sequence[AdapterFile],
         base: LocalBase) -> Path:
    """Write the pictures, a grid of them, and `sample.json` with what was asked; the grid's path."""
    from dbrun.images.grid import draw_grid, save_png

    numbers = resolve_settings(wish, adapters, base)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for row, (_, found) in enumerate(pictures.items()):
            for column, picture in enumerate(found):
                save_png(picture, folder / (f"{row}-{column:02d}.png" if len(pictures) > 1 else f"{column:02d}.png"))
        captions = [f"seed {wish.seed + i}" for i in range(wish.count)]
        save_png(draw_grid(list(pictures.items()), captions), folder / "grid.png")
        record = {"format_version": 1, "prompt": wish.prompt, "seed": wish.seed, "count": wish.count,
                  "steps": numbers.steps, "guidance": numbers.guidance, "resolution": numbers.resolution,
                  "base": base.identity, "rows": list(pictures),
                  "adapters": [{"name": a.label, "format": a.form.NAME, "weight": a.weight} for a in adapters]}
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        (folder / RECORD).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}", fix="name another: -o FOLDER") from None
    return folder / "grid.png"


def _changes(chosen: Sequence[AdapterFile], model: Model) -> dict[str, object]:
    """How the scheduler must differ, where an adapter was taught another prediction than the base's."""
    for adapter in chosen:
        told = adapter.document.get("recipe", {}).get("objective", {})
        if changes := scheduler_changes(model.scheduler.config, told.get("prediction"),
                                        bool(told.get("zero_terminal_snr"))):
            return changes
    return {}
