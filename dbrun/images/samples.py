"""Sample pictures of an export: stored with their settings, so that several exports can be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.errors import UsageError
from dbrun.input_file import read_json

if TYPE_CHECKING:
    from PIL.Image import Image

SAMPLES_FOLDER, SAMPLES_FILE = "samples", "samples.json"
BASE_ROW, ADAPTED_ROW = "base", "adapted"


@dataclass(frozen=True)
class SampleSettings:
    """Settings of sample pictures. prompts: one per picture; seed: that of the first, the next ones count up; steps,
    guidance: the sampler's."""

    prompts: tuple[str, ...]
    seed: int
    steps: int
    guidance: float


def write_samples(folder: Path, drawn: SampleSettings, rows: Mapping[str, Sequence[Image]]) -> None:
    """Write `samples/<row>/<column>.png` and `samples/samples.json`; equal pictures give equal bytes."""
    from dbrun.images.grid import save_png

    for row, pictures in rows.items():
        row_folder = folder / SAMPLES_FOLDER / row
        row_folder.mkdir(parents=True)
        for column, picture in enumerate(pictures):
            save_png(picture, row_folder / f"{column:02d}.png")
    text = json.dumps(asdict(drawn), indent=1, sort_keys=True) + "\n"
    (folder / SAMPLES_FOLDER / SAMPLES_FILE).write_text(text, encoding="utf-8")


def read_sample_settings(export: Path) -> SampleSettings:
    """Settings that `write_samples` stored in an export's folder. Raises UsageError where there are none."""
    path = export / SAMPLES_FOLDER / SAMPLES_FILE
    try:
        fields = read_json(path)
        # a tuple, because settings are compared with ==
        return SampleSettings(**{**fields, "prompts": tuple(fields["prompts"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{export} holds no sample pictures", fix="name a folder that `dbrun run` wrote, such as "
                         "outputs/sks_dog") from error


def comparison_grid(exports: Mapping[str, Path]) -> Image:
    """Draw one sheet: the base's row, then one row per export (label → folder), under the common prompts.

    Raises UsageError where the exports have different sample settings or different bases.
    """
    from dbrun.images.grid import draw_grid

    drawn = {label: read_sample_settings(folder) for label, folder in exports.items()}
    first = next(iter(exports))
    bases = {label: _row_bytes(folder, BASE_ROW, drawn[label]) for label, folder in exports.items()}
    # side by side only what differs in the adapter alone; else people judge the settings
    for label in exports:
        if drawn[label] != drawn[first]:
            first_fields, fields = asdict(drawn[first]), asdict(drawn[label])
            differing = [key for key, value in first_fields.items() if fields[key] != value]
            raise UsageError(f"{exports[first]} and {exports[label]} differ in their samples' {', '.join(differing)}",
                             fix="give both recipes the same `samples`")
        if bases[label] != bases[first]:
            raise UsageError(f"{exports[first]} and {exports[label]} were drawn over different bases",
                             fix="compare exports of one base, device and thread count")
    rows = [(BASE_ROW, bases[first])]
    rows += [(label, _row_bytes(folder, ADAPTED_ROW, drawn[label])) for label, folder in exports.items()]
    return draw_grid([(label, _open_pictures(row)) for label, row in rows], drawn[first].prompts)


def _row_bytes(export: Path, row: str, drawn: SampleSettings) -> list[bytes]:
    folder = export / SAMPLES_FOLDER / row
    try:
        return [(folder / f"{column:02d}.png").read_bytes() for column in range(len(drawn.prompts))]
    except OSError as error:
        raise UsageError(f"{error.filename} is missing",
                         fix="run the recipe again: its outputs are restored") from error


def _open_pictures(row: list[bytes]) -> list[Image]:
    from io import BytesIO

    from PIL import Image

    return [Image.open(BytesIO(content)) for content in row]
