"""Adapter files named on a command line: where they are and what they hold, read without torch."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from dbrun.errors import RecipeError, UsageError
from dbrun.finite_weights import check_finite
from dbrun.formats.base import Format, formats
from dbrun.formats.base_kind import check_base_kind, with_base_kind
from dbrun.formats.foreign_names import bundled_words
from dbrun.input_file import file_exists, path_exists
from dbrun.models.base import Family
from dbrun.models.ldm_layouts import is_whole_base
from dbrun.naming import CHECKPOINT_SUFFIXES, forbidden_in_prompt
from dbrun.recipe.checks.suggestions import join_with_or
from dbrun.safetensors_header import METADATA_KEY, read_header, read_provenance

if TYPE_CHECKING:
    from dbrun.use.bases import LocalBase

MAX_WEIGHT = 1000.0
"""Largest absolute weight of an adapter; a larger number is taken for a typing error."""


@dataclass(frozen=True)
class AdapterFile:
    """An adapter as the user named it.

    place: its file or folder; weight: factor of its update; form: its format;
    files: one entry per unit that the format reads at once: PEFT has one per component.
    """

    place: Path
    weight: float
    form: Format
    files: tuple[tuple[Path, ...], ...]

    @property
    def label(self) -> str:
        """Name of its file or folder, followed by its weight unless that is 1."""
        # Resolved, so that `.` has a name too.
        name = self.place.resolve().name.removesuffix(".safetensors")
        if self.weight == 1:
            return name
        return f"{name}:{self.weight:g}"

    @property
    def document(self) -> Mapping[str, Any]:
        """Provenance that dbrun wrote into it; empty for files of other programs."""
        # The last file of a unit holds the weights; a config before it has no header.
        weights = self.files[0][-1]
        if METADATA_KEY not in read_header(weights).metadata:
            return {}
        return read_provenance(weights)

    def components(self, family: Family) -> Mapping[str, tuple[str, tuple[Path, ...]]]:
        """Component of the family -> (adapter type, files) of what it holds.

        Raises RecipeError if it holds nothing for the family.
        """
        found: dict[str, tuple[str, tuple[Path, ...]]] = {}
        why: RecipeError | None = None
        for files in self.files:
            for component in self.form.candidate_components(files, family):
                try:
                    found[component] = (self.form.adapter_type(files, family, component), files)
                except RecipeError as error:
                    # No error yet: most files hold some of the components only.
                    why = why or error
        if not found:
            why = why or RecipeError(f"{self.place} holds no adapter", fix="name another file")
            raise with_base_kind(why, str(self.place), self._weight_files)
        return found

    @property
    def unread_words(self) -> tuple[str, ...]:
        """New words that another trainer put into the file of a LoRA; only its layers are read."""
        return tuple(word for weights in self._weight_files for word in bundled_words(read_header(weights).tensors))

    def check_base(self, base: LocalBase) -> None:
        """Raise RecipeError if it is for another kind of base, or holds nothing for the base's family."""
        check_base_kind(str(self.place), self._weight_files, base.folder)
        self.components(base.family)

    @property
    def _weight_files(self) -> list[Path]:
        return [files[-1] for files in self.files]

    @contextmanager
    def linked_folder(self, family: Family) -> Iterator[tuple[Path, tuple[str, ...]]]:
        """Context manager: a temporary folder with links where the format's reader looks, and the components in it.

        A RecipeError of the reader gets the adapter's name and the kind of base that it is for.
        """
        components = self.components(family)
        with TemporaryDirectory(prefix="dbrun-") as name:
            for component, (_, files) in components.items():
                relative_paths = self.form.relative_paths(component)
                # Not strict if there are no paths: files of new words are read where they are, without a link.
                for file, relative in zip(files, relative_paths, strict=bool(relative_paths)):
                    target = Path(name) / relative
                    target.parent.mkdir(parents=True, exist_ok=True)
                    # One file can hold several components.
                    if not target.exists():
                        target.symlink_to(file.resolve())
            try:
                yield Path(name), tuple(components)
            except RecipeError as error:
                # The formats know the file by its usual name only, and the user by its own.
                raise with_base_kind(error, str(self.place), self._weight_files) from error


def find_adapter(word: str) -> AdapterFile:
    """Find the adapter for `dog.safetensors`, `outputs/sks_dog` or `dog.safetensors:0.6` (with a weight).

    Raises UsageError if the path does not exist or holds no adapter, RecipeError if its file holds nan or infinity.
    """
    place, weight = _split_weight(word)
    for form, files in _find_in_formats(place):
        if files:
            for weights in dict.fromkeys(unit[-1] for unit in files):
                check_finite(weights)
            return AdapterFile(place, weight, form, files)
    check_no_pickle(place)
    check_no_base(place)
    if not path_exists(place):
        before_colon, _, number = word.rpartition(":")
        # not in `_split_weight`, which also sees prompts such as "dog: a drawing"
        if before_colon and path_exists(Path(before_colon)):
            raise UsageError(f"found the weight {number!r} for {before_colon}", fix="write a number such as 0.6")
        raise UsageError(f"{place} does not exist", fix="name an adapter's file or folder, such as outputs/sks_dog")
    allowed = join_with_or([form.FILE_DESCRIPTION for form in formats().values() if form.FILE_DESCRIPTION])
    raise UsageError(f"{place} holds no adapter", fix=f"name {allowed}, or a folder that `dbrun run` wrote")


def check_no_pickle(place: Path) -> None:
    """Raise UsageError for a file of pickled weights, with a command that rewrites it. Reads nothing of it."""
    readable, *pickled = CHECKPOINT_SUFFIXES
    if place.suffix.lower() not in pickled or not file_exists(place):
        return
    new_place = place.with_suffix(readable)
    # `weights_only` runs no code of the file; a checkpoint of a trainer and a word of A1111's are one level deeper
    program = ("import sys, torch; from safetensors.torch import save_file; "
               "found = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
               "found = found.get('state_dict', found); "
               "found = {'emb_params': found['string_to_param']['*']} if 'string_to_param' in found else found; "
               "save_file({key: value.contiguous() for key, value in found.items() if torch.is_tensor(value)}, "
               "sys.argv[2])")
    raise UsageError(f"{place} is a pickle, which can run code when it is read; only {readable} files are read",
                     fix=f'take the {readable} file of the same model; or convert it, where you trust its author: '
                         f'python -c "{program}" {shlex.quote(str(place))} {shlex.quote(str(new_place))}')


def check_no_base(place: Path) -> None:
    """Raise UsageError for a checkpoint of a whole base, with what it is for."""
    if place.suffix == ".safetensors" and file_exists(place) and is_whole_base(read_header(place).tensors):
        raise UsageError(f"{place} is a checkpoint of a whole base, and no adapter",
                         fix=f"use an adapter on it: dbrun sample ADAPTER PROMPT --base {shlex.quote(str(place))}; or "
                             f"train on it: `base: {{path: {place.name}}}` in a recipe")


def split_adapters_and_prompt(words: Sequence[str]) -> tuple[tuple[AdapterFile, ...], str]:
    """Split arguments into adapters and the prompt, which comes last. Raises UsageError if one of them is missing."""
    if len(words) < 2:
        raise UsageError("found no prompt after the adapter", fix='dbrun sample ADAPTER "a photo of sks dog"')
    last_place, _ = _split_weight(words[-1])
    # A prompt that is the name of a file is nearly always a forgotten prompt.
    if path_exists(last_place):
        raise UsageError(f"found {words[-1]}, an adapter, in the place of the prompt",
                         fix='dbrun sample ADAPTER … "a photo of sks dog"')
    bad = forbidden_in_prompt(words[-1])
    if bad:
        raise UsageError(f"found {bad} in the prompt, which no prompt may hold", fix="write the prompt without it")
    return tuple(find_adapter(word) for word in words[:-1]), words[-1]


def _split_weight(word: str) -> tuple[Path, float]:
    """Split `PATH:WEIGHT`; the weight is 1 without one. Raises UsageError for a weight out of range."""
    # A path that exists is taken whole: a `:` is allowed in file names.
    place, colon, number = word.rpartition(":")
    if not colon or path_exists(Path(word)):
        return Path(word), 1.0
    try:
        weight = float(number)
    except ValueError:
        return Path(word), 1.0
    # Negated, so that `nan` fails, which float() takes.
    if not abs(weight) <= MAX_WEIGHT:
        raise UsageError(f"found the weight {number} for {place}", fix="write a number such as 0.6")
    return Path(place), weight


def _find_in_formats(place: Path) -> Iterator[tuple[Format, tuple[tuple[Path, ...], ...]]]:
    """Yield every format with the files that it finds at a place.

    A place is a file, the format's own folder, or a folder with one folder per component.
    """
    folder = place
    # A PEFT adapter named by its weights: the config beside them belongs to it.
    if place.name == "adapter_model.safetensors":
        folder = place.parent
    # In the output of a run, which holds several formats, the small files for use on a base come first.
    by_size = sorted(formats().values(), key=lambda form: (form.LARGE, form.CONTENT != "adapters"))
    for form in by_size:
        entries = [*(folder / form.NAME).glob("*"), *folder.glob("*")]
        inner = sorted(path for path in entries if path.is_dir())
        per_folder = [form.find_files(p) for p in (folder, *inner)]
        # Two of these folders can lead to the same files.
        yield form, tuple(dict.fromkeys(files for files in per_folder if files))
