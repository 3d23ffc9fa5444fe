"""New adapter files from existing ones: converted to another format, or several merged into one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.errors import UsageError
from dbrun.formats.base import Format, formats
from dbrun.formats.diffusers import CONFIG_ENTRY
from dbrun.formats.merge_weights import remove_adapter
from dbrun.formats.shown_metadata import TRAINING_PREFIXES
from dbrun.input_file import path_exists
from dbrun.safetensors_header import read_header
from dbrun.use.adapter_files import AdapterFile
from dbrun.use.bases import LocalBase
from dbrun.use.blend import Blend
from dbrun.use.import_adapter import convert_imported

if TYPE_CHECKING:
    from dbrun.models.base import Model

Adapters = Mapping[str, ComponentAdapter]
"""Component -> its adapter."""
SUM_FORMAT = "kohya"
"""The format that can hold a difference of any weight of a layer."""


def import_file(named: AdapterFile, base: LocalBase, model: Model) -> tuple[Adapters, tuple[str, ...]]:
    """The adapters in a file by component, and what had to be changed about them, in words.

    The model has no adapter afterwards. Raises RecipeError if an adapter fits no type of dbrun's, or not the base.
    """
    adapters: dict[str, ComponentAdapter] = {}
    changes: list[str] = []
    with named.linked_folder(base.family) as (folder, components):
        for component in components:
            try:
                given = named.form.import_adapter(folder, model, component)
            finally:
                # diffusers' reader puts adapters on all components that the file holds, not on this one only.
                for other in base.family.components:
                    remove_adapter(model.module(other))
            adapters[component], texts = convert_imported(given, model.module(component))
            changes += [f"{component}: {text}" for text in texts]
    return adapters, tuple(changes)


def lost_metadata(named: AdapterFile) -> tuple[str, ...]:
    """Clause on metadata entries that a conversion drops; empty if there are none."""
    keys: set[str] = set()
    for files in named.files:
        keys.update(read_header(files[-1]).metadata)
    # `format` is safetensors' own, dbrun's provenance is written anew, what programs show is kept, and diffusers reads
    # its own entry together with the tensors.
    lost = sorted(key for key in keys - {"format", "dbrun", CONFIG_ENTRY} if not key.startswith(TRAINING_PREFIXES))
    if not lost:
        return ()
    shown = ", ".join(lost[:4])
    if len(lost) > 4:
        shown += " …"
    return (f"{len(lost)} entries of its metadata: {shown}",)


def unsupported_reasons(adapters: Adapters, base: LocalBase, form: Format) -> tuple[str, ...]:
    """Why a format cannot carry these adapters, one clause per component; empty if it can."""
    from dbrun.adapters.base import Adapter

    reasons = []
    for component, attached in adapters.items():
        assert isinstance(attached.adapter, Adapter)
        why = form.unsupported_reason(base.family, component, attached.adapter)
        if why:
            # The clause names the recipe's key, but there is no recipe here.
            plain = why.replace(f"`adapt.{component}`", f"the {component}")
            reasons.append(f"{form.NAME}, {plain}")
    return tuple(reasons)


def write_adapter_file(adapters: Adapters, base: LocalBase, form: Format, target: Path, document: Mapping[str, Any],
                       like: Sequence[AdapterFile]) -> float:
    """Write adapters in a format to target after a check by its own library; returns the largest difference found.

    target: a file for a format of one file, else a folder; an existing one is not overwritten. like: files that must
    together predict the same, each read by its own library; if empty, the adapters themselves are the reference.
    Raises UsageError if the format cannot carry them or target exists, StageFailed if the predictions differ.
    """
    reasons = unsupported_reasons(adapters, base, form)
    if reasons:
        able = [f.NAME for f in formats().values() if f.FILE_DESCRIPTION and not unsupported_reasons(adapters, base, f)]
        raise UsageError(f"the adapter cannot be written as {reasons[0]}", fix=f"write --to {' or --to '.join(able)}")

    def write_to(folder: Path, _: Model) -> tuple[Path, ...]:
        return form.write(folder, base.family, adapters, lambda: base.load(device="cpu"))

    return _write_verified(_Output(write_to, adapters, tuple(adapters)), base, form, target, document, like)


def write_sum(parts: Sequence[AdapterFile], base: LocalBase, target: Path, document: Mapping[str, Any]) -> float:
    """Write the sum of adapters of any type as differences of weights, by kohya's names, after the same check.

    Returns and raises as `write_adapter_file`; also raises UsageError if the adapters change no weight.
    """
    from dbrun.formats.weight_diff import write_weight_diff

    components: set[str] = set()
    for part in parts:
        components.update(part.components(base.family))
    if components.issubset(base.family.token_components):
        raise UsageError("found only new words, and they change no weight of the base",
                         fix="use their own files as they are")

    def write_to(folder: Path, model: Model) -> tuple[Path, ...]:
        differences = Blend(model).weight_differences(parts)
        if not differences:
            raise UsageError("found nothing that changes a weight of the base", fix="name another adapter")
        return write_weight_diff(folder, model, differences)

    in_order = tuple(c for c in base.family.components if c in components)
    return _write_verified(_Output(write_to, {}, in_order), base, formats()[SUM_FORMAT], target, document, parts)


@dataclass(frozen=True)
class _Output:
    """What is to be written.

    write_to: writes it into a folder, given an untouched base; adapters: those whose weights it must hold unchanged;
    components: those that it holds anything for.
    """

    write_to: Callable[[Path, Model], tuple[Path, ...]]
    adapters: Adapters
    components: tuple[str, ...]


def _write_verified(output: _Output, base: LocalBase, form: Format, target: Path, document: Mapping[str, Any],
                    like: Sequence[AdapterFile]) -> float:
    """Write, read back on a fresh base, compare with the reference; move to target only if all went well."""
    from dbrun.formats.roundtrip import Probe, ReferencePredictions
    from dbrun.formats.shown_metadata import inherited_metadata, set_name, shown_metadata
    from dbrun.formats.stamp import write_provenance

    if path_exists(target):
        raise UsageError(f"{target} exists already", fix="name another with -o")
    model = base.load(device="cpu")
    multiple = base.family.resolution_multiple(base.folder)
    # About 64 pixels: enough to tell adapters apart, and seconds on a CPU.
    probe = Probe("a photo", multiple * max(1, 64 // multiple))
    without = probe.predict(model)
    Blend(model).apply(like)
    if not like:
        for component, attached in output.adapters.items():
            attached.attach_to(model.module(component))
    expected = ReferencePredictions(without, probe.predict(model), dict(output.adapters))

    # Written to a temporary folder, so that target never holds a file that failed the check.
    with TemporaryDirectory(prefix="dbrun-") as name:
        folder = Path(name)
        fresh = base.load(device="cpu")
        written = output.write_to(folder, fresh)
        form.read(folder, fresh, output.components)
        difference = expected.compare(probe.predict(fresh), fresh, form, tuple(output.adapters))
        names = base.family.published_names(base.folder)
        inherited: dict[str, str] = {}
        # Of several adapters no one's training is that of the sum.
        if len(like) == 1:
            inherited = inherited_metadata(read_header(like[0].files[0][-1]).metadata)
        for path in written:
            shown = shown_metadata(path, document, names, form.SPEC_SUFFIX or "")
            write_provenance(path, document, {**inherited, **shown})
            set_name(path, target.name.removesuffix(".safetensors"))
        target.parent.mkdir(parents=True, exist_ok=True)
        result = folder / form.NAME
        # One path per component means one file for all components.
        if len(form.relative_paths("denoiser")) == 1:
            result = written[0]
        shutil.move(result, target)
    return difference
