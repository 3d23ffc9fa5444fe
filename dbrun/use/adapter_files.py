"""Which adapter files do the words of a command line name, and what do they hold? Read without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dbrun.errors import RecipeError, UsageError
from dbrun.formats.base import Format, formats
from dbrun.models.base import Family
from dbrun.recipe.checks.suggestions import join_with_or
from dbrun.safetensors_header import METADATA_KEY, read_header, read_provenance

MAX_WEIGHT = 1000.0
"""The largest weight of an adapter that can be meant."""


@dataclass(frozen=True)
class AdapterFile:
    """An adapter as it was named. files: of each place that it stands in; a PEFT adapter has one a component."""

    place: Path
    weight: float
    form: Format
    files: tuple[tuple[Path, ...], ...]

    @property
    def label(self) -> str:
        """What to call it: its file's or folder's name, and its weight where that is not 1."""
        name = self.place.resolve().name.removesuffix(".safetensors")
        return name if self.weight == 1 else f"{name}:{self.weight:g}"

    @property
    def document(self) -> Mapping[str, Any]:
        """The provenance that dbrun wrote into it, empty where it is another program's."""
        file = self.files[0][-1]
        return read_provenance(file) if METADATA_KEY in read_header(file).metadata else {}

    def components(self, family: Family) -> Mapping[str, tuple[str, tuple[Path, ...]]]:
        """What it holds of a family: component -> the type there, and the files. Raises RecipeError for nothing."""
        found: dict[str, tuple[str, tuple[Path, ...]]] = {}
        why: RecipeError | None = None
        for files in self.files:
            for component in self.form.candidate_components(files, family):
                try:
                    found[component] = (self.form.adapter_type(files, family, component), files)
                except RecipeError as error:
                    why = error
        if not found:
            raise why or RecipeError(f"{self.place} holds no adapter", fix="name another file")
        return found

    @contextmanager
    def linked_folder(self, family: Family) -> Iterator[tuple[Path, tuple[str, ...]]]:
        """A folder in which the format's reader finds it, while this is open, and the components that are there."""
        components = self.components(family)
        with TemporaryDirectory(prefix="dbrun-") as name:
            for component, (_, files) in components.items():
                homes = self.form.relative_paths(component)
                # new words are read where they lie
                for file, home in zip(files, homes, strict=bool(homes)):
                    target = Path(name) / home
                    target.parent.mkdir(parents=True, exist_ok=True)
                    if not target.exists():
                        target.symlink_to(file.resolve())
            yield Path(name), tuple(components)


def find_adapter(word: str) -> AdapterFile:
    """The adapter that a word such as `dog.safetensors`, `outputs/sks_dog` or `dog.safetensors:0.6` names."""
    place, weight = _split_weight(word)
    for form, files in _find_in_formats(place):
        if files:
            return AdapterFile(place, weight, form, files)
    if not place.exists():
        raise UsageError(f"{place} is not there", fix="name an adapter's file or folder, such as outputs/sks_dog")
    asked = join_with_or([form.FILE_DESCRIPTION for form in formats().values() if form.FILE_DESCRIPTION])
    raise UsageError(f"{place} holds no adapter", fix=f"name {asked}, or a folder that `dbrun run` wrote")


def split_adapters_and_prompt(words: Sequence[str]) -> tuple[tuple[AdapterFile, ...], str]:
    """The adapters and the prompt, which stands behind them. Raises UsageError where one of the two is missing."""
    if len(words) < 2:
        raise UsageError("found no prompt behind the adapter", fix='dbrun sample ADAPTER "a photo of sks dog"')
    if _split_weight(words[-1])[0].exists():
        raise UsageError(f"found {words[-1]}, an adapter, where the prompt should stand",
                         fix='dbrun sample ADAPTER … "a photo of sks dog"')
    return tuple(find_adapter(word) for word in words[:-1]), words[-1]


def _split_weight(word: str) -> tuple[Path, float]:
    place, colon, number = word.rpartition(":")
    if not colon or Path(word).exists():
        return Path(word), 1.0
    try:
        weight = float(number)
    except ValueError:
        return Path(word), 1.0
    if not abs(weight) <= MAX_WEIGHT:
        raise UsageError(f"found the weight {number} for {place}", fix="write a number such as 0.6")
    return Path(place), weight


def _find_in_formats(place: Path) -> Iterator[tuple[Format, tuple[tuple[Path, ...], ...]]]:
    """Every format, small ones of adapters first, with what it finds at a place.

    That is a file, its own folder, or one that holds a folder a component.
    """
    folder = place.parent if place.name == "adapter_model.safetensors" else place
    for form in sorted(formats().values(), key=lambda form: (form.LARGE, form.CONTENT != "adapters")):
        inner = sorted(p for home in (folder / form.NAME, folder) for p in home.glob("*") if p.is_dir())
        found = [form.find_files(p) for p in (folder, *inner)]
        yield form, tuple(dict.fromkeys(files for files in found if files))
