"""How does a new adapter file come from others: the same in another format, or several as one?"""

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
from dbrun.formats.merge_weights import remove_adapter
from dbrun.safetensors_header import read_header
from dbrun.use.adapter_files import AdapterFile
from dbrun.use.bases import LocalBase
from dbrun.use.blend import Blend
from dbrun.use.import_adapter import convert_imported

if TYPE_CHECKING:
    from dbrun.models.base import Model

Adapters = Mapping[str, ComponentAdapter]
SUM_FORMAT = "kohya"
"""The format whose names can hold a change of any weight of a layer."""


def import_file(named: AdapterFile, base: LocalBase, model: Model) -> tuple[Adapters, tuple[str, ...]]:
    """What a file holds, by component, and what had to be changed about it; loaded stays bare."""
    found: dict[str, ComponentAdapter] = {}
    changed: list[str] = []
    with named.linked_folder(base.family) as (folder, components):
        for component in components:
            try:
                given = named.form.import_adapter(folder, model, component)
            finally:
                for other in base.family.components:
                    remove_adapter(model.module(other))
            found[component], said = convert_imported(given, model.module(component))
            changed += [f"{component}: {text}" for text in said]
    return found, tuple(changed)


def lost_metadata(named: AdapterFile) -> tuple[str, ...]:
    """What of a file no other format carries on."""
    said = sorted({key for files in named.files for key in read_header(files[-1]).metadata} - {"format", "dbrun"})
    shown = ", ".join(said[:4]) + (" …" if len(said) > 4 else "")
    return (f"{len(said)} entries of its metadata: {shown}",) if said else ()


def unsupported_reasons(adapters: Adapters, base: LocalBase, form: Format) -> tuple[str, ...]:
    """Why a format cannot carry these adapters, a line a component."""
    from dbrun.adapters.base import Adapter

    found = []
    for component, attached in adapters.items():
        assert isinstance(attached.adapter, Adapter)
        if why := form.unsupported_reason(base.family, component, attached.adapter):
            found.append(f"{form.NAME}, {why.replace('`adapt.' + component + '`', 'the ' + component)}")
    return tuple(found)


def write_adapter_file(adapters: Adapters, base: LocalBase, form: Format, target: Path, document: Mapping[str, Any],
                       like: Sequence[AdapterFile]) -> float:
    """Write adapters in a format to target, once its own library reads back what they predict; the difference.

    target: a file for a format of one file, else a folder; nothing that stands there is overwritten. like: files that
    together predict the same, read each by its own library; none where the adapters themselves are to be believed.
    """
    if why := unsupported_reasons(adapters, base, form):
        able = [f.NAME for f in formats().values() if f.FILE_DESCRIPTION and not unsupported_reasons(adapters, base, f)]
        raise UsageError(f"it cannot be written as {why[0]}", fix=f"write --to {' or --to '.join(able)}")

    def write_to(folder: Path, _: Model) -> tuple[Path, ...]:
        return form.write(folder, base.family, adapters, lambda: base.load(device="cpu"))

    return _write_verified(_Output(write_to, adapters, tuple(adapters)), base, form, target, document, like)


def write_sum(parts: Sequence[AdapterFile], base: LocalBase, target: Path, document: Mapping[str, Any]) -> float:
    """Write what adapters of any type add to the base's weights, under kohya's names;
    as `write_adapter_file` otherwise."""
    from dbrun.formats.weight_diff import write_weight_diff

    def write_to(folder: Path, model: Model) -> tuple[Path, ...]:
        differences = Blend(model).weight_differences(parts)
        if not differences:
            raise UsageError("they change no weight of the base, so there is nothing to write")
        return write_weight_diff(folder, model, differences)

    components = {component for part in parts for component in part.components(base.family)}
    made = _Output(write_to, {}, tuple(c for c in base.family.components if c in components))
    return _write_verified(made, base, formats()[SUM_FORMAT], target, document, parts)


@dataclass(frozen=True)
class _Output:
    """What is written. write_to: writes it into a folder, over a base; adapters: those that it holds as they are."""

    write_to: Callable[[Path, Model], tuple[Path, ...]]
    adapters: Adapters
    components: tuple[str, ...]


def _write_verified(made: _Output, base: LocalBase, form: Format, target: Path, document: Mapping[str, Any],
                    like: Sequence[AdapterFile]) -> float:
    from dbrun.formats.roundtrip import Probe, ReferencePredictions
    from dbrun.formats.stamp import write_provenance

    if target.exists():
        raise UsageError(f"{target} is there already", fix="name another with -o")
    model = base.load(device="cpu")
    multiple = base.family.resolution_multiple(base.folder)
    probe = Probe("a photo", multiple * max(1, 64 // multiple))
    bare = probe.predict(model)
    blend = Blend(model)
    blend.apply(like)
    if not like:
        for component, attached in made.adapters.items():
            attached.attach_to(model.module(component))
    expected = ReferencePredictions(bare, probe.predict(model), dict(made.adapters))
    with TemporaryDirectory(prefix="dbrun-") as name:
        fresh = base.load(device="cpu")
        written = made.write_to(Path(name), fresh)
        form.read(Path(name), fresh, made.components)
        difference = expected.compare(probe.predict(fresh), fresh, form, tuple(made.adapters))
        for path in written:
            write_provenance(path, document)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(written[0] if len(form.relative_paths("denoiser")) == 1 else Path(name) / form.NAME, target)
    return difference
