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

SAMPLES_FOLDER, SAMPLES_FILE = "samples", "samples.json"
BASE_ROW, ADAPTED_ROW = "base", "adapted"


@dataclass(frozen=True)
class SampleSettings:
    """How sample pictures were drawn: a prompt each, the first one's seed (the others count up), the sampler's."""

    prompts: tuple[str, ...]
    seed: int
    steps: int
    guidance: float


def write_samples(folder: Path, drawn: SampleSettings, rows: Mapping[str, Sequence[Image]]) -> None:
    """Write `samples/<row>/<column>.png` and `samples/samples.json`; equal pictures give equal bytes."""
    from dbrun.images.grid import save_png

    for row, pictures in rows.items():
        (folder / SAMPLES_FOLDER / row).mkdir(parents=True)
        for column, picture in enumerate(pictures):
            save_png(picture, folder / SAMPLES_FOLDER / row / f"{column:02d}.png")
    text = json.dumps(asdict(drawn), indent=1, sort_keys=True) + "\n"
    (folder / SAMPLES_FOLDER / SAMPLES_FILE).write_text(text, encoding="utf-8")


def read_sample_settings(export: Path) -> SampleSettings:
    """What `write_samples` recorded in an export's folder. Raises UsageError where there is nothing of the kind."""
    path = export / SAMPLES_FOLDER / SAMPLES_FILE
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return SampleSettings(**{**said, "prompts": tuple(said["prompts"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{export} holds no sample pictures", fix="name a folder that `dbrun run` wrote, such as "
                         "outputs/sks_dog") from error


def comparison_grid(exports: Mapping[str, Path]) -> Image:
    """One sheet: the base's row, then a row for each export (label -> folder), under their common prompts.

    Raises UsageError where the exports were not drawn alike, or over different bases.
    """
    from dbrun.images.grid import draw_grid

    drawn = {label: read_sample_settings(folder) for label, folder in exports.items()}
    first = next(iter(exports))
    bases = {label: _row_bytes(folder, BASE_ROW, drawn[label]) for label, folder in exports.items()}
    for label in exports:
        if drawn[label] != drawn[first]:
            differing = [key for key, value in asdict(drawn[first]).items() if asdict(drawn[label])[key] != value]
            raise UsageError(f"{exports[first]} and {exports[label]} differ in their samples' {', '.join(differing)}",
                             fix="give both recipes the same `samples`")
        if bases[label] != bases[first]:
            raise UsageError(f"{exports[first]} and {exports[label]} were drawn over different bases",
                             fix="compare exports of one base, device and thread count")
    rows = [(BASE_ROW, bases[first])]
    rows += [(label, _row_bytes(folder, ADAPTED_ROW, drawn[label])) for label, folder in exports.items()]
    return draw_grid([(label, _open_pictures(row)) for label, row in rows], drawn[first].prompts)


def _row_bytes(export: Path, row: str, drawn: SampleSettings) -> list[bytes]:
    try:
        return [(export / SAMPLES_FOLDER / row / f"{column:02d}.png").read_bytes()
                for column in range(len(drawn.prompts))]
    except OSError as error:
        raise UsageError(f"{error.filename} is missing",
                         fix="run the recipe again: its outputs are restored") from error


def _open_pictures(row: list[bytes]) -> list[Image]:
    from io import BytesIO

    from PIL import Image

    return [Image.open(BytesIO(content)) for content in row]
