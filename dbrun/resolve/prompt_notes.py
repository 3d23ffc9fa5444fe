"""Notes on the prompts of a recipe and its pictures: what a text encoder cuts off, and triggers that are missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from dbrun.adapters.embedding import Embedding
from dbrun.events import Note
from dbrun.models.base import families
from dbrun.models.prompt_length import find_truncated, load_tokenizer, may_be_truncated
from dbrun.recipe.schema.model import Recipe
from dbrun.resolve.pictures import FoundPictures
from dbrun.stages.load import prompt_limits


def missing_trigger_warnings(recipe: Recipe, found: Mapping[str, FoundPictures]) -> Iterator[str]:
    """Yield a warning for each subject whose trigger is missing from prompts: their pictures do not teach it."""
    for key, subject in recipe.subjects_by_key.items():
        if not subject.trigger:
            continue
        lacking = [p.prompt for p in found[key].pictures if subject.trigger not in p.prompt]
        if lacking:
            many = f"{len(lacking)} of {len(found[key].pictures)} pictures"
            yield f"`{key}.trigger` '{subject.trigger}' is missing from the prompt of {many}, such as: {lacking[0]}"


def truncation_notes(recipe: Recipe, found: Mapping[str, FoundPictures], folder: Path | None) -> Iterator[Note]:
    """Yield a note for each prompt that a text encoder of the base cuts off, with the words that it does not read.

    Without a tokenizer that can be read here, only prompts that are certainly too long are named: each word has at
    least one token. `preprocess` loads the tokenizer with its library, and then names all of them.
    """
    if folder is None:
        return
    family, word = families()[recipe.base.type], recipe.adapt.new_word
    where = {family.normalize_prompt(prompt): place for prompt, place in _all_prompts(recipe, found)}
    new_token = (word.token, word.vectors) if word else ()
    for limit in prompt_limits(family, folder, recipe.base.prompt_chunks):
        level = "info" if limit.rest_is_read else "warning"
        long = [prompt for prompt in sorted(where) if word or may_be_truncated(prompt, limit.tokens)]
        # reading a tokenizer takes a while; most recipes have short prompts only
        tokenizer = load_tokenizer(folder, limit.tokenizer) if long else None
        if tokenizer is not None:
            for cut in find_truncated(tokenizer, long, limit.tokens, *new_token):
                yield Note("prompts", f"{where[cut.prompt]}: {cut.message(limit)}", level)
            continue
        for prompt in long:
            if _min_token_count(prompt, word) > limit.tokens:
                text = f"{limit.reader} reads {limit.tokens} tokens, the rest is cut off: {prompt}"
                yield Note("prompts", f"{where[prompt]}: {text}", level)


def _all_prompts(recipe: Recipe, found: Mapping[str, FoundPictures]) -> Iterator[tuple[str, str]]:
    """Yield (prompt, place) of every prompt. The recipe's own come last: of equal prompts the last place is shown."""
    for one in found.values():
        for picture in one.pictures:
            place = f"caption of {one.file_names[picture][0]}"
            yield from ((text, place) for text in (picture.prompt, *picture.variants))
    for key, subject in recipe.subjects_by_key.items():
        if subject.instance_prompt:
            yield subject.instance_prompt, f"`{key}.instance_prompt`"
        yield from ((text, f"`{key}.class_prompt`") for text in subject.class_prompts)
    yield from ((text, "`samples.prompts`") for text in recipe.samples.prompts or ())


def _min_token_count(prompt: str, word: Embedding | None) -> int:
    """Lower bound of a prompt's tokens: one for each word, and all vectors of a new word."""
    count = len(prompt.split())
    if word is not None:
        count += prompt.count(word.token) * (word.vectors - 1)
    return count
