"""How does what a stage is asked differ from what it was asked before, in the recipe's words?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from dbrun.plan.keys import Ask
from dbrun.plan.reasons import Change, Changed, Reason, Simply
from dbrun.store.canonical import Plain, fields, neutral, plain, same

WIDTH = 60
"""Characters of a value that are shown."""


def nearest(ask: Ask, earlier: Sequence[Mapping[str, object]]) -> Reason:
    """Why there is no result: the fewest changes from one of the earlier key documents."""
    found = [c for c in (changes(ask, document) for document in earlier) if c]
    return Changed(min(found, key=len)) if found else Simply.NO_EARLIER


def changes(ask: Ask, old: Mapping[str, object]) -> tuple[Change, ...]:
    """How the question differs from an earlier key document of the same stage."""
    new, stage = ask.document, ask.stage.NAME
    found: list[Change] = []
    if old.get("version") != new["version"]:
        found.append(Change(f"version of {stage}", _text(old.get("version")), _text(new["version"])))
    words: Mapping[str, str] = getattr(type(ask.params), "WORDS", {})
    for name, was, now in _differing("", old.get("params"), new["params"], neutrals(ask.params)):
        found += _told(name, _worded(stage, name, words), was, now)
    for name, _, _ in _differing("", old.get("inputs"), new["inputs"], {}):
        found.append(Change(f"{name} gave another result", None, None))
    for part in ("numerics", "libraries"):
        found += [Change(name or part, _text(was), _text(now))
                  for name, was, now in _differing("", old.get(part), new[part], {})]
    return tuple(found)


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
        for inner in sorted({*was, *now}):
            dotted = f"{name}.{inner}" if name else inner
            default = absent.get(dotted)
            yield from _differing(dotted, was.get(inner, default), now.get(inner, default), absent)
    elif not same(was, now):
        yield name, was, now


def _told(name: str, what: str, was: object, now: object) -> list[Change]:
    """A list of tables (pictures) tells how many came and went; anything else its old and its new value."""
    if not (isinstance(was, list) and isinstance(now, list) and was + now
            and all(isinstance(v, dict) for v in was + now)):
        return [Change(what, _text(was), _text(now))]
    before, after = {str(v) for v in was}, {str(v) for v in now}
    gone, come = len(before - after), len(after - before)
    both = min(gone, come)
    one = re.sub(r"s$", "", name.rpartition(".")[2])
    counts = (("changed", both), ("added", come - both), ("removed", gone - both))
    return [Change(f"{one} {verb} {count}", None, None) for verb, count in counts if count]


def _worded(stage: str, name: str, words: Mapping[str, str]) -> str:
    head, dot, rest = name.partition(".")
    if head in words:
        return words[head] + dot + rest
    return name if dot else f"{stage}.{name}"


def _text(value: object) -> str | None:
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
    return text if len(text) <= WIDTH else f"{text[:WIDTH - 1]}…"
