"""How does what a stage is asked differ from what it was asked before, in the recipe's words?"""

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
from dbrun.store.canonical import JsonValue, field_names, neutral_values, strictly_equal, to_json_value

INSTANCE_PICTURES = ("picture", "subject.instance_prompt")
CLASS_PICTURES = ("class picture", "subject.class_prompt")
"""What pictures are called, and what gives them their prompt."""
VALUE_WIDTH = 60
"""Characters of a value that are shown."""


def miss_reason(stage_key: StageKey, earlier: Sequence[Mapping[str, object]]) -> Reason:
    """Why there is no result: the fewest changes from one of the earlier key documents."""
    found = find_nearest_key(stage_key, earlier)
    return found[1] if found else SimpleReason.NO_EARLIER_RESULT


def find_nearest_key(stage_key: StageKey, earlier: Sequence[Mapping[str, object]]) -> tuple[int, KeyChanged] | None:
    """Which of the earlier key documents has the fewest changes, and these; None where none has any.

    Of equally few, those are nearer that say a value, before "adapt gave another result".
    """
    found = [(number, c) for number, document in enumerate(earlier) if (c := key_changes(stage_key, document))]
    if not found:
        return None
    number, fewest = min(found, key=lambda one: (len(one[1]), sum(str(change) == change.what for change in one[1])))
    words: Mapping[str, str] = getattr(type(stage_key.params), "WORDS", {})
    anew = {_recipe_key(stage_key.stage.NAME, name, words): why
            for name, why in stage_key.stage.restarts_on(stage_key.params).items()}
    return number, KeyChanged(fewest, anew.get(fewest[0].what) if len(fewest) == 1 else None)


def key_changes(stage_key: StageKey, old: Mapping[str, object]) -> tuple[Change, ...]:
    """How the question differs from an earlier key document of the same stage."""
    new, stage = stage_key.document, stage_key.stage.NAME
    found: list[Change] = []
    if old.get("version") != new["version"]:
        found.append(Change(f"version of {stage}", format_value(old.get("version")), format_value(new["version"])))
    inputs = list(_differing_leaves("", old.get("inputs"), new["inputs"], {}))
    found += [Change(f"without {name} now" if now is None else f"with {name} now", None, None)
              for name, was, now in inputs if was is None or now is None]
    words: Mapping[str, str] = getattr(type(stage_key.params), "WORDS", {})
    for name, was, now in _differing_leaves("", old.get("params"), new["params"],
                                            flat_neutral_values(stage_key.params)):
        found += _describe_change(_recipe_key(stage, name, words), was, now)
    found += [Change(f"{name} gave another result", None, None)
              for name, was, now in inputs if was is not None and now is not None]
    for part in ("numerics", "libraries"):
        found += [Change(name or part, format_value(was), format_value(now))
                  for name, was, now in _differing_leaves("", old.get(part), new[part], {})]
    return tuple(dict.fromkeys(found))


def flat_neutral_values(params: object) -> dict[str, JsonValue]:
    """The neutral value of every field of params that has one, by dotted name."""
    out = {name: to_json_value(value) for name, value in neutral_values(params).items()}
    for name in field_names(type(params)) or ():
        out.update({f"{name}.{inner}": value for inner, value in flat_neutral_values(getattr(params, name)).items()})
    return out


def _differing_leaves(name: str, was: object, now: object,
                      absent: Mapping[str, object]) -> Iterator[tuple[str, object, object]]:
    """The innermost values that differ, with their dotted names; absent: what left-out values stand for."""
    if isinstance(was, dict) and isinstance(now, dict):
        other = was.get("type") != now.get("type")
        # another type is another part: what else it says cannot be set against what the earlier one said
        for inner in ["type"] if other else sorted({*was, *now}):
            dotted = f"{name}.{inner}" if name else inner
            default = absent.get(dotted)
            yield from _differing_leaves(dotted, was.get(inner, default), now.get(inner, default), absent)
    elif not strictly_equal(was, now):
        yield name, was, now


@cache
def _off_values(kind: type[Part] = Recipe, before: str = "") -> Mapping[str, object]:
    """The values of a recipe that switch a feature off, by dotted key; a part's copy in a key leaves them out."""
    found = {before + name: value for name, value in kind.NEUTRAL.items()}
    for name, field in kind.model_fields.items():
        for inner in _part_types(field.annotation):
            found.update(_off_values(inner, f"{before}{name}."))
    return found


def _part_types(annotation: object) -> Iterator[type[Part]]:
    """The parts that a type may be, however deep in unions."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        yield annotation
    for inner in get_args(annotation):
        yield from _part_types(inner)


def _describe_change(what: str, was: object, now: object) -> list[Change]:
    """Pictures tell how many came and went; anything else its old and its new value."""
    old, new = was or [], now or []
    if isinstance(old, list) and isinstance(new, list) and old + new and all(map(_is_picture, old + new)):
        return _picture_changes(old, new, *(CLASS_PICTURES if what.startswith("prior.") else INSTANCE_PICTURES))
    off = _off_values().get(what)
    return [Change(what, format_value(off if was is None else was), format_value(off if now is None else now))]


def _is_picture(value: object) -> bool:
    return isinstance(value, dict) and value.keys() >= {"digest", "prompt"}


def _picture_changes(was: list[dict[str, object]], now: list[dict[str, object]], noun: str,
                     prompt: str) -> list[Change]:
    """How many pictures came, went, or have other words; the same content is the same picture."""
    before, after = _by_digest(was), _by_digest(now)
    count = {digest: len(after[digest]) - len(before[digest]) for digest in {*before, *after}}
    come, gone = (sum(max(0, sign * n) for n in count.values()) for sign in (1, -1))
    both = min(come, gone)
    counts = ((both, "changed"), (come - both, "added"), (gone - both, "removed"))
    found = [Change(f"{_plural(n, noun)} {verb}", None, None) for n, verb in counts if n]
    found += [Change(f"mask of {_plural(n, noun)} changed", None, None) for n in [_count_changed_masks(was, now)] if n]
    pairs = [pair for digest, n in count.items() if not n
             for pair in zip(before[digest], after[digest], strict=True) if pair[0] != pair[1]]
    whole = len(was) == len(now)
    for field, off, key, words in (("prompt", None, prompt, "prompt"),
                                   ("dropout", 0.0, "subject.captions.dropout", "caption dropout"),
                                   ("repeats", 1, "subject.repeats", "repeats"), ("reader", None, "reader", "reader")):
        other = Counter((old.get(field, off), new.get(field, off)) for old, new in pairs
                        if old.get(field, off) != new.get(field, off))
        if len(other) == 1 and other.total() == len(was) > 1 and whole:
            found.append(Change(key, *map(format_value, next(iter(other)))))
        elif other:
            found.append(Change(f"{words} of {_plural(other.total(), noun)} changed", None, None))
    varied = sum(old["prompt"] == new["prompt"] and old.get("variants") != new.get("variants") for old, new in pairs)
    return found + ([Change(f"caption variants of {_plural(varied, noun)} changed", None, None)] if varied else [])


def _by_digest(pictures: list[dict[str, object]]) -> Mapping[object, list[dict[str, object]]]:
    found: dict[object, list[dict[str, object]]] = defaultdict(list)
    for picture in pictures:
        found[picture["digest"]].append(picture)
    return found


def _count_changed_masks(was: list[dict[str, object]], now: list[dict[str, object]]) -> int:
    """How many pictures that were there have another mask, or none any more."""
    masks = {picture["digest"]: picture.get("mask") for picture in was}
    return sum(masks.get(p["digest"], p.get("mask")) != p.get("mask") for p in now)


def _plural(pictures: int, noun: str) -> str:
    return f"{pictures} {noun}{'s' if pictures > 1 else ''}"


def _recipe_key(stage: str, name: str, words: Mapping[str, str]) -> str:
    head, dot, rest = name.partition(".")
    if "{}" in words.get(head, ""):
        return words[head].format(rest)
    if head in words:
        return (words[head] + dot + rest).lstrip(".")
    return f"{stage}.{name}"


def format_value(value: object) -> str | None:
    """A value of a key document as people read it, long ones cut."""
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        text = f"[{', '.join(str(v) for v in value)}]"
    elif isinstance(value, dict):
        text = str(value.get("type", "set"))
    else:
        text = re.sub(r"\b([0-9a-f]{10})[0-9a-f]{30,}\b", r"\1…", str(value))
    text = text if len(text) <= VALUE_WIDTH else f"{text[:VALUE_WIDTH - 1]}…"
    return f"'{text}'" if isinstance(value, str) and " " in text else text
