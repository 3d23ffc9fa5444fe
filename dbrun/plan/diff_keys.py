"""Differences between a stage's key and an earlier one, in the words of the recipe."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import get_args

from dbrun.config_types import Part
from dbrun.plan.cache_key import StageKey
from dbrun.plan.reasons import Change, KeyChanged, Reason, SimpleReason
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.base import DRAWING_PRECISION
from dbrun.store.canonical import JsonValue, field_names, neutral_values, strictly_equal, to_json_value

PictureEntry = dict[str, object]
"""A picture as it stands in a key document: digest, prompt and what else is not neutral."""
INSTANCE_PICTURES = ("picture", "subject.instance_prompt")
CLASS_PICTURES = ("class picture", "subject.class_prompt")
"""Noun for a picture, and the recipe key that gives its prompt."""
ABSENT_NUMERICS = {DRAWING_PRECISION: "fp32"}
"""What numerics stand for that a key document leaves out."""
VALUE_WIDTH = 60
"""Longest value shown, in characters; longer ones are cut."""


def miss_reason(stage_key: StageKey, earlier: Sequence[Mapping[str, object]]) -> Reason:
    """Reason why the key is not cached: the fewest changes from one of the earlier key documents."""
    nearest = find_nearest_key(stage_key, earlier)
    return nearest[1] if nearest else SimpleReason.NO_EARLIER_RESULT


def find_nearest_key(stage_key: StageKey, earlier: Sequence[Mapping[str, object]]) -> tuple[int, KeyChanged] | None:
    """Index of the earlier key document with the fewest changes, and these changes; None if none differs.

    Of equally few changes, those that show a value come before those like "adapt gave another result".
    """
    candidates: list[tuple[int, tuple[Change, ...]]] = []
    for number, document in enumerate(earlier):
        changes = key_changes(stage_key, document)
        if changes:
            candidates.append((number, changes))
    if not candidates:
        return None
    number, fewest = min(candidates, key=_candidate_rank)
    words: Mapping[str, str] = getattr(type(stage_key.params), "WORDS", {})
    restart_reasons = {_recipe_key(stage_key.stage.NAME, name, words): why
                       for name, why in stage_key.stage.restarts_on(stage_key.params).items()}
    # with several changes no single one of them is the reason why earlier work is not continued
    restart_reason = restart_reasons.get(fewest[0].what) if len(fewest) == 1 else None
    return number, KeyChanged(fewest, restart_reason)


def _candidate_rank(candidate: tuple[int, tuple[Change, ...]]) -> tuple[int, int]:
    """Sort key of (index, changes): the number of changes, then of those without a value to show."""
    changes = candidate[1]
    without_value = sum(str(change) == change.what for change in changes)
    return len(changes), without_value


def key_changes(stage_key: StageKey, old: Mapping[str, object]) -> tuple[Change, ...]:
    """Changes from an earlier key document of the same stage, each once: version, inputs, params, libraries."""
    new, stage = stage_key.document, stage_key.stage.NAME
    changes: list[Change] = []
    if old.get("version") != new["version"]:
        changes.append(Change(f"version of {stage}", format_value(old.get("version")), format_value(new["version"])))
    inputs = list(_differing_leaves("", old.get("inputs"), new["inputs"], {}))
    for name, was, now in inputs:
        if was is None or now is None:
            verb = "without" if now is None else "with"
            changes.append(Change(f"{verb} {name} now", None, None))
    words: Mapping[str, str] = getattr(type(stage_key.params), "WORDS", {})
    absent = flat_neutral_values(stage_key.params)
    for name, was, now in _differing_leaves("", old.get("params"), new["params"], absent):
        changes += _describe_change(_recipe_key(stage, name, words), was, now)
    # after the params: a value that the user changed explains more than a digest that followed from it
    changes += [Change(f"{name} gave another result", None, None)
                for name, was, now in inputs if was is not None and now is not None]
    for part in ("numerics", "libraries"):
        changes += [Change(name or part, format_value(was), format_value(now))
                    for name, was, now in _differing_leaves("", old.get(part), new[part], ABSENT_NUMERICS)]
    return tuple(dict.fromkeys(changes))


def flat_neutral_values(params: object) -> dict[str, JsonValue]:
    """Neutral value of every field of params that has one, by dotted name; nested dataclasses included."""
    values = {name: to_json_value(value) for name, value in neutral_values(params).items()}
    for name in field_names(type(params)) or ():
        for inner, value in flat_neutral_values(getattr(params, name)).items():
            values[f"{name}.{inner}"] = value
    return values


def _differing_leaves(name: str, was: object, now: object,
                      absent: Mapping[str, object]) -> Iterator[tuple[str, object, object]]:
    """Innermost values that differ: (dotted name, old, new). absent: what left-out values stand for."""
    if isinstance(was, dict) and isinstance(now, dict):
        # another type has other fields, which cannot be compared with those of the earlier type
        inner_names = ["type"] if was.get("type") != now.get("type") else sorted({*was, *now})
        for inner in inner_names:
            dotted = f"{name}.{inner}" if name else inner
            default = absent.get(dotted)
            yield from _differing_leaves(dotted, was.get(inner, default), now.get(inner, default), absent)
    # 1, 1.0 and True are equal in Python, and three different keys
    elif not strictly_equal(was, now):
        yield name, was, now


@cache
def _off_values(kind: type[Part] = Recipe, before: str = "") -> Mapping[str, object]:
    """Values of a recipe that switch a feature off, by dotted key; a key document leaves these out."""
    values = {before + name: value for name, value in kind.NEUTRAL.items()}
    for name, field in kind.model_fields.items():
        for inner in _part_types(field.annotation):
            values.update(_off_values(inner, f"{before}{name}."))
    return values


def _part_types(annotation: object) -> Iterator[type[Part]]:
    """Recipe parts that a type annotation allows, however deep in unions."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        yield annotation
    for inner in get_args(annotation):
        yield from _part_types(inner)


def _describe_change(what: str, was: object, now: object) -> list[Change]:
    """Changes of one recipe key: counts for lists of pictures, else the old and the new value."""
    old, new = was or [], now or []
    if isinstance(old, list) and isinstance(new, list) and old + new and all(map(_is_picture, old + new)):
        noun, prompt_key = CLASS_PICTURES if what.startswith("prior.") else INSTANCE_PICTURES
        return _picture_changes(old, new, noun, prompt_key)
    # the document leaves out what is switched off; people are shown the value that they can write
    off = _off_values().get(what)
    old_value = off if was is None else was
    new_value = off if now is None else now
    return [Change(what, format_value(old_value), format_value(new_value))]


def _is_picture(value: object) -> bool:
    return isinstance(value, dict) and value.keys() >= {"digest", "prompt"}


def _picture_changes(was: list[PictureEntry], now: list[PictureEntry], noun: str, prompt_key: str) -> list[Change]:
    """Numbers of pictures that were added, removed or changed, and changes of the fields of those that stayed."""
    before, after = _by_digest(was), _by_digest(now)
    surplus = {digest: len(after[digest]) - len(before[digest]) for digest in {*before, *after}}
    added = sum(max(0, count) for count in surplus.values())
    removed = sum(max(0, -count) for count in surplus.values())
    # an edited file has another digest: it looks like one picture gone and one new
    changed = min(added, removed)
    counts = ((changed, "changed"), (added - changed, "added"), (removed - changed, "removed"))
    changes = [_count_change(f"{_plural(count, noun)} {verb}") for count, verb in counts if count]
    changed_masks = _count_changed_masks(was, now)
    if changed_masks:
        changes.append(_count_change(f"mask of {_plural(changed_masks, noun)} changed"))

    # one digest can stand there several times, with several prompts; unequal numbers cannot be paired
    pairs: list[tuple[PictureEntry, PictureEntry]] = []
    for digest, count in surplus.items():
        if count == 0:
            paired = zip(before[digest], after[digest], strict=True)
            pairs += [(old, new) for old, new in paired if old != new]
    all_pictures = len(was) if len(was) == len(now) else None
    changes += _field_changes(pairs, noun, prompt_key, all_pictures)
    varied = sum(old["prompt"] == new["prompt"] and old.get("variants") != new.get("variants") for old, new in pairs)
    if varied:
        changes.append(_count_change(f"caption variants of {_plural(varied, noun)} changed"))
    return changes


def _field_changes(pairs: Sequence[tuple[PictureEntry, PictureEntry]], noun: str, prompt_key: str,
                   all_pictures: int | None) -> Iterator[Change]:
    """Changes of the fields of pictures that stayed. all_pictures: their number; None if any was added or removed."""
    for field, off, recipe_key, words in (
            ("prompt", None, prompt_key, "prompt"),
            ("dropout", 0.0, "subject.captions.dropout", "caption dropout"),
            ("repeats", 1, "subject.repeats", "repeats"), ("reader", None, "reader", "reader")):
        values = Counter((old.get(field, off), new.get(field, off)) for old, new in pairs)
        different = {both: count for both, count in values.items() if both[0] != both[1]}
        total = sum(different.values())
        # the same change in all pictures comes from one key of the recipe, so that key is named
        if len(different) == 1 and total > 1 and total == all_pictures:
            old_value, new_value = next(iter(different))
            yield Change(recipe_key, format_value(old_value), format_value(new_value))
        elif different:
            yield _count_change(f"{words} of {_plural(total, noun)} changed")


def _count_change(text: str) -> Change:
    return Change(text, None, None)


def _by_digest(pictures: list[PictureEntry]) -> Mapping[object, list[PictureEntry]]:
    by_digest: dict[object, list[PictureEntry]] = defaultdict(list)
    for picture in pictures:
        by_digest[picture["digest"]].append(picture)
    return by_digest


def _count_changed_masks(was: list[PictureEntry], now: list[PictureEntry]) -> int:
    """Number of pictures that stayed and have another mask, or none any more."""
    masks = {picture["digest"]: picture.get("mask") for picture in was}
    return sum(masks.get(p["digest"], p.get("mask")) != p.get("mask") for p in now)


def _plural(pictures: int, noun: str) -> str:
    plural = "s" if pictures > 1 else ""
    return f"{pictures} {noun}{plural}"


def _recipe_key(stage: str, name: str, words: Mapping[str, str]) -> str:
    """Recipe key for a dotted field of a stage's params. words: field → recipe key, with `{}` for what follows."""
    head, dot, rest = name.partition(".")
    if "{}" in words.get(head, ""):
        return words[head].format(rest)
    if head in words:
        return (words[head] + dot + rest).lstrip(".")
    return f"{stage}.{name}"


def format_value(value: object) -> str | None:
    """Text of a value of a key document for people, at most VALUE_WIDTH characters; None stays None."""
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        text = f"[{', '.join(str(v) for v in value)}]"
    elif isinstance(value, dict):
        text = str(value.get("type", "set"))
    else:
        # ten digits of a digest tell two apart, and leave room for the other value beside it
        text = re.sub(r"\b([0-9a-f]{10})[0-9a-f]{30,}\b", r"\1…", str(value))
    text = text if len(text) <= VALUE_WIDTH else f"{text[:VALUE_WIDTH - 1]}…"
    return f"'{text}'" if isinstance(value, str) and " " in text else text
