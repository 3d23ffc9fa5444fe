"""Resolution of a recipe's paths to contents: base, pictures, adapters to start from, checked against the recipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.adapters.embedding import Embedding
from dbrun.events import Note
from dbrun.formats.base import formats
from dbrun.models.base import families
from dbrun.models.new_tokens import check_initializer, check_unused_tokens, token_names
from dbrun.models.prompt_length import load_tokenizer
from dbrun.options.objective import DEFAULT_OBJECTIVE, check_objective
from dbrun.recipe.checks.exports import reader_notes
from dbrun.recipe.load import LoadedRecipe
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.schema.subject import Subject
from dbrun.recipe.text.spans import Problem, ProblemCollector
from dbrun.resolve import picture_shapes
from dbrun.resolve.advice import recipe_advice
from dbrun.resolve.base import FoundBase, find_base
from dbrun.resolve.masks import check_has_masks
from dbrun.resolve.pictures import FoundPictures, PictureRequest, find_pictures, picture_sort_key
from dbrun.resolve.prompt_notes import missing_trigger_warnings, truncation_notes
from dbrun.resolve.target_layers import adapted_layers, check_layers, count_layers, layer_names
from dbrun.resolve.training_notes import training_notes
from dbrun.stages.sources import BaseSource, EncoderFiles, Picture, Sources
from dbrun.stages.support.crops import recipe_crop_settings
from dbrun.store.store import Store

if TYPE_CHECKING:
    from dbrun.resolve.encoders import FoundEncoder
    from dbrun.resolve.init_adapter import FoundAdapter
    from dbrun.scores.encoder import Role


@dataclass(frozen=True)
class ResolvedSources:
    """Sources of a recipe, with what is not part of any cache key.

    files: sha256 → path of a picture, a mask, or a file of an adapter to start from; notes: for people;
    unpinned_revision: branch or tag of a Hub base whose commit is not known yet, else None; unavailable_reason: why the
    base cannot be fetched, if so, and unavailable_fix: what to do about it; file_names: picture → names of its files,
    several if it is there more than once.
    """

    sources: Sources
    files: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    unpinned_revision: str | None = None
    unavailable_reason: str | None = None
    unavailable_fix: str = "unset HF_HUB_OFFLINE, or name a base on this machine"
    file_names: Mapping[Picture, tuple[str, ...]] = field(default_factory=dict)


def resolve_sources(loaded: LoadedRecipe, store: Store, decode: bool = True,
                    wrong: Iterable[Problem] = ()) -> ResolvedSources:
    """Find the base, the pictures and the adapters to start from, and check that they fit the recipe.

    decode: decode every pixel of every picture, else only check that the files are complete; wrong: problems that are
    known already. Raises InvalidRecipe with all problems at once.
    """
    recipe, findings = loaded.recipe, ProblemCollector(loaded.origins, wrong)
    base = findings.attempt("base.path", _find_base, loaded, store)
    base_source = None if base is None else base.source
    base_notes = _check_base(loaded, base_source, findings, store) if base_source else ()
    inits = _find_init_adapters(loaded, base_source, store, findings)
    encoders = _find_encoders(loaded, store, findings)
    # decoding takes seconds for many pictures, so it waits while the recipe has other problems
    decode = decode and not findings.problems

    requests = {key: _picture_request(key, subject, recipe) for key, subject in recipe.subjects_by_key.items()}
    found = _find_all_pictures(loaded, requests, store, decode, findings)
    # a folder that could not be read has been reported; its masks are not known
    if len(found) == len(requests):
        masked_count = sum(one.masked_count for one in found.values())
        findings.attempt("images.masks", check_has_masks, recipe.images.masks, masked_count)
    class_requests = _class_image_requests(recipe)
    classes = _find_all_pictures(loaded, class_requests, store, decode, findings)
    classes = {key: _warn_if_few(one, found.get(key)) for key, one in classes.items()}
    pictures = _sort_pictures(found.values())
    _check_no_overlap(class_requests, classes, pictures, findings)
    # also before an error: after a correction only the new pictures are read
    store.save_caches()

    # the checks below need the base and all pictures
    if base is None or len(found) < len(requests) or not pictures:
        findings.raise_if_any()
    assert base is not None, "without a base a problem has been raised"
    by_subject = tuple(one.pictures for one in found.values()) if len(found) > 1 else ()
    sources = Sources(base.source, pictures, {name: init.identity for name, init in inits.items()},
                      _sort_pictures(classes.values()), by_subject, _encoder_sources(encoders))
    train_notes = findings.attempt("train", training_notes, loaded, sources)
    findings.raise_if_any()

    files: dict[str, Path] = {}
    names: dict[Picture, tuple[str, ...]] = {}
    for one in (*found.values(), *classes.values()):
        files.update(one.files)
        names.update(one.file_names)
    for init in inits.values():
        files.update(init.files)
    for by_role in encoders.values():
        for encoder in by_role.values():
            files.update(encoder.paths)
    notes = (*(Note("base", text) for text in base.notes), *base_notes, *_init_notes(inits),
             *_picture_notes(recipe, found, classes, base.source.folder), *(train_notes or ()),
             *recipe_advice(recipe, sources, files, store),
             *reader_notes(recipe, store.remember(f"layers {_base_and_adapters(recipe, base.source)}",
                                                  partial(adapted_layers, recipe, base.source))))
    return ResolvedSources(sources, files, notes, base.unpinned_revision, base.unavailable_reason, file_names=names)


def _picture_notes(recipe: Recipe, found: Mapping[str, FoundPictures], classes: Mapping[str, FoundPictures],
                   folder: Path | None) -> Iterator[Note]:
    """Notes on the pictures and their prompts. folder: the base's, None if it is not here."""
    crop_settings = recipe_crop_settings(recipe, folder)
    for stage, by_key in (("pictures", found), ("class pictures", classes)):
        for one in by_key.values():
            shapes = picture_shapes.shape_notes(one.pictures, one.files, crop_settings)
            yield from (Note(stage, text) for text in (*one.notes, *shapes))
    yield from (Note("prompts", text, "warning") for text in missing_trigger_warnings(recipe, found))
    yield from truncation_notes(recipe, found, folder)


def pin_revision(loaded: LoadedRecipe, resolved: ResolvedSources, store: Store) -> ResolvedSources:
    """Ask the Hub for the commit of the base's revision, remember it in the store, and resolve again.

    Returns `resolved` itself if its commit is known, or if the Hub must not be asked.
    """
    if resolved.unpinned_revision is None or resolved.unavailable_reason is not None:
        return resolved
    from dbrun.stages.support.download import resolve_commit

    repo, revision = loaded.recipe.base.path, resolved.unpinned_revision
    commit = resolve_commit(repo, loaded.recipe.base.revision)
    store.commits.put(f"{repo}@{revision}", commit)
    # the pictures were decoded when `resolved` was made
    again = resolve_sources(loaded, store, decode=False)
    text = f"{repo} at {revision} is commit {commit}; `revision: {commit}` in the recipe pins it"
    return ResolvedSources(again.sources, again.files, (Note("base", text),))


def _find_base(loaded: LoadedRecipe, store: Store) -> FoundBase:
    """The recipe's base; recipes with the same one share the search while many are planned. Raises RecipeError."""
    base, home, like_home = loaded.recipe.base, loaded.folder_of("base.path"), loaded.folder_of("base.like")
    return store.remember(f"base {base!r} {home} {like_home}", partial(find_base, base, home, store, like_home))


def _base_and_adapters(recipe: Recipe, base: BaseSource) -> str:
    """What the layers of a base that adapters are put on depend on."""
    return f"{base.identity} {base.folder} {recipe.base!r} {recipe.adapt!r}"


def _check_base(loaded: LoadedRecipe, base: BaseSource, findings: ProblemCollector, store: Store) -> tuple[Note, ...]:
    """Check a recipe against its base. Adds problems to findings, returns notes; nothing if the base is not here.

    Recipes that say the same about it share the check while many are planned.
    """
    recipe, folder = loaded.recipe, base.folder
    if folder is None:
        return ()

    def check() -> tuple[Note, ...]:
        # raised, so that problems are not remembered: each recipe has its own places for them
        own = ProblemCollector(loaded.origins)
        notes = _notes_of_base(recipe, base, folder, own)
        own.raise_if_any()
        return notes

    # all that the check reads of a recipe
    read = (recipe.images, recipe.objective, recipe.train.guidance, recipe.export)
    key = f"check {_base_and_adapters(recipe, base)} {read!r}"
    return findings.attempt("base", store.remember, key, check) or ()


def _notes_of_base(recipe: Recipe, base: BaseSource, folder: Path, findings: ProblemCollector) -> tuple[Note, ...]:
    """Notes about a recipe and its base. folder: the base's. Adds problems to findings."""
    family = families()[recipe.base.type]
    problems_before = len(findings.problems)
    findings.attempt("base.path", family.check_configs, folder)
    # the checks below read the same configs, and would not fit a base of another kind
    if len(findings.problems) > problems_before:
        return ()
    findings.attempt("images.resolution", picture_shapes.check_resolution, recipe, folder)
    findings.attempt("images.buckets.step", picture_shapes.check_bucket_step, recipe, folder)
    if recipe.objective != DEFAULT_OBJECTIVE:
        for finding in check_objective(recipe.objective, family.process, family.scheduler_config(folder)):
            findings.add(*finding)
    if recipe.train.guidance is not None and not family.takes_guidance(folder):
        findings.add("train.guidance", f"found {recipe.train.guidance:g}, but the denoiser of this base takes no "
                     "guidance scale", "leave it out")
    for index, name in enumerate(recipe.export or ()):
        reason = formats()[name].unsupported_base_reason(family, folder)
        if reason:
            findings.add(f"export.{index}", f"found '{name}', {reason}", "take it away")
    for component, word in recipe.adapt.new_words.items():
        for tokenizer in family.tokenizers:
            _check_new_word(f"adapt.{component}", word, folder, tokenizer, findings)
    layer_notes = check_layers(recipe, base, findings)
    warnings = [Note("base", text, "warning") for text in picture_shapes.resolution_warnings(recipe, folder)]
    return (*layer_notes, *warnings)


def _check_new_word(key: str, word: Embedding, folder: Path, name: str, findings: ProblemCollector) -> None:
    """Check that a tokenizer of the base allows a new word. Adds problems to findings.

    key: recipe key of the word; name: the tokenizer's in model_index.json.
    """
    tokenizer = load_tokenizer(folder, name)
    # a tokenizer that only transformers can read is checked by `adapt`
    if tokenizer is None:
        return
    tokens = len(tokenizer.encode(word.initializer, add_special_tokens=False).ids)
    findings.attempt(f"{key}.initializer", check_initializer, word.initializer, tokens, word.vectors)
    names = token_names(word.token, word.vectors)
    findings.attempt(f"{key}.token", check_unused_tokens, names, tokenizer.get_vocab())


def _find_init_adapters(loaded: LoadedRecipe, base: BaseSource | None, store: Store,
                        findings: ProblemCollector) -> dict[str, FoundAdapter]:
    """Adapters to start from, by component. Adds problems to findings."""
    family = families()[loaded.recipe.base.type]
    found: dict[str, FoundAdapter] = {}
    for component, adapter in loaded.recipe.adapt.adapters.items():
        # a component that the family does not have is a problem reported elsewhere
        if adapter.init is None or component not in family.components:
            continue
        from dbrun.resolve.init_adapter import InitRequest, find_adapter

        layers, presets = count_layers(family, component, adapter, base) if base else (0, {})
        key = f"adapt.{component}.init"
        names = layer_names(family, component, adapter, base) if base else ()
        request = InitRequest(family, component, adapter, loaded.folder_of(key), layers, presets,
                              base.folder if base else None, names)
        init_adapter = findings.attempt(key, find_adapter, adapter.init, request, store)
        if init_adapter is not None:
            found[component] = init_adapter
    return found


def _find_encoders(loaded: LoadedRecipe, store: Store,
                   findings: ProblemCollector) -> dict[str, dict[Role, FoundEncoder]]:
    """Encoders of scores, by section and role. Adds problems to findings."""
    # most recipes name none, and need not load this
    if not loaded.recipe.score_encoders:
        return {}
    from dbrun.resolve.encoders import find_encoders

    return find_encoders(loaded, store, findings)


def _encoder_sources(encoders: Mapping[str, Mapping[Role, FoundEncoder]]) -> dict[str, dict[Role, EncoderFiles]]:
    """The digests of the encoders' files, by section and role."""
    sources: dict[str, dict[Role, EncoderFiles]] = {}
    for section, by_role in encoders.items():
        sources[section] = {role: encoder.source for role, encoder in by_role.items()}
    return sources


def _init_notes(inits: Mapping[str, FoundAdapter]) -> Iterator[Note]:
    """A warning for each adapter to start from of which only a part is used. inits: by component."""
    # most recipes start from none, and need not load this
    if not inits:
        return
    from dbrun.resolve.init_adapter import unused_parts

    for component, text in unused_parts(inits):
        yield Note(f"adapt.{component}.init", text, "warning")


def _find_all_pictures(loaded: LoadedRecipe, requests: Mapping[str, PictureRequest], store: Store, decode: bool,
                       findings: ProblemCollector) -> dict[str, FoundPictures]:
    """Pictures of each request, by its key; a request that fails is left out, and its problem added to findings."""
    found: dict[str, FoundPictures] = {}
    for key, request in requests.items():
        folder = loaded.folder_of(request.key)
        pictures = findings.attempt(request.key, find_pictures, request, folder, store, decode)
        if pictures is not None:
            found[key] = pictures
    return found


def _picture_request(key: str, subject: Subject, recipe: Recipe) -> PictureRequest:
    """Request for the pictures of a subject. key: of the subject in the recipe, such as `subjects.0`."""
    trigger = subject.trigger
    # a new word is what the captions must contain, if the subject names no other trigger
    if not trigger and recipe.adapt.new_word:
        trigger = recipe.adapt.new_word.token
    return PictureRequest(f"{key}.images", subject.images, subject.instance_prompt, revision=subject.revision,
                          captions=subject.caption_source, trigger=trigger or None,
                          seed=recipe.seed, sizes_matter=_sizes_matter(recipe), masks=recipe.images.masks,
                          repeats=subject.repeats)


def _sizes_matter(recipe: Recipe) -> bool:
    """Whether results depend on the pictures' own sizes: by their crops, or because the denoiser is told them."""
    return recipe.images.needs_picture_size or families()[recipe.base.type].size_conditioned


def _sort_pictures(found: Iterable[FoundPictures]) -> tuple[Picture, ...]:
    """Pictures of all subjects in the order of their contents, so that neither names nor folders change a key."""
    pictures = chain.from_iterable(one.pictures for one in found)
    return tuple(sorted(pictures, key=picture_sort_key))


def _class_image_requests(recipe: Recipe) -> dict[str, PictureRequest]:
    """Requests for the user's class images, by the key of the subject; without subjects that have none."""
    requests: dict[str, PictureRequest] = {}
    for key, subject in recipe.subjects_by_key.items():
        request = _class_image_request(key, subject, recipe)
        if request is not None:
            requests[key] = request
    return requests


def _class_image_request(key: str, subject: Subject, recipe: Recipe) -> PictureRequest | None:
    """Request for a subject's class images; None if dbrun generates them or the recipe uses none."""
    place = f"{key}.class_images" if subject.class_images else "prior.images"
    if recipe.prior is None or not isinstance(subject.class_prompt, str):
        return None
    folder = subject.class_images or recipe.prior.images
    if folder is None:
        return None
    return PictureRequest(place, folder, subject.class_prompt, recipe.images.background,
                          sizes_matter=_sizes_matter(recipe))


def _check_no_overlap(requests: Mapping[str, PictureRequest], classes: Mapping[str, FoundPictures],
                      taught: Iterable[Picture], findings: ProblemCollector) -> None:
    """Report class images that are also a subject's picture. requests: those for class images; taught: pictures."""
    digests = {picture.digest for picture in taught}
    for key, own in classes.items():
        both = sorted(own.files[digest].name for digest in own.files.keys() & digests)
        if both:
            # prior preservation would teach that this picture is any member of the class
            place = requests[key].key
            names = ", ".join(both)
            wrong = f"{names} is also a picture of the subject: as a class image it would undo what training teaches"
            findings.add(place, wrong,
                         f"put only pictures of other members of its class into the folder of `{place}`")


def _warn_if_few(own: FoundPictures, taught: FoundPictures | None) -> FoundPictures:
    """Class images `own`, with a note if they are fewer than the subject's pictures `taught`."""
    class_count = len(own.pictures)
    count = len(taught.pictures) if taught else 0
    if class_count >= count:
        return own
    note = (f"only {class_count} for {count} pictures of the subject: the model soon memorises so few; a few hundred "
            "are usual")
    return replace(own, notes=(*own.notes, note))
