"""Trained adapters in use: pictures of a prompt, and what an adapter's file says of itself."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.api.request import FolderLike
from dbrun.api.results import Sample
from dbrun.api.run import ignore_event
from dbrun.errors import Cancelled, RecipeError, UsageError
from dbrun.events import Emit, Note, Progress
from dbrun.input_file import file_exists
from dbrun.options.precision import PRECISIONS
from dbrun.pace import Pace
from dbrun.store.store import current_store
from dbrun.use.without_recipe import without_recipe_keys

if TYPE_CHECKING:
    from dbrun.use.adapter_files import AdapterFile
    from dbrun.use.bases import LocalBase
    from dbrun.use.sample import SampleRequest

SAMPLES_FOLDER = Path("samples")
"""The folder that a folder for each prompt is written into by default."""
RECORD_PARTS = ("written", "stages", "versions", "machine")
"""Members of the `dbrun.json` beside an adapter that its header does not have."""


def sample(adapters: FolderLike | Sequence[FolderLike], prompt: str, *, count: int = 4, seed: int = 0,
           steps: int | None = None, guidance: float | None = None, resolution: int | None = None, each: bool = False,
           precision: str = "fp32", base: str | None = None, like: str | None = None, output: FolderLike | None = None,
           store: FolderLike | None = None, on_event: Emit | None = None,
           cancel: threading.Event | None = None) -> Sample:
    """Draw pictures of a prompt with adapters over one base, and write them into a folder.

    adapters: files or folders, each with an optional `:WEIGHT`; count: pictures, with seeds counting up from `seed`;
    steps, guidance, resolution: by default those of the first adapter's recipe; each: a row for the base and for each
    adapter alone; precision: fp32, bf16 or fp16; base, like: as `dbrun sample --help` explains them, by default the
    base that the first adapter was trained on; output: the folder to write, by default samples/ and the prompt.
    Raises DbrunError, and Cancelled before the next picture once cancel is set.
    """
    from dbrun.use.sample import SampleRequest

    named = [adapters] if isinstance(adapters, str | Path) or not isinstance(adapters, Sequence) else adapters
    wish = SampleRequest(prompt, count, seed, steps, guidance, resolution, each)
    return draw_sample([str(adapter) for adapter in named], wish, base, like, precision, output, store,
                       on_event or ignore_event, cancel)


@without_recipe_keys()
def draw_sample(words: Sequence[str], wish: SampleRequest, base: str | None, like: str | None, precision: str,
                output: FolderLike | None, store: FolderLike | None, emit: Emit,
                cancel: threading.Event | None) -> Sample:
    """Draw a sample, see `sample`. words: the adapters; wish: the prompt and the settings."""
    from dbrun.run.signals import stop_signum
    from dbrun.run.turns import take_turn
    from dbrun.use.adapter_files import split_adapters_and_prompt
    from dbrun.use.sample import check_output, draw, resolve_settings, save
    from dbrun.use.trigger_words import find_words

    check_precision(precision)
    files, _ = split_adapters_and_prompt([*words, wish.prompt])
    local_base = find_base(files, base, like, store, emit)
    # For their errors only: all that can be wrong is known before the base, which takes a minute, is loaded.
    resolve_settings(wish, files, local_base)
    folder = Path(output) if output is not None else SAMPLES_FOLDER / _folder_name(wish.prompt)
    check_output(folder)
    if not wish.each:
        find_words(files, local_base.family)
    labels = " + ".join(file.label for file in files)
    emit(Note("sample", f"{labels} over {local_base.asked}"))
    pace = Pace()

    def on_progress(done: int, total: int) -> None:
        if cancel is not None and cancel.is_set():
            raise Cancelled
        pace.record(done)
        emit(Progress("sample", done, total, "pictures", seconds_left=pace.seconds_left(total - done)))

    with take_turn(stop_signal=lambda: stop_signum(cancel)), local_base.opened(precision) as model:
        pictures = draw(wish, files, local_base, model, on_progress)
    grid = save(folder, pictures, wish, files, local_base)
    alone = tuple(path for path in sorted(folder.glob("*.png")) if path != grid)
    return Sample(folder, grid, alone)


def check_precision(word: str) -> str:
    """The name of a precision, unchanged. Raises UsageError if there is none of that name."""
    if word not in PRECISIONS:
        raise UsageError(f"found the precision {word}, allowed: {', '.join(PRECISIONS)}")
    return word


def find_base(files: Sequence[AdapterFile], base: str | None, like: str | None, store: FolderLike | None,
              emit: Emit) -> LocalBase:
    """The base to use these adapters with; base: the one that the user named. Raises if one of them does not fit it.

    emit: receives warnings.
    """
    from dbrun.use.bases import choose_base

    local_base, notes = choose_base([file.document for file in files], base, [file.place for file in files],
                                    current_store(store), like)
    # Before the base is loaded, which can take a minute.
    for file in files:
        file.check_base(local_base)
        for word in file.unread_words:
            emit(Note("base", f"{file.label}: the new word {word} that OneTrainer bundled with it is not read; save it "
                      "there as a file of its own, and put that into a folder embeddings/ beside the adapter",
                      "warning"))
    for note in notes:
        emit(Note("base", str(note), "warning"))
    return local_base


def _folder_name(prompt: str) -> str:
    """A prompt as a folder name: at most 60 lower-case letters, digits and underscores."""
    name = re.sub(r"[^a-z0-9]+", "_", prompt.lower()).strip("_")
    return name[:60] or "prompt"


def show(adapter: FolderLike) -> dict[str, object]:
    """What an adapter is: type, rank, layers, base, trigger; of dbrun's own the provenance, too, as plain data.

    adapter: a file or a PEFT folder of any program, or a folder that a run delivered. Raises DbrunError.
    """
    place = Path(adapter)
    return {"format_version": 1, **describe(named_file(place))}


def named_file(adapter: Path) -> Path:
    """The file that a path means: of a folder the first that holds provenance, if there is one."""
    if not adapter.is_dir():
        return adapter
    return _exported_file(adapter) or adapter


def describe(adapter: Path) -> dict[str, object]:
    """The facts on one adapter, see `show`."""
    from dbrun.safetensors_header import METADATA_KEY, find_record, read_header, read_provenance
    from dbrun.use.describe_adapter import describe_adapter

    facts: dict[str, object] = {"adapter": describe_adapter(adapter)}
    # A folder of PEFT's, or another program's file, has none.
    if file_exists(adapter) and METADATA_KEY in read_header(adapter).metadata:
        provenance = read_provenance(adapter)
        facts |= provenance
        record = find_record(adapter, provenance)
        if record:
            facts["record"] = {part: record[part] for part in RECORD_PARTS if part in record}
    return facts


def _exported_file(folder: Path) -> Path | None:
    """The first file in a folder that holds provenance; None if there is none. Raises UsageError for several runs."""
    from dbrun.safetensors_header import RECORD_FILE, read_provenance

    deliveries = [record.parent for record in sorted(folder.glob(f"*/{RECORD_FILE}"))]
    if len(deliveries) > 1 and not (folder / RECORD_FILE).is_file():
        names = ", ".join(path.name for path in deliveries)
        raise UsageError(f"{folder} holds the outputs of {len(deliveries)} runs: {names}",
                         fix=f"name one, such as dbrun show {deliveries[0]}")
    for pattern in ("*.safetensors", "*/*.safetensors", "*/*/*.safetensors"):
        for file in sorted(folder.glob(pattern)):
            # Files of other programs may lie there, too, and some formats carry no provenance in every file.
            try:
                read_provenance(file)
            except RecipeError:
                continue
            return file
    return None
