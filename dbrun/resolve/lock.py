"""The lock of a recipe: the contents that its paths point at, so that a later command sees when they changed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dbrun.errors import UsageError, WorkPending
from dbrun.input_file import read_json
from dbrun.recipe.load import LoadedRecipe
from dbrun.recipe.text.spans import display_path
from dbrun.resolve.sources import ResolvedSources
from dbrun.stages.sources import Picture, Sources
from dbrun.store.atomic import disk_errors, replace_file

FORMAT_VERSION = 1
"""Version of the lock file; a file of another version must be written again."""
MAX_IDENTITY_LENGTH = 120
"""Characters of an identity that are shown."""
MAX_DIFFERENCES_SHOWN = 12
"""Number of differences that a refused run names; the rest is counted."""
PICTURE_NOUNS = {"pictures": "picture", "class_pictures": "class picture"}
"""Field of a lock → noun for one of its pictures."""


def lock_path(path: Path) -> Path:
    """Path of a recipe's lock: `recipe.lock` in the same folder as `recipe.yaml`."""
    return path.with_suffix(".lock")


def lock_contents(resolved: ResolvedSources) -> dict[str, object]:
    """Document of a lock: identity and files of the base, digest and prompt of each picture, adapters, encoders."""
    sources = resolved.sources

    def entries(pictures: tuple[Picture, ...]) -> list[dict[str, str]]:
        found: list[dict[str, str]] = []
        for picture in pictures:
            file = resolved.files.get(picture.digest)
            # the name helps people to find the picture; only digest and prompt are compared
            name = "" if file is None else file.name
            found.append({"sha256": picture.digest, "prompt": picture.prompt, "file": name})
        return found

    base_files = dict(sorted(sources.base.files.items()))
    document: dict[str, object] = {
        "format_version": FORMAT_VERSION, "base": {"identity": sources.base.identity, "files": base_files},
        "pictures": entries(sources.pictures), "class_pictures": entries(sources.class_pictures),
        "adapters": dict(sources.inits)}
    # left out where there are none, so that earlier locks stay as they are
    if sources.encoders:
        document["encoders"] = _encoder_entries(sources)
    return document


def _encoder_entries(sources: Sources) -> dict[str, dict[str, str]]:
    """Key of an encoder, such as `evaluate.clip`, → name and digest of each of its files."""
    entries: dict[str, dict[str, str]] = {}
    for section, by_role in sources.encoders.items():
        for role, files in by_role.items():
            entries[f"{section}.{role}"] = dict(sorted(files.items()))
    return entries


def write_lock(loaded: LoadedRecipe, resolved: ResolvedSources) -> tuple[Path, bool]:
    """Write the lock of a recipe. Return its path, and whether its text is new.

    Raises UsageError if the base's commit is not known yet, and DbrunError if the file cannot be written.
    """
    if resolved.unpinned_revision is not None:
        raise UsageError(f"the commit of revision {resolved.unpinned_revision} is not known here yet",
                         fix=f"dbrun stage load {display_path(loaded.path)} asks the Hub for it")
    target = lock_path(loaded.path)
    text = json.dumps(lock_contents(resolved), indent=1, ensure_ascii=False) + "\n"
    with disk_errors(f"writing {target}"):
        # an unchanged file keeps its modification time
        if target.is_file() and target.read_text(encoding="utf-8") == text:
            return target, False
        replace_file(target, text.encode(), scratch=target.parent)
    return target, True


def check_unchanged_by_overrides(loaded: LoadedRecipe, resolved: ResolvedSources, written: ResolvedSources,
                                 laid: Sequence[str]) -> None:
    """Raise UsageError if overrides or profiles change what a recipe points at: a lock describes the file alone.

    resolved, written: what it points at with and without them; laid: overrides and profiles, as typed.
    """
    if any(_differences(lock_contents(written), lock_contents(resolved))):
        raise UsageError(f"found {' '.join(laid)}, which changes what {display_path(loaded.path)} points at, but a "
                         "lock describes the recipe as it is written",
                         fix="leave it out; or write it into a recipe that `extends` this one and has its own lock")


def drift(loaded: LoadedRecipe, resolved: ResolvedSources) -> list[str]:
    """Differences between a recipe's sources and its lock, a line each. Raises UsageError without a readable lock."""
    target = lock_path(loaded.path)
    try:
        old = read_json(target)
        if old["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version {old['format_version']}")
        return list(_differences(old, lock_contents(resolved)))
    except FileNotFoundError:
        raise UsageError(f"there is no lock {display_path(target)}",
                         fix=f"dbrun lock {display_path(loaded.path)}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"the lock {display_path(target)} cannot be read: {error}",
                         fix=f"dbrun lock {display_path(loaded.path)} writes a new one") from None


def drift_headline(loaded: LoadedRecipe) -> str:
    """Line that stands above the differences of `drift`."""
    return f"{display_path(loaded.path)} does not match {display_path(lock_path(loaded.path))}"


def enforce_lock(loaded: LoadedRecipe, resolved: ResolvedSources) -> None:
    """Raise WorkPending, which lists the differences, if a recipe's sources are not those of its lock."""
    differences = drift(loaded, resolved)
    if not differences:
        return
    shown = differences[:MAX_DIFFERENCES_SHOWN]
    left = len(differences) - len(shown)
    if left:
        shown.append(f"and {left} more, which `dbrun plan --locked` lists")
    lines = "".join(f"\n  {line}" for line in shown)
    # a key without a file comes from the command line; writing the lock again would not help then
    has_overrides = loaded.profiles or any(span.file is None for span in loaded.origins.values())
    if has_overrides:
        fix = ("restore what changed, or leave out the overrides and profiles: the lock describes the recipe as it is "
               "written")
    else:
        fix = f"restore what changed, or accept it: dbrun lock {display_path(loaded.path)}"
    raise WorkPending(f"{drift_headline(loaded)}; nothing was run{lines}", fix=fix)


def _differences(old: Mapping[str, Any], new: Mapping[str, object]) -> Iterator[str]:
    """A line for each difference of two lock documents. old: as it was read, so its fields may be of any type."""
    base = new["base"]
    if isinstance(base, dict) and old["base"]["identity"] != base["identity"]:
        yield f"base: {_truncate(old['base']['identity'])} → {_truncate(base['identity'])}"
    for part, noun in PICTURE_NOUNS.items():
        yield from _picture_differences(old[part], new[part], noun)
    was, now = _as_dict(old["adapters"]), _as_dict(new["adapters"])
    for name in sorted({*was, *now}):
        if was.get(name) != now.get(name):
            yield f"adapt.{name}.init: {_truncate(was.get(name))} → {_truncate(now.get(name))}"
    yield from _encoder_differences(_as_dict(old.get("encoders")), _as_dict(new.get("encoders")))


def _encoder_differences(was: Mapping[str, object], now: Mapping[str, object]) -> Iterator[str]:
    """A line for each encoder whose files are not the same. was, now: key of an encoder → its files with digests."""
    for key in sorted({*was, *now}):
        before, after = _as_dict(was.get(key)), _as_dict(now.get(key))
        changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
        if changed:
            yield f"{key}: {', '.join(changed)} {'differs' if len(changed) == 1 else 'differ'}"


def _picture_differences(old: object, new: object, noun: str) -> Iterator[str]:
    """A line for each picture that only one of two lists has, compared by content and prompt, not by file name."""
    was = old if isinstance(old, list) else []
    now = new if isinstance(new, list) else []
    names = {_picture_id(entry): entry["file"] for entry in (*was, *now)}
    # counters, not sets: the same picture can be there twice
    before, after = Counter(map(_picture_id, was)), Counter(map(_picture_id, now))
    for pictures, problem in ((after - before, "is not in the lock"), (before - after, "is in the lock, but not here")):
        for digest, prompt in sorted(pictures, key=lambda picture: (names[picture], *picture)):
            yield f"{noun} {names[digest, prompt]} ({digest[:10]}…, '{prompt}') {problem}"


def _picture_id(entry: Mapping[str, str]) -> tuple[str, str]:
    return entry["sha256"], entry["prompt"]


def _as_dict(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, dict) else {}


def _truncate(identity: object) -> str:
    text = "none" if identity is None else str(identity)
    return text if len(text) <= MAX_IDENTITY_LENGTH else f"{text[:MAX_IDENTITY_LENGTH - 1]}…"
