"""What do a recipe's paths point at, as contents, and does it fit the recipe?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.adapters.embedding import Embedding
from dbrun.events import Note
from dbrun.formats.base import formats
from dbrun.models.base import families
from dbrun.models.new_tokens import check_initializer, check_unused_tokens, token_names
from dbrun.models.prompt_length import find_truncated, load_tokenizer, may_be_truncated
from dbrun.options.objective import DEFAULT_OBJECTIVE, check_objective
from dbrun.recipe.load import LoadedRecipe
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.schema.subject import Subject
from dbrun.recipe.text.spans import Problem, ProblemCollector
from dbrun.resolve import picture_shapes
from dbrun.resolve.base import find_base
from dbrun.resolve.masks import check_has_masks
from dbrun.resolve.pictures import FoundPictures, PictureRequest, find_pictures, picture_sort_key
from dbrun.resolve.target_layers import check_layers, count_layers
from dbrun.resolve.training_notes import training_notes
from dbrun.stages.sources import BaseSource, Picture, Sources
from dbrun.stages.support.crops import recipe_crop_settings
from dbrun.store.store import Store

if TYPE_CHECKING:
    from dbrun.resolve.init_adapter import FoundAdapter


@dataclass(frozen=True)
class ResolvedSources:
    """A recipe's sources.

    files: sha256 → a path of a picture, or of a file of an adapter to start from; notes: for the user;
    unpinned_revision: of a Hub base whose commit is not known yet; unavailable_reason: why the base cannot be fetched,
    if it cannot; file_names: picture → the names of its files, several where it lies there more than once.
    """

    sources: Sources
    files: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    unpinned_revision: str | None = None
    unavailable_reason: str | None = None
    file_names: Mapping[Picture, tuple[str, ...]] = field(default_factory=dict)


def resolve_sources(loaded: LoadedRecipe, store: Store, decode: bool = True,
                    wrong: Iterable[Problem] = ()) -> ResolvedSources:
    """Find the base and the pictures. Raises InvalidRecipe, with all that is wrong at once.

    decode: read every picture to its last pixel, also where its file is seen to be whole without; wrong: what is known
    to be wrong already.
    """
    recipe, findings = loaded.recipe, ProblemCollector(loaded.origins, wrong)
    base = findings.attempt("base.path", find_base, recipe.base, loaded.folder_of("base.path"), store)
    odd = _check_base(loaded, base.source, findings) if base else ()
    inits = _find_init_adapters(loaded, base.source if base else None, store, findings)
    # a picture that is broken inside can wait where something else has to be mended first
    decode = decode and not findings.problems
    asked = {key: _picture_request(key, one, recipe) for key, one in recipe.subjects_by_key.items()}
    found = _find_all_pictures(loaded, asked, store, decode, findings)
    if len(found) == len(asked):
        findings.attempt("images.masks", check_has_masks, recipe.images.masks,
                         sum(one.masked_count for one in found.values()))
    own = {key: one for key, subject in recipe.subjects_by_key.items()
           if (one := _class_image_request(key, subject, recipe))}
    classes = {key: _warn_if_few(one, found.get(key))
               for key, one in _find_all_pictures(loaded, own, store, decode, findings).items()}
    pictures = _sort_pictures(found.values())
    _check_no_overlap(own, classes, pictures, findings)
    store.save_caches()
    if base is None or len(found) < len(asked) or not pictures:
        findings.raise_if_any()
    assert base is not None, "else it was told why there is none"
    several = tuple(one.pictures for one in found.values()) if len(found) > 1 else ()
    sources = Sources(base.source, pictures, {name: init.identity for name, init in inits.items()},
                      _sort_pictures(classes.values()), several)
    training = findings.attempt("train", training_notes, loaded, sources)
    findings.raise_if_any()
    every = (*found.values(), *classes.values())
    held = [one.files for one in every] + [init.files for init in inits.values()]
    files = {digest: path for known in held for digest, path in known.items()}
    names = {picture: named for one in every for picture, named in one.file_names.items()}
    long = _truncation_warnings(recipe, found, base.source.folder)
    cut = recipe_crop_settings(recipe, base.source.folder)
    notes = (*(Note("base", text) for text in base.notes), *odd,
             *(Note(what, text) for what, all_of in (("pictures", found), ("class pictures", classes))
               for one in all_of.values()
               for text in (*one.notes, *picture_shapes.shape_notes(one.pictures, one.files, cut))),
             *(Note("prompts", text, "warning") for text in (*_missing_trigger_warnings(recipe, found), *long)))
    return ResolvedSources(sources, files, (*notes, *(training or ())), base.unpinned_revision, base.unavailable_reason,
                           names)


def pin_revision(loaded: LoadedRecipe, resolved: ResolvedSources, store: Store) -> ResolvedSources:
    """The same with the Hub base's revision turned into a commit, which is remembered; asks the Hub."""
    if resolved.unpinned_revision is None or resolved.unavailable_reason is not None:
        return resolved
    from dbrun.stages.support.download import resolve_commit

    repo, revision = loaded.recipe.base.path, resolved.unpinned_revision
    commit = resolve_commit(repo, loaded.recipe.base.revision)
    store.commits.put(f"{repo}@{revision}", commit)
    again = resolve_sources(loaded, store, decode=False)
    text = f"{repo} at {revision} is commit {commit}; `revision: {commit}` in the recipe keeps it"
    return ResolvedSources(again.sources, again.files, (Note("base", text),))


def _check_base(loaded: LoadedRecipe, base: BaseSource, findings: ProblemCollector) -> tuple[Note, ...]:
    """Note what of a recipe does not go with its base, as far as that is here; what is odd about the two."""
    recipe, folder = loaded.recipe, base.folder
    if folder is None:
        return ()
    findings.attempt("images.resolution", picture_shapes.check_resolution, recipe, folder)
    findings.attempt("images.buckets.step", picture_shapes.check_bucket_step, recipe, folder)
    family = families()[recipe.base.type]
    if recipe.objective != DEFAULT_OBJECTIVE:
        for finding in check_objective(recipe.objective, family.scheduler_config(folder)):
            findings.add(*finding)
    for index, name in enumerate(recipe.export or ()):
        if why := formats()[name].unsupported_base_reason(family, folder):
            findings.add(f"export.{index}", f"found '{name}', {why}", "take it away")
    for component, word in recipe.adapt.new_words.items():
        _check_new_word(f"adapt.{component}", word, folder, findings)
    return (*check_layers(recipe, base, findings),
            *(Note("base", text, "warning") for text in picture_shapes.resolution_warnings(recipe, folder)))


def _check_new_word(key: str, word: Embedding, folder: Path, findings: ProblemCollector) -> None:
    """Note why the base cannot learn a new word, as far as its tokenizer can be read without its library."""
    if (tokenizer := load_tokenizer(folder)) is not None:
        tokens = len(tokenizer.encode(word.initializer, add_special_tokens=False).ids)
        findings.attempt(f"{key}.initializer", check_initializer, word.initializer, tokens, word.vectors)
        findings.attempt(f"{key}.token", check_unused_tokens, token_names(word.token, word.vectors),
                         tokenizer.get_vocab())


def _find_init_adapters(loaded: LoadedRecipe, base: BaseSource | None, store: Store,
                        findings: ProblemCollector) -> dict[str, FoundAdapter]:
    """The adapters that components start from, by component."""
    family, found = families()[loaded.recipe.base.type], {}
    for component, adapter in loaded.recipe.adapt.adapters.items():
        if adapter.init is not None and component in family.components:
            from dbrun.resolve.init_adapter import InitRequest, find_adapter

            layers, presets = count_layers(family, component, adapter, base) if base else (0, {})
            beside = loaded.folder_of(key := f"adapt.{component}.init")
            wanted = InitRequest(family, component, adapter, beside, layers, presets)
            if one := findings.attempt(key, find_adapter, adapter.init, wanted, store):
                found[component] = one
    return found


def _find_all_pictures(loaded: LoadedRecipe, asked: Mapping[str, PictureRequest], store: Store, decode: bool,
                       findings: ProblemCollector) -> dict[str, FoundPictures]:
    """The pictures of each that is asked for, without those that cannot be used, which is noted."""
    looked = {key: findings.attempt(one.key, find_pictures, one, loaded.folder_of(one.key), store, decode)
              for key, one in asked.items()}
    return {key: found for key, found in looked.items() if found}


def _picture_request(key: str, subject: Subject, recipe: Recipe) -> PictureRequest:
    learnt = recipe.adapt.new_word
    return PictureRequest(f"{key}.images", subject.images, subject.instance_prompt, revision=subject.revision,
                          captions=subject.caption_source,
                          trigger=subject.trigger or (learnt.token if learnt else None),
                          seed=recipe.seed, sizes_matter=recipe.images.needs_picture_size, masks=recipe.images.masks,
                          repeats=subject.repeats)


def _sort_pictures(found: Iterable[FoundPictures]) -> tuple[Picture, ...]:
    """The pictures of all in one row, in the order of their contents."""
    return tuple(sorted((picture for one in found for picture in one.pictures), key=picture_sort_key))


def _class_image_request(key: str, subject: Subject, recipe: Recipe) -> PictureRequest | None:
    """A subject's class images of the user, none of which may show nothing."""
    place = f"{key}.class_images" if subject.class_images else "prior.images"
    folder = subject.class_images or (recipe.prior.images if recipe.prior else None)
    if recipe.prior is None or folder is None or not isinstance(subject.class_prompt, str):
        return None
    return PictureRequest(place, folder, subject.class_prompt, recipe.images.background,
                          sizes_matter=recipe.images.needs_picture_size)


def _check_no_overlap(asked: Mapping[str, PictureRequest], classes: Mapping[str, FoundPictures],
                      taught: Iterable[Picture], findings: ProblemCollector) -> None:
    """Note class images of the user that are a picture of any subject."""
    digests = {picture.digest for picture in taught}
    for key, own in classes.items():
        if both := sorted(own.files[digest].name for digest in own.files.keys() & digests):
            place = asked[key].key
            findings.add(place, f"{', '.join(both)} is also a picture of the subject, which would then be held back",
                         f"put only pictures of others of its class into the folder of `{place}`")


def _warn_if_few(own: FoundPictures, taught: FoundPictures | None) -> FoundPictures:
    few, many = len(own.pictures), len(taught.pictures) if taught else 0
    note = f"only {few} for {many} pictures of the subject: so few are soon known by heart; some hundred are usual"
    return replace(own, notes=(*own.notes, note)) if few < many else own


def _missing_trigger_warnings(recipe: Recipe, found: Mapping[str, FoundPictures]) -> Iterator[str]:
    """Prompts that a subject's trigger is missing from: their pictures teach nothing to it."""
    for key, subject in recipe.subjects_by_key.items():
        lacking = [p.prompt for p in found[key].pictures if subject.trigger and subject.trigger not in p.prompt]
        if lacking:
            many = f"{len(lacking)} of {len(found[key].pictures)} pictures"
            yield f"`{key}.trigger` '{subject.trigger}' is missing from the prompt of {many}, such as: {lacking[0]}"


def _truncation_warnings(recipe: Recipe, found: Mapping[str, FoundPictures], folder: Path | None) -> Iterator[str]:
    """Prompts of which the base reads only a part, and which words it does not; what its tokenizer can tell now.

    Where it cannot, those with more words than the base reads tokens: a word is at least one, a new one as many as it
    has. `preprocess`, which loads the tokenizer, then names them all.
    """
    if folder is None:
        return
    family, word = families()[recipe.base.type], recipe.adapt.new_word
    limit = family.max_prompt_tokens(folder)
    where = {family.normalize_prompt(prompt): place for prompt, place in _all_prompts(recipe, found)}
    long = [prompt for prompt in sorted(where) if word or may_be_truncated(prompt, limit)]
    if long and (tokenizer := load_tokenizer(folder)) is not None:
        for cut in find_truncated(tokenizer, long, limit, *((word.token, word.vectors) if word else ())):
            yield f"{where[cut.prompt]}: {cut.message(limit)}"
        return
    for prompt in long:
        if _min_token_count(prompt, word) > limit:
            yield f"{where[prompt]}: the base reads {limit} tokens, the rest is cut off: {prompt}"


def _all_prompts(recipe: Recipe, found: Mapping[str, FoundPictures]) -> Iterator[tuple[str, str]]:
    """Every prompt and where it comes from; what the recipe says itself last."""
    for one in found.values():
        for picture in one.pictures:
            yield from ((text, f"caption of {one.file_names[picture][0]}")
                        for text in (picture.prompt, *picture.variants))
    for key, subject in recipe.subjects_by_key.items():
        own = [subject.instance_prompt] if subject.instance_prompt else []
        yield from ((text, f"`{key}.instance_prompt`") for text in own)
        yield from ((text, f"`{key}.class_prompt`") for text in subject.class_prompts)
    yield from ((text, "`samples.prompts`") for text in recipe.samples.prompts or ())


def _min_token_count(prompt: str, word: Embedding | None) -> int:
    return len(prompt.split()) + (prompt.count(word.token) * (word.vectors - 1) if word else 0)
