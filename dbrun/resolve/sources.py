"""What do a recipe's paths point at, as contents, and does it fit the recipe?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dbrun.adapters.embedding import Embedding
from dbrun.events import Note
from dbrun.formats.base import formats
from dbrun.models.base import families
from dbrun.models.new_tokens import check_initializer, check_new, tokens_of
from dbrun.models.prompt_length import cuts, may_be_cut, tokenizer_of
from dbrun.recipe.load import LoadedRecipe
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.schema.objective import AS_THE_BASE, misfits
from dbrun.recipe.schema.subject import Subject
from dbrun.recipe.text.spans import Findings, Problem
from dbrun.resolve import picture_shapes
from dbrun.resolve.base import find_base
from dbrun.resolve.init_adapter import FoundAdapter, Wanted, find_adapter
from dbrun.resolve.masks import check_any
from dbrun.resolve.pictures import Asked, FoundPictures, find_pictures, in_order
from dbrun.resolve.target_layers import check_layers, count_layers
from dbrun.resolve.training_notes import training_notes
from dbrun.stages.base import BaseSource, Picture, Sources
from dbrun.stages.support.crops import cutting_of
from dbrun.store.store import Store


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


def locate(loaded: LoadedRecipe, store: Store, decode: bool = True, wrong: Iterable[Problem] = ()) -> Located:
    """Find the base and the pictures. Raises Problems, with all that is wrong at once.

    decode: read every picture to its last pixel, also where its file is seen to be whole without; wrong: what is known
    to be wrong already.
    """
    recipe, findings = loaded.recipe, Findings(loaded.origins, wrong)
    base = findings.attempt("base.path", find_base, recipe.base, loaded.folder_of("base.path"), store)
    odd = _check_base(loaded, base.source, findings) if base else ()
    inits = _inits(loaded, base.source if base else None, store, findings)
    # a picture that is broken inside can wait where something else has to be mended first
    decode = decode and not findings.problems
    asked = {key: _asked(key, one, recipe) for key, one in recipe.taught.items()}
    found = _pictures(loaded, asked, store, decode, findings)
    if len(found) == len(asked):
        findings.attempt("images.masks", check_any, recipe.images.masks, sum(one.masked for one in found.values()))
    own = {key: one for key, subject in recipe.taught.items() if (one := _asked_of_class(key, subject, recipe))}
    classes = {key: _told_if_few(one, found.get(key))
               for key, one in _pictures(loaded, own, store, decode, findings).items()}
    pictures = _sorted(found.values())
    _check_apart(own, classes, pictures, findings)
    store.save_tables()
    if base is None or len(found) < len(asked) or not pictures:
        findings.tell()
    assert base is not None, "else it was told why there is none"
    several = tuple(one.pictures for one in found.values()) if len(found) > 1 else ()
    sources = Sources(base.source, pictures, {name: init.identity for name, init in inits.items()},
                      _sorted(classes.values()), several)
    training = findings.attempt("train", training_notes, loaded, sources)
    findings.tell()
    every = (*found.values(), *classes.values())
    held = [one.files for one in every] + [init.files for init in inits.values()]
    files = {digest: path for known in held for digest, path in known.items()}
    names = {picture: named for one in every for picture, named in one.names.items()}
    long, cut = _long_prompts(recipe, found, base.source.folder), cutting_of(recipe, base.source.folder)
    notes = (*(Note("base", text) for text in base.notes), *odd,
             *(Note(what, text) for what, all_of in (("pictures", found), ("class pictures", classes))
               for one in all_of.values() for text in (*one.notes, *picture_shapes.told(one.pictures, one.files, cut))),
             *(Note("prompts", text, "warning") for text in (*_without_trigger(recipe, found), *long)))
    return Located(sources, files, (*notes, *(training or ())), base.revision, base.out_of_reach, names)


def pinned(loaded: LoadedRecipe, located: Located, store: Store) -> Located:
    """The same with the Hub base's revision turned into a commit, which is remembered; asks the Hub."""
    if located.revision is None or located.out_of_reach is not None:
        return located
    from dbrun.stages.support.download import commit_of

    repo, revision = loaded.recipe.base.path, located.revision
    commit = commit_of(repo, loaded.recipe.base.revision)
    store.commits.put(f"{repo}@{revision}", commit)
    again = locate(loaded, store, decode=False)
    text = f"{repo} at {revision} is commit {commit}; `revision: {commit}` in the recipe keeps it"
    return Located(again.sources, again.files, (Note("base", text),))


def _check_base(loaded: LoadedRecipe, base: BaseSource, findings: Findings) -> tuple[Note, ...]:
    """Note what of a recipe does not go with its base, as far as that is here; what is odd about the two."""
    recipe, folder = loaded.recipe, base.folder
    if folder is None:
        return ()
    findings.attempt("images.resolution", picture_shapes.check_sides, recipe, folder)
    findings.attempt("images.buckets.step", picture_shapes.check_step, recipe, folder)
    family = families()[recipe.base.type]
    if recipe.objective != AS_THE_BASE:
        for finding in misfits(recipe.objective, family.scheduler_config(folder)):
            findings.add(*finding)
    for index, name in enumerate(recipe.export or ()):
        if why := formats()[name].unfit(family, folder):
            findings.add(f"export.{index}", f"found '{name}', {why}", "take it away")
    if recipe.adapt.trigger is not None:
        _check_word(recipe.adapt.trigger, folder, findings)
    return (*check_layers(recipe, base, findings),
            *(Note("base", text, "warning") for text in picture_shapes.odd_side(recipe, folder)))


def _check_word(word: Embedding, folder: Path, findings: Findings) -> None:
    """Note why the base cannot learn a new word, as far as its tokenizer can be read without its library."""
    if (tokenizer := tokenizer_of(folder)) is not None:
        tokens = len(tokenizer.encode(word.initializer, add_special_tokens=False).ids)
        findings.attempt("adapt.trigger.initializer", check_initializer, word.initializer, tokens, word.vectors)
        findings.attempt("adapt.trigger.token", check_new, tokens_of(word.token, word.vectors), tokenizer.get_vocab())


def _inits(loaded: LoadedRecipe, base: BaseSource | None, store: Store, findings: Findings) -> dict[str, FoundAdapter]:
    """The adapters that components start from, by component."""
    family, found = families()[loaded.recipe.base.type], {}
    for component, adapter in loaded.recipe.adapt.adapters.items():
        if adapter.init is not None and component in family.components:
            layers, presets = count_layers(family, component, adapter, base) if base else (0, {})
            beside = loaded.folder_of(key := f"adapt.{component}.init")
            wanted = Wanted(family, component, adapter, beside, layers, presets)
            if one := findings.attempt(key, find_adapter, adapter.init, wanted, store):
                found[component] = one
    return found


def _pictures(loaded: LoadedRecipe, asked: Mapping[str, Asked], store: Store, decode: bool,
              findings: Findings) -> dict[str, FoundPictures]:
    """The pictures of each that is asked for, without those that cannot be used, which is noted."""
    looked = {key: findings.attempt(one.key, find_pictures, one, loaded.folder_of(one.key), store, decode)
              for key, one in asked.items()}
    return {key: found for key, found in looked.items() if found}


def _asked(key: str, subject: Subject, recipe: Recipe) -> Asked:
    learnt = recipe.adapt.trigger
    return Asked(f"{key}.images", subject.images, subject.instance_prompt, revision=subject.revision,
                 captions=subject.captioned, trigger=subject.trigger or (learnt.token if learnt else None),
                 seed=recipe.seed, sized=recipe.images.shaped, masks=recipe.images.masks, repeats=subject.repeats)


def _sorted(found: Iterable[FoundPictures]) -> tuple[Picture, ...]:
    """The pictures of all in one row, in the order of their contents."""
    return tuple(sorted((picture for one in found for picture in one.pictures), key=in_order))


def _asked_of_class(key: str, subject: Subject, recipe: Recipe) -> Asked | None:
    """A subject's class images of the user, none of which may show nothing."""
    place = f"{key}.class_images" if subject.class_images else "prior.images"
    folder = subject.class_images or (recipe.prior.images if recipe.prior else None)
    if recipe.prior is None or folder is None or not isinstance(subject.class_prompt, str):
        return None
    return Asked(place, folder, subject.class_prompt, recipe.images.background, sized=recipe.images.shaped)


def _check_apart(asked: Mapping[str, Asked], classes: Mapping[str, FoundPictures], taught: Iterable[Picture],
                 findings: Findings) -> None:
    """Note class images of the user that are a picture of any subject."""
    digests = {picture.digest for picture in taught}
    for key, own in classes.items():
        if both := sorted(own.files[digest].name for digest in own.files.keys() & digests):
            place = asked[key].key
            findings.add(place, f"{', '.join(both)} is also a picture of the subject, which would then be held back",
                         f"put only pictures of others of its class into the folder of `{place}`")


def _told_if_few(own: FoundPictures, taught: FoundPictures | None) -> FoundPictures:
    few, many = len(own.pictures), len(taught.pictures) if taught else 0
    note = f"only {few} for {many} pictures of the subject: so few are soon known by heart; some hundred are usual"
    return replace(own, notes=(*own.notes, note)) if few < many else own


def _without_trigger(recipe: Recipe, found: Mapping[str, FoundPictures]) -> Iterator[str]:
    """Prompts that a subject's trigger is missing from: their pictures teach nothing to it."""
    for key, subject in recipe.taught.items():
        lacking = [p.prompt for p in found[key].pictures if subject.trigger and subject.trigger not in p.prompt]
        if lacking:
            many = f"{len(lacking)} of {len(found[key].pictures)} pictures"
            yield f"`{key}.trigger` '{subject.trigger}' is missing from the prompt of {many}, such as: {lacking[0]}"


def _long_prompts(recipe: Recipe, found: Mapping[str, FoundPictures], folder: Path | None) -> Iterator[str]:
    """Prompts of which the base reads only a part, and which words it does not; what its tokenizer can tell now.

    Where it cannot, those with more words than the base reads tokens: a word is at least one, a new one as many as it
    has. `preprocess`, which loads the tokenizer, then names them all.
    """
    if folder is None:
        return
    family, word = families()[recipe.base.type], recipe.adapt.trigger
    limit = family.prompt_limit(folder)
    where = {family.as_read(prompt): place for prompt, place in _prompts(recipe, found)}
    long = [prompt for prompt in sorted(where) if word or may_be_cut(prompt, limit)]
    if long and (tokenizer := tokenizer_of(folder)) is not None:
        for cut in cuts(tokenizer, long, limit, *((word.token, word.vectors) if word else ())):
            yield f"{where[cut.prompt]}: {cut.said(limit)}"
        return
    for prompt in long:
        if _least_tokens(prompt, word) > limit:
            yield f"{where[prompt]}: the base reads {limit} tokens, the rest is cut off: {prompt}"


def _prompts(recipe: Recipe, found: Mapping[str, FoundPictures]) -> Iterator[tuple[str, str]]:
    """Every prompt and where it comes from; what the recipe says itself last."""
    for one in found.values():
        for picture in one.pictures:
            yield from ((text, f"caption of {one.names[picture][0]}") for text in (picture.prompt, *picture.variants))
    for key, subject in recipe.taught.items():
        own = [subject.instance_prompt] if subject.instance_prompt else []
        yield from ((text, f"`{key}.instance_prompt`") for text in own)
        yield from ((text, f"`{key}.class_prompt`") for text in subject.class_prompts)
    yield from ((text, "`samples.prompts`") for text in recipe.samples.prompts or ())


def _least_tokens(prompt: str, word: Embedding | None) -> int:
    return len(prompt.split()) + (prompt.count(word.token) * (word.vectors - 1) if word else 0)
