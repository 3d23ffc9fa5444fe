"""How are the sample pictures of an export kept, so that several exports can be laid side by side?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER, RECORD = "samples", "samples.json"
BASE, ADAPTED = "base", "adapted"


@dataclass(frozen=True)
class Drawn:
    """How sample pictures were drawn: a prompt each, the first one's seed (the others count up), the sampler's."""

    prompts: tuple[str, ...]
    seed: int
    steps: int
    guidance: float


def write_samples(folder: Path, drawn: Drawn, rows: Mapping[str, Sequence[Image]]) -> None:
    """Write `samples/<row>/<column>.png` and `samples/samples.json`; equal pictures give equal bytes."""
    from dbrun.images.grid import save_png

    for row, pictures in rows.items():
        (folder / FOLDER / row).mkdir(parents=True)
        for column, picture in enumerate(pictures):
            save_png(picture, folder / FOLDER / row / f"{column:02d}.png")
    text = json.dumps(asdict(drawn), indent=1, sort_keys=True) + "\n"
    (folder / FOLDER / RECORD).write_text(text, encoding="utf-8")


def read_drawn(export: Path) -> Drawn:
    """What `write_samples` recorded in an export's folder. Raises UsageError where there is nothing of the kind."""
    path = export / FOLDER / RECORD
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return Drawn(**{**said, "prompts": tuple(said["prompts"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{export} holds no sample pictures", fix="name a folder that `dbrun run` wrote, such as "
                         "outputs/sks_dog") from error


def side_by_side(exports: Mapping[str, Path]) -> Image:
    """One sheet: the base's row, then a row for each export (label -> folder), under their common prompts.

    Raises UsageError where the exports were not drawn alike, or over different bases.
    """
    from dbrun.images.grid import sheet

    drawn = {label: read_drawn(folder) for label, folder in exports.items()}
    first = next(iter(exports))
    bases = {label: _contents(folder, BASE, drawn[label]) for label, folder in exports.items()}
    for label in exports:
        if drawn[label] != drawn[first]:
            differing = [key for key, value in asdict(drawn[first]).items() if asdict(drawn[label])[key] != value]
            raise UsageError(f"{exports[first]} and {exports[label]} differ in their samples' {', '.join(differing)}",
                             fix="give both recipes the same `samples`")
        if bases[label] != bases[first]:
            raise UsageError(f"{exports[first]} and {exports[label]} were drawn over different bases",
                             fix="compare exports of one base, device and thread count")
    rows = [(BASE, bases[first])]
    rows += [(label, _contents(folder, ADAPTED, drawn[label])) for label, folder in exports.items()]
    return sheet([(label, _pictures(row)) for label, row in rows], drawn[first].prompts)


def _contents(export: Path, row: str, drawn: Drawn) -> list[bytes]:
    try:
        return [(export / FOLDER / row / f"{column:02d}.png").read_bytes() for column in range(len(drawn.prompts))]
    except OSError as error:
        raise UsageError(f"{error.filename} is missing",
                         fix="run the recipe again: its outputs are restored") from error


def _pictures(row: list[bytes]) -> list[Image]:
    from io import BytesIO

    from PIL import Image

    return [Image.open(BytesIO(content)) for content in row]
