"""What the verbs do that use adapters after training."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.errors import UsageError
from dbrun.ui.terminal import counted, put, say, warn

if TYPE_CHECKING:
    from dbrun.formats.base import Format
    from dbrun.use.adapter_files import Named
    from dbrun.use.bases import AtHand
    from dbrun.use.convert import Adapters
    from dbrun.use.sample import Wish

SAMPLES = Path("samples")


def draw_samples(words: Sequence[str], wish: Wish, base: str | None, precision: str, output: Path | None) -> None:
    """Draw a prompt under adapters; the grid's path goes to stdout."""
    from contextlib import closing
    from dataclasses import replace

    from dbrun.events import Progress
    from dbrun.ui.progress import watcher
    from dbrun.use.adapter_files import split
    from dbrun.use.sample import draw, save, settled
    from dbrun.use.trigger_words import words_of

    adapters, prompt = split(words)
    wish = replace(wish, prompt=prompt)
    at_hand = _base(adapters, base)
    settled(wish, adapters, at_hand)
    if not wish.each:
        words_of(adapters, at_hand.family)
    say(f"{' + '.join(a.label for a in adapters)} over {at_hand.asked}")
    loaded = at_hand.load(precision)
    with closing(watcher(as_json=False)) as watch:
        pictures = draw(wish, adapters, at_hand, loaded,
                        lambda done, total: watch(Progress("sample", done, total, "pictures")))
    folder = output or SAMPLES / (re.sub(r"[^a-z0-9]+", "_", prompt.lower()).strip("_")[:60] or "prompt")
    put(str(save(folder, pictures, wish, adapters, at_hand)))


def check_precision(word: str) -> str:
    """The precision, if there is one of that name."""
    allowed = ("fp32", "bf16", "fp16")
    if word not in allowed:
        raise UsageError(f"found the precision {word}, allowed: {', '.join(allowed)}")
    return word


def merge_files(words: Sequence[str], how: str, to: str | None, base: str | None, output: Path) -> None:
    """Make one file of several adapters; its path goes to stdout."""
    from dbrun.use.adapter_files import named
    from dbrun.use.convert import SUM, write_sum
    from dbrun.use.join_loras import refuse
    from dbrun.use.trigger_words import left_behind

    ways, full = ("concatenated", "linear", "full"), how == "full"
    form = _format(to or (SUM if full else "diffusers"))
    if how not in ways:
        raise UsageError(f"found --how {how}, allowed: {', '.join(ways)}")
    if full and form.NAME != SUM:
        raise UsageError(f"found --to {form.NAME}, and only {SUM} has names for changes of any kind",
                         fix=f"write --to {SUM}, or leave it out")
    if len(words) < 2 and not full:
        raise UsageError("found one adapter, and merging wants two or more", fix="dbrun merge A:0.7 B:0.5 -o C")
    parts = [named(word) for word in words]
    at_hand = _base(parts, base)
    document = {"format_version": 1, "merged": {"how": how, "of": [_source(part) for part in parts]}}
    if full:
        difference = write_sum(parts, at_hand, _target(output, form), document)
    else:
        refuse(parts, at_hand.family)
        difference = _join(parts, how, at_hand, form, _target(output, form), document)
    for text in left_behind(parts, at_hand.family):
        say(f"lost: {text}")
    _made(output, form, difference)


def _join(parts: Sequence[Named], how: str, at_hand: AtHand, form: Format, target: Path,
          document: Mapping[str, object]) -> float:
    """Write one LoRA of several, and say how far it is from their sum; the difference once it is read back."""
    from dbrun.use.convert import write
    from dbrun.use.join_loras import concatenated, linear

    opened = [_open(part, at_hand) for part in parts]
    merged, far = {}, 0.0
    for component in dict.fromkeys(c for adapters in opened for c in adapters):
        own = [(part.weight, adapters[component]) for part, adapters in zip(parts, opened, strict=True)
               if component in adapters]
        if how == "linear":
            merged[component], off = linear(own)
            far = max(far, off)
        else:
            merged[component] = concatenated(own)
    if how == "linear":
        say(f"lost: `linear` adds factors, not updates: it is {far:.0%} away from the sum; concatenated is exact")
    return write(merged, at_hand, form, target, document, parts if how == "concatenated" else ())


def convert_file(word: str, to: str, base: str | None, output: Path | None) -> None:
    """Write an adapter in another format, and say what is lost; its path goes to stdout."""
    from dbrun.formats.model_card import cautions
    from dbrun.use.adapter_files import named
    from dbrun.use.convert import lost, write
    from dbrun.use.trigger_words import left_behind

    part, form = named(word), _format(to)
    if not part.form.ASKED:
        raise UsageError(f"{part.label} is of the format {part.form.NAME}, of which no other is made",
                         fix=f"for what it adds to its base: dbrun merge {word} -o C --how full"
                         if part.form.CARRIES == "adapters" else "diffusers, ComfyUI and A1111 read its file as it is")
    if part.weight != 1:
        raise UsageError(f"found the weight {part.weight:g}, and a conversion changes none",
                         fix=f"dbrun merge {word} OTHER -o C")
    at_hand = _base([part], base)
    adapters = _open(part, at_hand)
    target = _target(output or part.place.with_name(f"{part.label}-{form.NAME}"), form)
    document = {**part.document, "converted": {"from": part.form.NAME}} if part.document else {
        "format_version": 1, "converted": _source(part)}
    difference = write(adapters, at_hand, form, target, document, [part])
    for text in (*lost(part), *left_behind([part], at_hand.family)):
        say(f"lost: {text}")
    for text in cautions(at_hand.family, (form.NAME,), adapters):
        warn(text)
    _made(target, form, difference)


def push_folder(folder: Path, repo: str, *, public: bool, dry_run: bool) -> None:
    """Send a delivered folder to the Hub; where it can be seen goes to stdout."""
    from dbrun.disk_space import words
    from dbrun.use.publish import parcel, send

    sent = parcel(folder, repo, private=not public)
    for name, size in sent.files.items():
        say(f"{words(size):>9}  {name}")
    seen = "private" if sent.private else "public"
    say(f"{counted(len(sent.files), 'file')}, {words(sum(sent.files.values()))} → {repo}, {seen} if it is new")
    if dry_run:
        say("nothing is sent: this is what would be, without --dry-run")
    else:
        put(send(sent))


def _base(parts: Sequence[Named], asked: str | None) -> AtHand:
    """The base of these adapters, all of which hold something for it."""
    from dbrun.store.store import store_at_hand
    from dbrun.use.bases import base_for

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    at_hand, notes = base_for([a.document for a in parts], asked, [a.place for a in parts], store_at_hand())
    for part in parts:
        part.components(at_hand.family)
    for note in notes:
        warn(str(note))
    return at_hand


def _open(part: Named, at_hand: AtHand) -> Adapters:
    from dbrun.use.convert import opened

    adapters, changed = opened(part, at_hand, at_hand.load(device="cpu"))
    for text in changed:
        say(f"{part.label}: {text}")
    return adapters


def _format(name: str) -> Format:
    from dbrun.formats.base import formats

    able = [form.NAME for form in formats().values() if form.ASKED]
    if name not in able:
        raise UsageError(f"found --to {name}, allowed: {', '.join(able)}")
    return formats()[name]


def _target(output: Path, form: Format) -> Path:
    """A file for a format of one file, a folder for the others."""
    one = len(form.laid_out("denoiser")) == 1
    return output.with_name(output.name + ".safetensors") if one and output.suffix != ".safetensors" else output


def _source(part: Named) -> dict[str, object]:
    """What an adapter that went into another was: its bytes, its weight, and what dbrun knows of it."""
    digests = [hashlib.sha256(files[-1].read_bytes()).hexdigest() for files in part.files]
    return {"from": part.form.NAME, "sha256": digests, "weight": part.weight,
            **({"provenance": dict(part.document)} if part.document else {})}


def _made(target: Path, form: Format, difference: float) -> None:
    from dbrun.formats.roundtrip import nearness

    say(f"{form.NAME}: read back by its own library, {nearness(difference)}")
    put(str(_target(target, form)))
