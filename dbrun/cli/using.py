"""The work of the verbs `sample`, `merge`, `convert` and `push`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.errors import UsageError
from dbrun.events import Emit, Event, Note
from dbrun.naming import REPORT_FILE
from dbrun.ui.terminal import pluralize, print_result, print_status, print_warning
from dbrun.use.without_recipe import without_recipe_keys

if TYPE_CHECKING:
    from dbrun.formats.base import Format
    from dbrun.use.adapter_files import AdapterFile
    from dbrun.use.bases import LocalBase
    from dbrun.use.convert import Adapters
    from dbrun.use.sample import SampleRequest


def draw_samples(words: Sequence[str], wish: SampleRequest, base: str | None, like: str | None, precision: str,
                 output: Path | None) -> None:
    """Sample a prompt with adapters; print the path of the picture grid. words: the adapters, then the prompt."""
    from contextlib import closing
    from dataclasses import replace

    from dbrun.api.use import draw_sample
    from dbrun.ui.progress import make_reporter
    from dbrun.use.adapter_files import split_adapters_and_prompt

    _set_wait_policy()
    # For its error only: without a prompt the last adapter would stand in its place.
    split_adapters_and_prompt(words)
    *adapters, prompt = words
    with closing(make_reporter(as_json=False)) as reporter:
        done = draw_sample(adapters, replace(wish, prompt=prompt), base, like, precision, output, None,
                           partial(_report, reporter), None)
    print_result(str(done.grid))


def _report(reporter: Emit | None, event: Event) -> None:
    """Pass progress on, and print notes without the name of a stage: these verbs have no stages."""
    if not isinstance(event, Note):
        if reporter is not None:
            reporter(event)
    elif event.level == "warning":
        print_warning(event.text)
    else:
        print_status(event.text)


def _set_wait_policy() -> None:
    """Let idle threads sleep, see `run_recipe`; before torch is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@without_recipe_keys()
def merge_files(words: Sequence[str], how: str, to: str | None, base: str | None, like: str | None,
                output: Path) -> None:
    """Merge adapters into one file, and print its path. Raises UsageError.

    words: ADAPTER[:WEIGHT]; how: concatenated, linear or full; to: the format's name, None for the default.
    """
    from dbrun.use.adapter_files import find_adapter
    from dbrun.use.convert import SUM_FORMAT, write_sum
    from dbrun.use.join_loras import check_joinable
    from dbrun.use.trigger_words import uncarried_words

    ways = ("concatenated", "linear", "full")
    full = how == "full"
    default_format = SUM_FORMAT if full else "diffusers"
    form = _parse_format(to or default_format)
    if how not in ways:
        raise UsageError(f"found --how {how}, allowed: {', '.join(ways)}")
    if full and form.NAME != SUM_FORMAT:
        raise UsageError(f"found --to {form.NAME}, allowed with --how full: {SUM_FORMAT}",
                         fix=f"write --to {SUM_FORMAT}, or leave it out")
    if len(words) < 2 and not full:
        raise UsageError("found one adapter, and merging needs two or more", fix="dbrun merge A:0.7 B:0.5 -o C")
    files = [find_adapter(word) for word in words]
    local_base = _find_base(files, base, like)
    document = {"format_version": 1, "merged": {"how": how, "of": [_source_record(file) for file in files]}}
    if full:
        difference = write_sum(files, local_base, _output_path(output, form), document)
    else:
        check_joinable(files, local_base.family)
        difference = _merge_loras(files, how, local_base, form, _output_path(output, form), document)
    for text in uncarried_words(files, local_base.family):
        print_status(f"lost: {text}")
    _print_written(output, form, difference)


def _merge_loras(files: Sequence[AdapterFile], how: str, local_base: LocalBase, form: Format, target: Path,
                 document: Mapping[str, object]) -> float:
    """Write one LoRA made of several; return the largest difference found when it was read back.

    With how="linear" print how far it is from the sum of the LoRAs.
    """
    from dbrun.use.convert import write_adapter_file
    from dbrun.use.join_loras import add_linear, concatenate_loras

    opened = [_open_adapter(file, local_base) for file in files]
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
        print_status(f"lost: `linear` adds factors, not updates: it is {largest_error:.0%} away from the sum; "
                     "concatenated is exact")
    exact_sources = files if how == "concatenated" else ()
    return write_adapter_file(merged, local_base, form, target, document, exact_sources)


@without_recipe_keys()
def convert_file(word: str, to: str, base: str | None, like: str | None, output: Path | None) -> None:
    """Write an adapter in another format, print what is lost, and its path. word: ADAPTER. Raises UsageError."""
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
    local_base = _find_base([file], base, like)
    adapters = _open_adapter(file, local_base)
    target = _output_path(output or file.place.with_name(f"{file.label}-{form.NAME}"), form)
    # An adapter that dbrun trained keeps its provenance; of any other, its format and digest are all that is known.
    if file.document:
        document = {**file.document, "converted": {"from": file.form.NAME}}
    else:
        document = {"format_version": 1, "converted": _source_record(file)}
    difference = write_adapter_file(adapters, local_base, form, target, document, [file])
    for text in (*lost_metadata(file), *uncarried_words([file], local_base.family)):
        print_status(f"lost: {text}")
    for text in compatibility_warnings(local_base.family, (form.NAME,), adapters):
        print_warning(text)
    _print_written(target, form, difference)


def push_folder(folder: Path, repo: str, *, public: bool, dry_run: bool) -> None:
    """Upload a delivered folder to the Hub, and print its address there. repo: OWNER/NAME; dry_run: only list files."""
    from dbrun.disk_space import format_bytes
    from dbrun.use.publish import prepare_upload, upload

    prepared = prepare_upload(folder, repo, private=not public)
    for name, size in prepared.files.items():
        print_status(f"{format_bytes(size):>9}  {name}")
    visibility = "private" if prepared.private else "public"
    total = format_bytes(sum(prepared.files.values()))
    if (folder / REPORT_FILE).is_file():
        print_status(f"not sent: {REPORT_FILE}, which shows the training pictures")
    # Of an existing repository nothing is changed but its files.
    print_status(f"{pluralize(len(prepared.files), 'file')}, {total} → {repo}, {visibility} if it is new")
    if dry_run:
        print_status("dry run: nothing was sent; leave out --dry-run to send it")
    else:
        print_result(upload(prepared))


def _find_base(files: Sequence[AdapterFile], base: str | None, like: str | None) -> LocalBase:
    """The base to use these adapters with, see `dbrun.api.use.find_base`; warnings are printed."""
    from dbrun.api.use import find_base

    _set_wait_policy()
    return find_base(files, base, like, None, partial(_report, None))


def _open_adapter(file: AdapterFile, local_base: LocalBase) -> Adapters:
    """The adapters in a file, by component of the base; what was changed on the way is printed."""
    from dbrun.use.convert import import_file

    adapters, changed = import_file(file, local_base, local_base.load(device="cpu"))
    for text in changed:
        print_status(f"{file.label}: {text}")
    return adapters


def _parse_format(name: str) -> Format:
    """The format of this name. Raises UsageError if it cannot be written from an adapter alone."""
    from dbrun.formats.base import formats

    writable = [form.NAME for form in formats().values() if form.FILE_DESCRIPTION]
    if name not in writable:
        raise UsageError(f"found --to {name}, allowed: {', '.join(writable)}")
    return formats()[name]


def _output_path(output: Path, form: Format) -> Path:
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


def _print_written(target: Path, form: Format, difference: float) -> None:
    from dbrun.formats.roundtrip import describe_difference

    print_status(f"{form.NAME}: read back by its own library, {describe_difference(difference)}")
    print_result(str(_output_path(target, form)))
