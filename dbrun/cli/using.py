"""The work of the verbs `sample`, `merge`, `convert` and `push`."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.errors import UsageError
from dbrun.options.precision import PRECISIONS
from dbrun.ui.terminal import pluralize, print_result, print_status, print_warning

if TYPE_CHECKING:
    from dbrun.formats.base import Format
    from dbrun.use.adapter_files import AdapterFile
    from dbrun.use.bases import LocalBase
    from dbrun.use.convert import Adapters
    from dbrun.use.sample import SampleRequest

SAMPLES_FOLDER = Path("samples")


def draw_samples(words: Sequence[str], wish: SampleRequest, base: str | None, precision: str,
                 output: Path | None) -> None:
    """Draw a prompt under adapters; the grid's path goes to stdout."""
    from contextlib import closing
    from dataclasses import replace

    from dbrun.events import Progress
    from dbrun.ui.progress import make_reporter
    from dbrun.use.adapter_files import split_adapters_and_prompt
    from dbrun.use.sample import draw, resolve_settings, save
    from dbrun.use.trigger_words import find_words

    adapters, prompt = split_adapters_and_prompt(words)
    wish = replace(wish, prompt=prompt)
    at_hand = _find_base(adapters, base)
    resolve_settings(wish, adapters, at_hand)
    if not wish.each:
        find_words(adapters, at_hand.family)
    print_status(f"{' + '.join(a.label for a in adapters)} over {at_hand.asked}")
    loaded = at_hand.load(precision)
    with closing(make_reporter(as_json=False)) as watch:
        pictures = draw(wish, adapters, at_hand, loaded,
                        lambda done, total: watch(Progress("sample", done, total, "pictures")))
    folder = output or SAMPLES_FOLDER / (re.sub(r"[^a-z0-9]+", "_", prompt.lower()).strip("_")[:60] or "prompt")
    print_result(str(save(folder, pictures, wish, adapters, at_hand)))


def check_precision(word: str) -> str:
    """The precision, if there is one of that name."""
    if word not in PRECISIONS:
        raise UsageError(f"found the precision {word}, allowed: {', '.join(PRECISIONS)}")
    return word


def merge_files(words: Sequence[str], how: str, to: str | None, base: str | None, output: Path) -> None:
    """Make one file of several adapters; its path goes to stdout."""
    from dbrun.use.adapter_files import find_adapter
    from dbrun.use.convert import SUM_FORMAT, write_sum
    from dbrun.use.join_loras import check_joinable
    from dbrun.use.trigger_words import uncarried_words

    ways, full = ("concatenated", "linear", "full"), how == "full"
    form = _parse_format(to or (SUM_FORMAT if full else "diffusers"))
    if how not in ways:
        raise UsageError(f"found --how {how}, allowed: {', '.join(ways)}")
    if full and form.NAME != SUM_FORMAT:
        raise UsageError(f"found --to {form.NAME}, and only {SUM_FORMAT} has names for changes of any kind",
                         fix=f"write --to {SUM_FORMAT}, or leave it out")
    if len(words) < 2 and not full:
        raise UsageError("found one adapter, and merging wants two or more", fix="dbrun merge A:0.7 B:0.5 -o C")
    parts = [find_adapter(word) for word in words]
    at_hand = _find_base(parts, base)
    document = {"format_version": 1, "merged": {"how": how, "of": [_source_record(part) for part in parts]}}
    if full:
        difference = write_sum(parts, at_hand, _output_path(output, form), document)
    else:
        check_joinable(parts, at_hand.family)
        difference = _merge_loras(parts, how, at_hand, form, _output_path(output, form), document)
    for text in uncarried_words(parts, at_hand.family):
        print_status(f"lost: {text}")
    _print_written(output, form, difference)


def _merge_loras(parts: Sequence[AdapterFile], how: str, at_hand: LocalBase, form: Format, target: Path,
                 document: Mapping[str, object]) -> float:
    """Write one LoRA of several, and say how far it is from their sum; the difference once it is read back."""
    from dbrun.use.convert import write_adapter_file
    from dbrun.use.join_loras import add_linear, concatenate_loras

    opened = [_open_adapter(part, at_hand) for part in parts]
    merged, far = {}, 0.0
    for component in dict.fromkeys(c for adapters in opened for c in adapters):
        own = [(part.weight, adapters[component]) for part, adapters in zip(parts, opened, strict=True)
               if component in adapters]
        if how == "linear":
            merged[component], off = add_linear(own)
            far = max(far, off)
        else:
            merged[component] = concatenate_loras(own)
    if how == "linear":
        print_status(f"lost: `linear` adds factors, not updates: it is {far:.0%} away from the sum; "
                     "concatenated is exact")
    return write_adapter_file(merged, at_hand, form, target, document, parts if how == "concatenated" else ())


def convert_file(word: str, to: str, base: str | None, output: Path | None) -> None:
    """Write an adapter in another format, and say what is lost; its path goes to stdout."""
    from dbrun.formats.model_card import compatibility_warnings
    from dbrun.use.adapter_files import find_adapter
    from dbrun.use.convert import lost_metadata, write_adapter_file
    from dbrun.use.trigger_words import uncarried_words

    part, form = find_adapter(word), _parse_format(to)
    if not part.form.FILE_DESCRIPTION:
        raise UsageError(f"{part.label} is of the format {part.form.NAME}, of which no other is made",
                         fix=f"for what it adds to its base: dbrun merge {word} -o C --how full"
                         if part.form.CONTENT == "adapters" else "diffusers, ComfyUI and A1111 read its file as it is")
    if part.weight != 1:
        raise UsageError(f"found the weight {part.weight:g}, and a conversion changes none",
                         fix=f"dbrun merge {word} OTHER -o C")
    at_hand = _find_base([part], base)
    adapters = _open_adapter(part, at_hand)
    target = _output_path(output or part.place.with_name(f"{part.label}-{form.NAME}"), form)
    document = {**part.document, "converted": {"from": part.form.NAME}} if part.document else {
        "format_version": 1, "converted": _source_record(part)}
    difference = write_adapter_file(adapters, at_hand, form, target, document, [part])
    for text in (*lost_metadata(part), *uncarried_words([part], at_hand.family)):
        print_status(f"lost: {text}")
    for text in compatibility_warnings(at_hand.family, (form.NAME,), adapters):
        print_warning(text)
    _print_written(target, form, difference)


def push_folder(folder: Path, repo: str, *, public: bool, dry_run: bool) -> None:
    """Send a delivered folder to the Hub; where it can be seen goes to stdout."""
    from dbrun.disk_space import format_bytes
    from dbrun.use.publish import prepare_upload, upload

    sent = prepare_upload(folder, repo, private=not public)
    for name, size in sent.files.items():
        print_status(f"{format_bytes(size):>9}  {name}")
    seen = "private" if sent.private else "public"
    total = format_bytes(sum(sent.files.values()))
    print_status(f"{pluralize(len(sent.files), 'file')}, {total} → {repo}, {seen} if it is new")
    if dry_run:
        print_status("nothing is sent: this is what would be, without --dry-run")
    else:
        print_result(upload(sent))


def _find_base(parts: Sequence[AdapterFile], asked: str | None) -> LocalBase:
    """The base of these adapters, all of which hold something for it."""
    from dbrun.store.store import current_store
    from dbrun.use.bases import choose_base

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    at_hand, notes = choose_base([a.document for a in parts], asked, [a.place for a in parts], current_store())
    for part in parts:
        part.components(at_hand.family)
    for note in notes:
        print_warning(str(note))
    return at_hand


def _open_adapter(part: AdapterFile, at_hand: LocalBase) -> Adapters:
    from dbrun.use.convert import import_file

    adapters, changed = import_file(part, at_hand, at_hand.load(device="cpu"))
    for text in changed:
        print_status(f"{part.label}: {text}")
    return adapters


def _parse_format(name: str) -> Format:
    from dbrun.formats.base import formats

    able = [form.NAME for form in formats().values() if form.FILE_DESCRIPTION]
    if name not in able:
        raise UsageError(f"found --to {name}, allowed: {', '.join(able)}")
    return formats()[name]


def _output_path(output: Path, form: Format) -> Path:
    """A file for a format of one file, a folder for the others."""
    one = len(form.relative_paths("denoiser")) == 1
    return output.with_name(output.name + ".safetensors") if one and output.suffix != ".safetensors" else output


def _source_record(part: AdapterFile) -> dict[str, object]:
    """What an adapter that went into another was: its bytes, its weight, and what dbrun knows of it."""
    digests = [hashlib.sha256(files[-1].read_bytes()).hexdigest() for files in part.files]
    return {"from": part.form.NAME, "sha256": digests, "weight": part.weight,
            **({"provenance": dict(part.document)} if part.document else {})}


def _print_written(target: Path, form: Format, difference: float) -> None:
    from dbrun.formats.roundtrip import describe_difference

    print_status(f"{form.NAME}: read back by its own library, {describe_difference(difference)}")
    print_result(str(_output_path(target, form)))
