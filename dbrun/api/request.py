"""The recipe that a caller asks for, as a file, a mapping or a text, and the reading of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dbrun.events import Emit
from dbrun.recipe.load import EXPORT_SUFFIX, LoadedRecipe, RecipeTemplate, load_with_problems
from dbrun.recipe.schema.model import Recipe
from dbrun.resolve.sources import ResolvedSources, resolve_sources
from dbrun.store.store import URL_VARIABLE, Store, current_store

RecipeLike = str | os.PathLike[str] | Mapping[str, Any] | Recipe
"""A recipe: the path of its file or of an exported .safetensors, the name of one that comes with dbrun, its data, or a
validated `Recipe`."""
FolderLike = str | os.PathLike[str]
DATA_NAME, STDIN_NAME = "<recipe>", "<stdin>"
"""What stands in messages in the place of a file's name."""


@dataclass(frozen=True)
class RecipeRequest:
    """A recipe as a caller names it: its file, `key=value` overrides and profiles.

    text: the recipe's own where it is in no file; recipe is then only a name, in the folder that its paths start at;
    folder: where relative paths of overrides start, None for the current one; store: the store's folder, None for
    that of the environment; template: the recipe's file with these profiles, where many requests share its reading.
    """

    recipe: Path
    overrides: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    text: str | None = None
    folder: Path | None = None
    store: Path | None = None
    template: RecipeTemplate | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return " ".join(self.words)

    @property
    def words(self) -> tuple[str, ...]:
        """The request as words of a command line, such as those after `dbrun run`."""
        words = ["-" if self.text is not None else str(self.recipe)]
        for name in self.profiles:
            words += ["--profile", name]
        if self.store is not None:
            words += ["--store", str(self.store)]
        return (*words, *self.overrides)

    def open_store(self) -> Store:
        """The store that results are looked for in, with the remote one behind it.

        Raises UsageError for a path that is not UTF-8 and for wrong settings of the remote store.
        """
        store = current_store(self.store)
        if URL_VARIABLE in os.environ:
            # imported here: most runs have no remote store
            from dbrun.store.remote_settings import configured_remote

            store.remote = configured_remote(os.environ)
        return store

    def load(self) -> LoadedRecipe:
        """The recipe, without a look at what it points at. Raises InvalidRecipe."""
        from dbrun.recipe.text.spans import InvalidRecipe

        loaded, problems = self.load_with_problems()
        if problems:
            raise InvalidRecipe(problems)
        return loaded

    def load_with_problems(self) -> tuple[LoadedRecipe, tuple[Any, ...]]:
        """The recipe, and the problems without which the rest of it is usable. Raises InvalidRecipe."""
        if self.template is not None:
            return self.template.load(self.overrides, folder=self.folder)
        return load_with_problems(self.recipe, self.overrides, self.profiles, text=self.text, folder=self.folder)


def make_request(recipe: RecipeLike, overrides: Sequence[str] = (), profiles: Sequence[str] = (),
                 folder: FolderLike | None = None, store: FolderLike | None = None) -> RecipeRequest:
    """The request for a recipe. folder: where relative paths of data and of overrides start, None for the current one.

    Raises RecipeError for data that no recipe can hold, and UsageError for nearly the name of a recipe.
    """
    start = Path(folder) if folder is not None else None
    root = Path(store) if store is not None else None
    rest = tuple(overrides), tuple(profiles)
    if isinstance(recipe, str | os.PathLike):
        from dbrun.recipe.shipped import find_recipe

        return RecipeRequest(find_recipe(Path(recipe)), *rest, folder=start, store=root)
    # what was written, not its defaults: a default of another version means what it meant there
    data = recipe.model_dump(mode="json", by_alias=True, exclude_unset=True) if isinstance(recipe, Recipe) else recipe
    from dbrun.recipe.text.from_data import recipe_text

    return RecipeRequest((start or Path()) / DATA_NAME, *rest, text=recipe_text(data), folder=start, store=root)


def read_request(request: RecipeRequest, store: Store, emit: Emit | None = None, *, decode: bool = False,
                 reading: AbstractContextManager[None] | None = None,
                 processes: int = 1) -> tuple[LoadedRecipe, ResolvedSources]:
    """The requested recipe and what its paths point at. Raises DbrunError.

    emit: given by callers that run the recipe; data sets and encoders are then fetched from the Hub, with progress sent
    to emit; decode: decode every picture completely, to find damaged ones; reading: context manager that is held while
    files are read; processes: the number that a launcher started to share the run.
    """
    loaded, problems = request.load_with_problems()
    loaded = replace(loaded, recipe=loaded.recipe.shared_by(processes))
    # Only `run` fetches: a command that reads must neither download nor write.
    if emit is not None and not problems and any(one.revision for one in loaded.recipe.subjects_by_key.values()):
        from dbrun.resolve.datasets import fetch_datasets

        fetch_datasets(loaded, store, emit)
    if emit is not None and not problems and loaded.recipe.score_encoders:
        from dbrun.resolve.encoders import fetch_encoders

        fetch_encoders(loaded, store, emit)
    with reading or nullcontext():
        resolved = resolve_sources(loaded, store, decode, problems)
    # A recipe rebuilt from an exported file: say where this machine differs from what the export was made with.
    if loaded.path.suffix == EXPORT_SUFFIX:
        from dbrun.plan.provenance_diff import provenance_notes
        from dbrun.safetensors_header import read_provenance

        new_notes = provenance_notes(read_provenance(loaded.path), loaded.recipe, resolved)
        resolved = replace(resolved, notes=(*resolved.notes, *new_notes))
    return loaded, resolved
