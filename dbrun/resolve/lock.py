"""What does a recipe point at, written down so that a later command can tell whether it still does?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dbrun.errors import UsageError, WorkPending
from dbrun.recipe.load import LoadedRecipe
from dbrun.recipe.text.spans import display_path
from dbrun.resolve.sources import ResolvedSources
from dbrun.stages.sources import Picture
from dbrun.store.atomic import disk_errors, replace_file

FORMAT_VERSION = 1
MAX_IDENTITY_LENGTH = 120
MAX_DIFFERENCES_SHOWN = 12
"""Differences that a refused run names."""
PICTURE_NOUNS = {"pictures": "picture", "class_pictures": "class picture"}


def lock_path(path: Path) -> Path:
    """Where the lock of a recipe file stands: beside it, `recipe.lock` for `recipe.yaml`."""
    return path.with_suffix(".lock")


def lock_contents(resolved: ResolvedSources) -> dict[str, object]:
    """The contents that a recipe's paths stand for: the base's commit or files, each picture, each adapter given."""
    sources = resolved.sources

    def named(pictures: tuple[Picture, ...]) -> list[dict[str, str]]:
        return [{"sha256": one.digest, "prompt": one.prompt,
                 "file": resolved.files[one.digest].name if one.digest in resolved.files else ""} for one in pictures]

    return {"format_version": FORMAT_VERSION,
            "base": {"identity": sources.base.identity, "files": dict(sorted(sources.base.files.items()))},
            "pictures": named(sources.pictures), "class_pictures": named(sources.class_pictures),
            "adapters": dict(sources.inits)}


def write_lock(loaded: LoadedRecipe, resolved: ResolvedSources) -> tuple[Path, bool]:
    """Write the lock of a recipe; where, and whether it is new or another than before. Raises DbrunError."""
    if resolved.unpinned_revision is not None:
        raise UsageError(f"the commit of revision {resolved.unpinned_revision} is not known here yet",
                         fix=f"dbrun stage load {display_path(loaded.path)} asks the Hub for it")
    target = lock_path(loaded.path)
    text = json.dumps(lock_contents(resolved), indent=1, ensure_ascii=False) + "\n"
    with disk_errors(f"writing {target}"):
        if target.is_file() and target.read_text(encoding="utf-8") == text:
            return target, False
        replace_file(target, text.encode(), scratch=target.parent)
    return target, True


def check_unchanged_by_overrides(loaded: LoadedRecipe, resolved: ResolvedSources, written: ResolvedSources,
                                 laid: Sequence[str]) -> None:
    """Raise UsageError where what is laid over a recipe changes what it points at: a lock is of the file alone.

    written: what it points at without; laid: the words that lay it over.
    """
    if any(_differences(lock_contents(written), lock_contents(resolved))):
        raise UsageError(f"found {' '.join(laid)}, with which {display_path(loaded.path)} points at something else, "
                         "and a lock is of the recipe as it is written",
                         fix="leave it out; or write it into a recipe that `extends` this one and has its own lock")


def drift(loaded: LoadedRecipe, resolved: ResolvedSources) -> list[str]:
    """How what a recipe points at differs from its lock, a line each. Raises UsageError where there is none."""
    target = lock_path(loaded.path)
    try:
        old = json.loads(target.read_bytes())
        if old["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version {old['format_version']}")
        return list(_differences(old, lock_contents(resolved)))
    except FileNotFoundError:
        raise UsageError(f"there is no lock {display_path(target)}",
                         fix=f"dbrun lock {display_path(loaded.path)}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"the lock {display_path(target)} cannot be read: {error}",
                         fix=f"dbrun lock {display_path(loaded.path)} writes it anew") from None


def drift_headline(loaded: LoadedRecipe) -> str:
    """What a difference means."""
    return f"{display_path(loaded.path)} does not point at what {display_path(lock_path(loaded.path))} says"


def enforce_lock(loaded: LoadedRecipe, resolved: ResolvedSources) -> None:
    """Raise WorkPending, which names what differs, where a recipe does not point at what its lock says."""
    if found := drift(loaded, resolved):
        shown, more = found[:MAX_DIFFERENCES_SHOWN], len(found) - MAX_DIFFERENCES_SHOWN
        if more > 0:
            shown = [*shown, f"and {more} more, which `dbrun plan --locked` lists"]
        lines = "".join(f"\n  {line}" for line in shown)
        laid = loaded.profiles or any(place.file is None for place in loaded.origins.values())
        fix = ("bring that back, or leave out what changes it here: the lock is of the recipe as it is written" if laid
               else f"bring that back; or, if it is meant, dbrun lock {display_path(loaded.path)}")
        raise WorkPending(f"{drift_headline(loaded)}; nothing was run{lines}", fix=fix)


def _differences(old: Mapping[str, Any], new: Mapping[str, object]) -> Iterator[str]:
    base = new["base"]
    if isinstance(base, dict) and old["base"]["identity"] != base["identity"]:
        yield f"base: {_truncate(old['base']['identity'])} → {_truncate(base['identity'])}"
    for part, noun in PICTURE_NOUNS.items():
        yield from _picture_differences(old[part], new[part], noun)
    was, now = (dict(given) if isinstance(given, dict) else {} for given in (old["adapters"], new["adapters"]))
    for name in sorted({*was, *now}):
        if was.get(name) != now.get(name):
            yield f"adapt.{name}.init: {_truncate(was.get(name))} → {_truncate(now.get(name))}"


def _picture_differences(old: object, new: object, noun: str) -> Iterator[str]:
    """By content and prompt; a file's name is told, but does not count."""
    was, now = (entries if isinstance(entries, list) else [] for entries in (old, new))
    names = {(one["sha256"], one["prompt"]): one["file"] for one in (*was, *now)}
    before, after = (Counter((one["sha256"], one["prompt"]) for one in entries) for entries in (was, now))
    for found, words in ((after - before, "is not in the lock"), (before - after, "of the lock is not there")):
        for digest, prompt in sorted(found, key=lambda one: (names[one], *one)):
            yield f"{noun} {names[digest, prompt]} ({digest[:10]}…, '{prompt}') {words}"


def _truncate(identity: object) -> str:
    text = "none" if identity is None else str(identity)
    return text if len(text) <= MAX_IDENTITY_LENGTH else f"{text[:MAX_IDENTITY_LENGTH - 1]}…"
