"""How does what a stage is asked differ from what it was asked before, in the recipe's words?"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import get_args

from dbrun.config_types import Part
from dbrun.plan.cache_key import Ask
from dbrun.plan.reasons import Change, Changed, Reason, Simply
from dbrun.recipe.schema.model import Recipe
from dbrun.store.canonical import Plain, fields, neutral, plain, same

SUBJECTS = ("picture", "subject.instance_prompt")
CLASS = ("class picture", "subject.class_prompt")
"""What pictures are called, and what gives them their prompt."""
WIDTH = 60
"""Characters of a value that are shown."""


def nearest(ask: Ask, earlier: Sequence[Mapping[str, object]]) -> Reason:
    """Why there is no result: the fewest changes from one of the earlier key documents."""
    found = nearest_of(ask, earlier)
    return found[1] if found else Simply.NO_EARLIER


def nearest_of(ask: Ask, earlier: Sequence[Mapping[str, object]]) -> tuple[int, Changed] | None:
    """Which of the earlier key documents has the fewest changes, and these; None where none has any.

    Of equally few, those are nearer that say a value, before "adapt gave another result".
    """
    found = [(number, c) for number, document in enumerate(earlier) if (c := changes(ask, document))]
    if not found:
        return None
    number, fewest = min(found, key=lambda one: (len(one[1]), sum(str(change) == change.what for change in one[1])))
    words: Mapping[str, str] = getattr(type(ask.params), "WORDS", {})
    anew = {_worded(ask.stage.NAME, name, words): why for name, why in ask.stage.anew(ask.params).items()}
    return number, Changed(fewest, anew.get(fewest[0].what) if len(fewest) == 1 else None)


def changes(ask: Ask, old: Mapping[str, object]) -> tuple[Change, ...]:
    """How the question differs from an earlier key document of the same stage."""
    new, stage = ask.document, ask.stage.NAME
    found: list[Change] = []
    if old.get("version") != new["version"]:
        found.append(Change(f"version of {stage}", text_of(old.get("version")), text_of(new["version"])))
    inputs = list(_differing("", old.get("inputs"), new["inputs"], {}))
    found += [Change(f"without {name} now" if now is None else f"with {name} now", None, None)
              for name, was, now in inputs if was is None or now is None]
    words: Mapping[str, str] = getattr(type(ask.params), "WORDS", {})
    for name, was, now in _differing("", old.get("params"), new["params"], neutrals(ask.params)):
        found += _told(_worded(stage, name, words), was, now)
    found += [Change(f"{name} gave another result", None, None)
              for name, was, now in inputs if was is not None and now is not None]
    for part in ("numerics", "libraries"):
        found += [Change(name or part, text_of(was), text_of(now))
                  for name, was, now in _differing("", old.get(part), new[part], {})]
    return tuple(dict.fromkeys(found))


def neutrals(params: object) -> dict[str, Plain]:
    """The neutral value of every field of params that has one, by dotted name."""
    out = {name: plain(value) for name, value in neutral(params).items()}
    for name in fields(type(params)) or ():
        out.update({f"{name}.{inner}": value for inner, value in neutrals(getattr(params, name)).items()})
    return out


def _differing(name: str, was: object, now: object,
               absent: Mapping[str, object]) -> Iterator[tuple[str, object, object]]:
    """The innermost values that differ, with their dotted names; absent: what left-out values stand for."""
    if isinstance(was, dict) and isinstance(now, dict):
        other = was.get("type") != now.get("type")
        # another type is another part: what else it says cannot be set against what the earlier one said
        for inner in ["type"] if other else sorted({*was, *now}):
            dotted = f"{name}.{inner}" if name else inner
            default = absent.get(dotted)
            yield from _differing(dotted, was.get(inner, default), now.get(inner, default), absent)
    elif not same(was, now):
        yield name, was, now


@cache
def _off(kind: type[Part] = Recipe, before: str = "") -> Mapping[str, object]:
    """The values of a recipe that switch a feature off, by dotted key; a part's copy in a key leaves them out."""
    found = {before + name: value for name, value in kind.NEUTRAL.items()}
    for name, field in kind.model_fields.items():
        for inner in _parts(field.annotation):
            found.update(_off(inner, f"{before}{name}."))
    return found


def _parts(annotation: object) -> Iterator[type[Part]]:
    """The parts that a type may be, however deep in unions."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        yield annotation
    for inner in get_args(annotation):
        yield from _parts(inner)


def _told(what: str, was: object, now: object) -> list[Change]:
    """Pictures tell how many came and went; anything else its old and its new value."""
    old, new = was or [], now or []
    if isinstance(old, list) and isinstance(new, list) and old + new and all(map(_is_picture, old + new)):
        return _pictures(old, new, *(CLASS if what.startswith("prior.") else SUBJECTS))
    off = _off().get(what)
    return [Change(what, text_of(off if was is None else was), text_of(off if now is None else now))]


def _is_picture(value: object) -> bool:
    return isinstance(value, dict) and value.keys() >= {"digest", "prompt"}


def _pictures(was: list[dict[str, object]], now: list[dict[str, object]], noun: str, prompt: str) -> list[Change]:
    """How many pictures came, went, or have other words; the same content is the same picture."""
    before, after = _by_content(was), _by_content(now)
    count = {digest: len(after[digest]) - len(before[digest]) for digest in {*before, *after}}
    come, gone = (sum(max(0, sign * n) for n in count.values()) for sign in (1, -1))
    both = min(come, gone)
    counts = ((both, "changed"), (come - both, "added"), (gone - both, "removed"))
    found = [Change(f"{_many(n, noun)} {verb}", None, None) for n, verb in counts if n]
    found += [Change(f"mask of {_many(n, noun)} changed", None, None) for n in [_other_masks(was, now)] if n]
    pairs = [pair for digest, n in count.items() if not n
             for pair in zip(before[digest], after[digest], strict=True) if pair[0] != pair[1]]
    whole = len(was) == len(now)
    for field, off, key, words in (("prompt", None, prompt, "prompt"),
                                   ("dropout", 0.0, "subject.captions.dropout", "caption dropout"),
                                   ("repeats", 1, "subject.repeats", "repeats"), ("reader", None, "reader", "reader")):
        other = Counter((old.get(field, off), new.get(field, off)) for old, new in pairs
                        if old.get(field, off) != new.get(field, off))
        if len(other) == 1 and other.total() == len(was) > 1 and whole:
            found.append(Change(key, *map(text_of, next(iter(other)))))
        elif other:
            found.append(Change(f"{words} of {_many(other.total(), noun)} changed", None, None))
    varied = sum(old["prompt"] == new["prompt"] and old.get("variants") != new.get("variants") for old, new in pairs)
    return found + ([Change(f"caption variants of {_many(varied, noun)} changed", None, None)] if varied else [])


def _by_content(pictures: list[dict[str, object]]) -> Mapping[object, list[dict[str, object]]]:
    found: dict[object, list[dict[str, object]]] = defaultdict(list)
    for picture in pictures:
        found[picture["digest"]].append(picture)
    return found


def _other_masks(was: list[dict[str, object]], now: list[dict[str, object]]) -> int:
    """How many pictures that were there have another mask, or none any more."""
    masks = {picture["digest"]: picture.get("mask") for picture in was}
    return sum(masks.get(p["digest"], p.get("mask")) != p.get("mask") for p in now)


def _many(pictures: int, noun: str) -> str:
    return f"{pictures} {noun}{'s' if pictures > 1 else ''}"


def _worded(stage: str, name: str, words: Mapping[str, str]) -> str:
    head, dot, rest = name.partition(".")
    if "{}" in words.get(head, ""):
        return words[head].format(rest)
    if head in words:
        return (words[head] + dot + rest).lstrip(".")
    return f"{stage}.{name}"


def text_of(value: object) -> str | None:
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
    text = text if len(text) <= WIDTH else f"{text[:WIDTH - 1]}…"
    return f"'{text}'" if isinstance(value, str) and " " in text else text
