"""Facts about an adapter's training that its files and its card tell, from the recipe in its provenance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dbrun.naming import FILLER_WORDS
from dbrun.safetensors_header import trigger_words

ADAPTER_NUMBERS = ("rank", "alpha", "block_size", "token")
"""Settings of an adapter that a summary names."""
PUNCTUATION = ",.;:!?"


def fact(recipe: Mapping[str, Any], key: str) -> Any:
    """Value of a dotted key, such as `train.optimizer.type`; None where the recipe has none, as an older one may."""
    value: Any = recipe
    for name in key.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def adapter_steps(document: Mapping[str, Any]) -> Any:
    """Number of steps after which the adapter was taken: of the chosen candidate, else of the whole training."""
    recipe_steps = fact(document["recipe"], "train.steps")
    return document.get("selected", {}).get("step", recipe_steps)


def training_summary(document: Mapping[str, Any]) -> str:
    """What learnt from how much, such as `denoiser: lora rank 8; 300 steps at 512 pixels on 5 pictures`.

    document: the provenance of one training.
    """
    recipe = document["recipe"]
    parts = []
    for component, one in (recipe.get("adapt") or {}).items():
        if one:
            numbers = [f"{key} {one[key]}" for key in ADAPTER_NUMBERS if one.get(key)]
            parts.append(f"{component}: {' '.join([str(one.get('type')), *numbers])}")
    steps = str(fact(recipe, "train.steps"))
    if "selected" in document:
        steps = f"{adapter_steps(document)} of {steps}"
    text = f"{steps} steps at {fact(recipe, 'images.resolution')} pixels"
    count = len(training_pictures(recipe))
    if count == 1:
        text += " on 1 picture"
    elif count:
        text += f" on {count} pictures"
    return "; ".join([*parts, text])


def known_recipes(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The recipe of an adapter, or those of the adapters that it was merged from. document: its provenance."""
    if document.get("recipe"):
        return [document["recipe"]]
    parts = document.get("merged", {}).get("of", ())
    return [recipe for part in parts for recipe in known_recipes(part.get("provenance", {}))]


def subjects(recipe: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The subjects of a recipe, in its order."""
    if "subject" in recipe:
        return [recipe["subject"]]
    several: Sequence[Mapping[str, Any]] = recipe.get("subjects", [])
    return several


def training_pictures(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The pictures of all subjects: digest, prompt, and what else training read of them."""
    return [picture for subject in subjects(recipe) for picture in subject.get("pictures") or ()]


def class_picture_count(recipe: Mapping[str, Any]) -> int:
    """Number of class images, drawn by the base or the user's own."""
    prior = recipe.get("prior") or {}
    return len(prior.get("pictures") or ()) or int(prior.get("count") or 0)


def instance_prompts(recipe: Mapping[str, Any]) -> list[str]:
    """The instance prompt of each subject that has one."""
    prompts: list[str] = []
    for subject in subjects(recipe):
        prompt = subject.get("instance_prompt")
        if isinstance(prompt, list):
            prompts += map(str, prompt)
        elif prompt:
            prompts.append(prompt)
    return prompts


def trigger_phrases(recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """The words that call each subject, with its class where the instance prompt names it: `sks dog`."""
    known = set((trigger_words(recipe) or "").split()) - FILLER_WORDS
    phrases = []
    for prompt in instance_prompts(recipe):
        words = [word.strip(PUNCTUATION) for word in prompt.split()]
        names = [word.lower() not in FILLER_WORDS for word in words]
        # Without a class prompt nothing tells the trigger: the first words that name something count.
        begins = [word in known for word in words]
        if not any(begins):
            begins = names
        start = (*begins, True).index(True)
        end = (*names[start:], False).index(False) + start
        phrases.append(" ".join(words[start:end]))
    for subject in subjects(recipe):
        # with captions alone nothing else names it
        if subject.get("trigger") and not subject.get("instance_prompt"):
            phrases.append(subject["trigger"])
    return tuple(dict.fromkeys(phrase for phrase in phrases if phrase))


def tag_counts(recipe: Mapping[str, Any]) -> dict[str, int]:
    """Tag → number of pictures that have it: the words for the subject, and the other parts of prompts with commas.

    The most frequent come first, as programs show them.
    """
    phrases = trigger_phrases(recipe)
    counts: Counter[str] = Counter()
    for picture in training_pictures(recipe):
        prompt = str(picture.get("prompt") or "")
        present = [phrase for phrase in phrases if phrase in prompt]
        parts = [part.strip() for part in prompt.split(",")]
        counts.update(present)
        for part in parts:
            is_told = any(phrase in part for phrase in present)
            if part and not is_told:
                counts[part] += 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
