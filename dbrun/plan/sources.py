"""What do a recipe's paths point at, as contents, and does it fit the recipe?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from pathlib import Path

from dbrun.adapters.embedding import Embedding
from dbrun.errors import RecipeError
from dbrun.events import Note
from dbrun.families.base import families
from dbrun.families.tokens import cuts, may_be_cut, tokenizer_of
from dbrun.formats.base import formats
from dbrun.plan import shapes
from dbrun.plan.base import find_base
from dbrun.plan.given import FoundAdapter, Wanted, find_adapter
from dbrun.plan.layers import check_layers
from dbrun.plan.masks import check_any
from dbrun.plan.pictures import Asked, FoundPictures, find_pictures, in_order
from dbrun.plan.training import training_notes
from dbrun.recipe.load import LoadedRecipe
from dbrun.recipe.model import Recipe
from dbrun.recipe.objective import AS_THE_BASE, misfits
from dbrun.recipe.places import Problem, Problems
from dbrun.recipe.subject import Subject
from dbrun.stages.base import Picture, Sources
from dbrun.stages.views import cutting_of
from dbrun.store.store import Store
from dbrun.values import dataclass


@dataclass(frozen=True)
class Located:
    """A recipe's sources.

    files: sha256 → a path of a picture, or of a file of an adapter to start from; notes: for the user; revision: of a
    Hub base whose commit is not known yet; out_of_reach: why the base cannot be fetched, if it cannot; names: picture →
    the names of its files, several where it lies there more than once.
    """

    sources: Sources
    files: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    revision: str | None = None
    out_of_reach: str | None = None
    names: Mapping[Picture, tuple[str, ...]] = field(default_factory=dict)


def locate(loaded: LoadedRecipe, store: Store, decode: bool = True) -> Located:
    """Find the base and the pictures. Raises RecipeError that names the place in the recipe.

    decode: read every picture to its last pixel, also where its file is seen to be whole without.
    """
    recipe = loaded.recipe
    with _said_of(loaded, "base.path"):
        base = find_base(recipe.base, loaded.folder_of("base.path"), store)
    with _said_of(loaded, "images.resolution"):
        shapes.check_sides(recipe, base.source.folder)
    with _said_of(loaded, "images.buckets.step"):
        shapes.check_step(recipe, base.source.folder)
    _check_objective(loaded, base.source.folder)
    odd_layers = check_layers(loaded, base.source)
    _check_exports(loaded, base.source.folder)
    found = {key: _pictures(loaded, _asked(key, one, recipe), store, decode) for key, one in recipe.taught.items()}
    with _said_of(loaded, "images.masks"):
        check_any(recipe.images.masks, sum(one.masked for one in found.values()))
    pictures = _sorted(found.values())
    classes = [one for key in found if (one := _class_pictures(loaded, key, pictures, found, store, decode))]
    inits = _inits(loaded, store)
    store.save_tables()
    long = _long_prompts(recipe, pictures, base.source.folder)
    cut = cutting_of(recipe, base.source.folder)
    notes = (*(Note("base", text) for text in base.notes), *odd_layers,
             *(Note(what, text) for what, all_of in (("pictures", found.values()), ("class pictures", classes))
               for one in all_of for text in (*one.notes, *shapes.told(one.pictures, one.files, cut))),
             *(Note("prompts", text, "warning") for text in (*_without_trigger(recipe, found), *long)))
    several = tuple(one.pictures for one in found.values()) if len(found) > 1 else ()
    sources = Sources(base.source, pictures, {name: init.identity for name, init in inits.items()}, _sorted(classes),
                      several)
    held = [one.files for one in (*found.values(), *classes)] + [init.files for init in inits.values()]
    files = {digest: path for known in held for digest, path in known.items()}
    names = {picture: named for one in (*found.values(), *classes) for picture, named in one.names.items()}
    return Located(sources, files, (*notes, *training_notes(loaded, sources)), base.revision, base.out_of_reach, names)


def pinned(loaded: LoadedRecipe, located: Located, store: Store) -> Located:
    """The same with the Hub base's revision turned into a commit, which is remembered; asks the Hub."""
    if located.revision is None or located.out_of_reach is not None:
        return located
    from dbrun.stages.hub import commit_of

    repo, revision = loaded.recipe.base.path, located.revision
    commit = commit_of(repo, loaded.recipe.base.revision)
    store.commits.put(f"{repo}@{revision}", commit)
    again = locate(loaded, store, decode=False)
    text = f"{repo} at {revision} is commit {commit}; `revision: {commit}` in the recipe keeps it"
    return Located(again.sources, again.files, (Note("base", text),))


def _inits(loaded: LoadedRecipe, store: Store) -> dict[str, FoundAdapter]:
    """The adapters that components start from, by component."""
    family, found = families()[loaded.recipe.base.type], {}
    for component, adapter in loaded.recipe.adapt.adapters.items():
        if adapter.init is not None and component in family.components:
            with _said_of(loaded, key := f"adapt.{component}.init"):
                wanted = Wanted(family, component, adapter, loaded.folder_of(key))
                found[component] = find_adapter(adapter.init, wanted, store)
    return found


def _pictures(loaded: LoadedRecipe, asked: Asked, store: Store, decode: bool) -> FoundPictures:
    with _said_of(loaded, asked.key):
        return find_pictures(asked, loaded.folder_of(asked.key), store, decode)


def _asked(key: str, subject: Subject, recipe: Recipe) -> Asked:
    learnt = recipe.adapt.trigger
    return Asked(f"{key}.images", subject.images, subject.instance_prompt, revision=subject.revision,
                 captions=subject.captioned, trigger=subject.trigger or (learnt.token if learnt else None),
                 seed=recipe.seed, sized=recipe.images.shaped, masks=recipe.images.masks, repeats=subject.repeats)


def _sorted(found: Iterable[FoundPictures]) -> tuple[Picture, ...]:
    """The pictures of all in one row, in the order of their contents."""
    return tuple(sorted((picture for one in found for picture in one.pictures), key=in_order))


def _class_pictures(loaded: LoadedRecipe, key: str, subjects: Sequence[Picture], found: Mapping[str, FoundPictures],
                    store: Store, decode: bool) -> FoundPictures | None:
    """A subject's class images of the user; none of them may show nothing, or be a picture of any subject."""
    recipe, subject = loaded.recipe, loaded.recipe.taught[key]
    place = f"{key}.class_images" if subject.class_images else "prior.images"
    folder = subject.class_images or (recipe.prior.images if recipe.prior else None)
    if recipe.prior is None or folder is None or not isinstance(subject.class_prompt, str):
        return None
    asked = Asked(place, folder, subject.class_prompt, recipe.images.background,
                  sized=recipe.images.shaped)
    own = _pictures(loaded, asked, store, decode)
    with _said_of(loaded, asked.key):
        taught = {picture.digest for picture in subjects}
        if both := sorted(own.files[digest].name for digest in own.files.keys() & taught):
            raise RecipeError(f"{', '.join(both)} is also a picture of the subject, which would then be held back",
                              fix=f"put only pictures of others of its class into the folder of `{asked.key}`")
    few, many = len(own.pictures), len(found[key].pictures)
    note = f"only {few} for {many} pictures of the subject: so few are soon known by heart; some hundred are usual"
    return replace(own, notes=(*own.notes, *([note] if few < many else [])))


def _without_trigger(recipe: Recipe, found: Mapping[str, FoundPictures]) -> Iterator[str]:
    """Prompts that a subject's trigger is missing from: their pictures teach nothing to it."""
    for key, subject in recipe.taught.items():
        lacking = [p.prompt for p in found[key].pictures if subject.trigger and subject.trigger not in p.prompt]
        if lacking:
            many = f"{len(lacking)} of {len(found[key].pictures)} pictures"
            yield f"`{key}.trigger` '{subject.trigger}' is missing from the prompt of {many}, such as: {lacking[0]}"


@contextmanager
def _said_of(loaded: LoadedRecipe, key: str) -> Iterator[None]:
    """Give an error about what a key names the key's place in the recipe."""
    try:
        yield
    except Problems:
        raise
    except RecipeError as error:
        raise Problems([Problem(loaded.origins.get(key), key, error.message, error.fix)]) from error


def _check_exports(loaded: LoadedRecipe, folder: Path | None) -> None:
    for index, name in enumerate(loaded.recipe.export or ()):
        if folder and (why := formats()[name].unfit(families()[loaded.recipe.base.type], folder)):
            key = f"export.{index}"
            raise Problems([Problem(loaded.origins.get(key), key, f"found '{name}', {why}", "take it away")])


def _check_objective(loaded: LoadedRecipe, folder: Path | None) -> None:
    objective = loaded.recipe.objective
    if folder is None or objective == AS_THE_BASE:
        return
    config = families()[loaded.recipe.base.type].scheduler_config(folder)
    if found := list(misfits(objective, config)):
        raise Problems([Problem(loaded.origins.get(key), key, message, fix) for key, message, fix in found])


def _long_prompts(recipe: Recipe, pictures: Sequence[Picture], folder: Path | None) -> list[str]:
    """Prompts of which the base reads only a part, and which words it does not; what its tokenizer can tell now.

    Where it cannot, those with more words than the base reads tokens: a word is at least one, a new one as many as it
    has. `preprocess`, which loads the tokenizer, then names them all.
    """
    if folder is None:
        return []
    family, word = families()[recipe.base.type], recipe.adapt.trigger
    limit = family.prompt_limit(folder)
    every = {*(text for p in pictures for text in (p.prompt, *p.variants)), *(recipe.samples.prompts or ()),
             *(text for one in recipe.taught.values() for text in one.class_prompts)}
    long = [prompt for prompt in sorted(map(family.as_read, every)) if word or may_be_cut(prompt, limit)]
    if long and (tokenizer := tokenizer_of(folder)) is not None:
        found = cuts(tokenizer, long, limit, *((word.token, word.vectors) if word else ()))
        return [cut.said(limit) for cut in found]
    return [f"the base reads {limit} tokens, the rest is cut off: {prompt}"
            for prompt in long if _least_tokens(prompt, word) > limit]


def _least_tokens(prompt: str, word: Embedding | None) -> int:
    return len(prompt.split()) + (prompt.count(word.token) * (word.vectors - 1) if word else 0)
