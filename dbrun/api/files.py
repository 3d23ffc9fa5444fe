"""Adapters made into other files: several merged into one, or one converted to another format."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.api.request import FolderLike
from dbrun.api.results import WrittenAdapter
from dbrun.api.run import ignore_event
from dbrun.api.use import find_base
from dbrun.errors import UsageError
from dbrun.events import Emit, Note
from dbrun.use.without_recipe import without_recipe_keys

if TYPE_CHECKING:
    from dbrun.formats.base import Format
    from dbrun.use.adapter_files import AdapterFile
    from dbrun.use.bases import LocalBase
    from dbrun.use.convert import Adapters

MERGE_METHODS = ("concatenated", "linear", "full")
"""Ways to merge: ranks add up, factors are added, or the updates themselves are added."""


def merge(adapters: Sequence[FolderLike], output: FolderLike, *, how: str = "concatenated", to: str | None = None,
          base: str | None = None, like: str | None = None, store: FolderLike | None = None,
          on_event: Emit | None = None) -> WrittenAdapter:
    """Merge adapters into one file, by weight; it is read back and compared before it gets its name.

    adapters: files or folders, each with an optional `:WEIGHT`; how: concatenated (LoRAs: exact, ranks add up), linear
    (LoRAs of the same rank: not exact) or full (any types, also one alone: exact); to: diffusers, kohya or peft, None
    for the usual one; base, like: as for `sample`. Raises DbrunError.
    """
    return write_merged([str(adapter) for adapter in adapters], Path(output), how, to, base, like, store,
                        on_event or ignore_event)


def convert(adapter: FolderLike, to: str, *, output: FolderLike | None = None, base: str | None = None,
            like: str | None = None, store: FolderLike | None = None,
            on_event: Emit | None = None) -> WrittenAdapter:
    """Write an adapter in another format; it is read back and compared before it gets its name.

    adapter: a file or a folder; to: diffusers, kohya or peft; output: by default a file beside the adapter; base, like:
    as for `sample`. Raises DbrunError.
    """
    target = Path(output) if output is not None else None
    return write_converted(str(adapter), to, target, base, like, store, on_event or ignore_event)


@without_recipe_keys()
def write_merged(words: Sequence[str], output: Path, how: str, to: str | None, base: str | None, like: str | None,
                 store: FolderLike | None, emit: Emit) -> WrittenAdapter:
    """Merge adapters, see `merge`. words: ADAPTER[:WEIGHT]."""
    from dbrun.formats.weight_diff import passed_over
    from dbrun.safetensors_header import read_header
    from dbrun.use.adapter_files import find_adapter
    from dbrun.use.convert import SUM_FORMAT, write_sum
    from dbrun.use.join_loras import check_joinable
    from dbrun.use.trigger_words import uncarried_words

    full = how == "full"
    default_format = SUM_FORMAT if full else "diffusers"
    form = _parse_format(to or default_format)
    if how not in MERGE_METHODS:
        raise UsageError(f"found --how {how}, allowed: {', '.join(MERGE_METHODS)}")
    if full and form.NAME != SUM_FORMAT:
        raise UsageError(f"found --to {form.NAME}, allowed with --how full: {SUM_FORMAT}",
                         fix=f"write --to {SUM_FORMAT}, or leave it out")
    if len(words) < 2 and not full:
        raise UsageError("found one adapter, and merging needs two or more", fix="dbrun merge A:0.7 B:0.5 -o C")
    files = [find_adapter(word) for word in words]
    local_base = find_base(files, base, like, store, emit)
    document = {"format_version": 1, "merged": {"how": how, "of": [_source_record(file) for file in files]}}
    losses = _Losses("merge", emit)
    target = _written_path(output, form)
    if full:
        difference = write_sum(files, local_base, target, document)
        for text in passed_over(read_header(target).tensors):
            emit(Note("merge", text))
    else:
        check_joinable(files, local_base.family)
        difference = _join_loras(files, how, local_base, form, target, document, losses)
    losses.add(*uncarried_words(files, local_base.family))
    return WrittenAdapter(target, form.NAME, difference, losses.texts)


@without_recipe_keys()
def write_converted(word: str, to: str, output: Path | None, base: str | None, like: str | None,
                    store: FolderLike | None, emit: Emit) -> WrittenAdapter:
    """Convert an adapter, see `convert`. word: ADAPTER."""
    from dbrun.formats.model_card import compatibility_warnings
    from dbrun.use.adapter_files import find_adapter
    from dbrun.use.convert import lost_metadata, write_adapter_file
    from dbrun.use.trigger_words import uncarried_words

    file, form = find_adapter(word), _parse_format(to)
    if not file.form.FILE_DESCRIPTION:
        fix = "diffusers, ComfyUI and A1111 read its file as it is"
        if file.form.CONTENT == "adapters":
            fix = f"to write its changes to the base: dbrun merge {word} -o C --how full"
        raise UsageError(f"{file.label} has the format {file.form.NAME}, which cannot be converted", fix=fix)
    if file.weight != 1:
        raise UsageError(f"found the weight {file.weight:g}, and a conversion changes no weight",
                         fix=f"dbrun merge {word} OTHER -o C")
    local_base = find_base([file], base, like, store, emit)
    adapters = _open_adapter(file, local_base, "convert", emit)
    target = _written_path(output or file.place.with_name(f"{file.label}-{form.NAME}"), form)
    # An adapter that dbrun trained keeps its provenance; of any other, its format and digest are all that is known.
    if file.document:
        document = {**file.document, "converted": {"from": file.form.NAME}}
    else:
        document = {"format_version": 1, "converted": _source_record(file)}
    difference = write_adapter_file(adapters, local_base, form, target, document, [file])
    losses = _Losses("convert", emit)
    losses.add(*lost_metadata(file), *uncarried_words([file], local_base.family))
    for text in compatibility_warnings(local_base.family, (form.NAME,), adapters):
        emit(Note("convert", text, "warning"))
    return WrittenAdapter(target, form.NAME, difference, losses.texts)


class _Losses:
    """What the new file does not have of the old ones, in words. Each is also told by a note of this verb."""

    def __init__(self, verb: str, emit: Emit) -> None:
        self.texts: tuple[str, ...] = ()
        self.emit, self._verb = emit, verb

    def add(self, *texts: str) -> None:
        for text in texts:
            self.emit(Note(self._verb, f"lost: {text}"))
        self.texts += texts


def _join_loras(files: Sequence[AdapterFile], how: str, local_base: LocalBase, form: Format, target: Path,
                document: Mapping[str, object], losses: _Losses) -> float:
    """Write one LoRA made of several; return the largest difference found when it was read back.

    With how="linear" say how far it is from the sum of the LoRAs.
    """
    from dbrun.use.convert import write_adapter_file
    from dbrun.use.join_loras import add_linear, concatenate_loras

    opened = [_open_adapter(file, local_base, "merge", losses.emit) for file in files]
    merged, largest_error = {}, 0.0
    for component in dict.fromkeys(chain.from_iterable(opened)):
        weighted = [(file.weight, adapters[component]) for file, adapters in zip(files, opened, strict=True)
                    if component in adapters]
        if how == "linear":
            # B1·A1 + B2·A2 is not (B1 + B2)·(A1 + A2): adding the factors leaves cross terms.
            merged[component], error = add_linear(weighted)
            largest_error = max(largest_error, error)
        else:
            merged[component] = concatenate_loras(weighted)
    if how == "linear":
        losses.add(f"`linear` adds factors, not updates: it is {largest_error:.0%} away from the sum; "
                   "concatenated is exact")
    exact_sources = files if how == "concatenated" else ()
    return write_adapter_file(merged, local_base, form, target, document, exact_sources)


def _open_adapter(file: AdapterFile, local_base: LocalBase, verb: str, emit: Emit) -> Adapters:
    """The adapters in a file, by component of the base; notes tell what was changed on the way."""
    from dbrun.use.convert import import_file

    adapters, changed = import_file(file, local_base, local_base.load(device="cpu"))
    for text in changed:
        emit(Note(verb, f"{file.label}: {text}"))
    return adapters


def _parse_format(name: str) -> Format:
    """The format of this name. Raises UsageError if it cannot be written from an adapter alone."""
    from dbrun.formats.base import formats

    writable = [form.NAME for form in formats().values() if form.FILE_DESCRIPTION]
    if name not in writable:
        raise UsageError(f"found --to {name}, allowed: {', '.join(writable)}")
    return formats()[name]


def _written_path(output: Path, form: Format) -> Path:
    """The path to write: a .safetensors file for formats of one file, a folder for the others."""
    is_one_file = len(form.relative_paths("denoiser")) == 1
    if is_one_file and output.suffix != ".safetensors":
        # Appended, not `with_suffix`: a name such as dog-v1.5 would lose its last part.
        return output.with_name(output.name + ".safetensors")
    return output


def _source_record(file: AdapterFile) -> dict[str, object]:
    """The record of an adapter that another one was made from: format, digests, weight, and its provenance if known."""
    digests = [hashlib.sha256(paths[-1].read_bytes()).hexdigest() for paths in file.files]
    record: dict[str, object] = {"from": file.form.NAME, "sha256": digests, "weight": file.weight}
    if file.document:
        record["provenance"] = dict(file.document)
    return record
