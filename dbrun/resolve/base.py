"""Where is the base, and what is it, before anything is loaded?"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dbrun.errors import RecipeError, StageFailed
from dbrun.models.base import Family, Sampling, families
from dbrun.recipe.checks.rules import HUB_ID
from dbrun.recipe.schema.model import Base
from dbrun.resolve import hub
from dbrun.stages.base import Artifact, BaseSource
from dbrun.stages.load import RECORD, check_layout, wanted_files
from dbrun.store.atomic import said
from dbrun.store.canonical import digest, plain
from dbrun.store.store import Store

EMBEDDED = "embedded"


@dataclass(frozen=True)
class FoundBase:
    """A base. revision: one whose commit is to be asked from the Hub; out_of_reach: why it cannot be."""

    source: BaseSource
    revision: str | None = None
    out_of_reach: str | None = None
    notes: tuple[str, ...] = ()


def find_base(base: Base, beside: Path, store: Store) -> FoundBase:
    """The base that a recipe names. beside: where a relative path begins. Raises RecipeError."""
    family = families()[base.type]
    if base.path == EMBEDDED:
        from dbrun.embedded import weights_path

        return FoundBase(_in_folder(weights_path(), family, base.variant, store))
    folder = beside / Path(base.path).expanduser()
    hub_like = HUB_ID.fullmatch(base.path) is not None
    if (folder / "model_index.json").is_file() and not (hub_like and base.revision):
        return FoundBase(_in_folder(folder, family, base.variant, store))
    if hub_like:
        found = _on_hub(base.path, base.revision or "main", family, base.variant, store)
        if folder.is_dir():
            text = f"{base.path} is taken as a Hub id: the folder {folder} holds no model_index.json"
            return FoundBase(found.source, found.revision, found.out_of_reach, (text,))
        return found
    if folder.is_dir():
        raise RecipeError(f"{folder} holds no model_index.json, so it is no base in diffusers format",
                          fix="name a folder written by `save_pretrained`")
    raise RecipeError(f"found {base.path!r}, which is no folder here ({folder}) and no Hub id",
                      fix=f"write `{EMBEDDED}`, a folder in diffusers format, or a Hub id such as owner/name")


def hub_parts(identity: str) -> tuple[str, str] | None:
    """The repository and the commit of a Hub base's identity, None for a base of files."""
    kind, _, rest = identity.partition(":")
    repo, _, commit = rest.partition("@")
    return (repo, commit) if kind == "hub" else None


def base_folder(base: BaseSource, loaded: Artifact, store: Store) -> Path:
    """Where the base stands, once its files are those that `load` verified. Raises StageFailed."""
    parts = hub_parts(base.identity)
    folder = base.folder or (hub.snapshot(*parts) if parts else None)
    if folder is None:
        raise StageFailed(f"the base {base.identity} is not in {hub.cache_folder()}",
                          fix="run the same command again with --force load")
    recorded = _recorded(loaded)
    wrong = [name for name, sha256 in {**recorded, **base.files}.items()
             if sha256 != recorded.get(name, sha256) or _digest(folder / name, store) != sha256]
    if wrong:
        again = "run the same command again"
        raise StageFailed(f"the base in {folder} is not what `load` verified: {', '.join(wrong[:3])} differs",
                          fix=f"delete {hub.repository(parts[0])}, then {again}" if parts else
                          f"{again}; if it says so once more, add --force load")
    return folder


def _recorded(loaded: Artifact) -> Mapping[str, str]:
    try:
        files: Mapping[str, str] = json.loads((loaded.path / RECORD).read_bytes())["files"]
    except FileNotFoundError:
        return {}
    return files


def _digest(path: Path, store: Store) -> str | None:
    try:
        return store.digests.of(path)
    except OSError:
        return None


def _on_hub(repo: str, revision: str, family: Family, variant: str | None, store: Store) -> FoundBase:
    commit = revision if hub.COMMIT.fullmatch(revision) else _commit(repo, revision, store)
    folder = hub.snapshot(repo, commit) if commit else None
    if folder is not None and not _complete(folder, family, variant):
        folder = None
    source = BaseSource(identity=f"hub:{repo}@{commit or revision}", family=family.NAME, folder=folder,
                        variant=variant, files={}, sampling=family.sampling)
    missing = f"{repo} at {revision} is not in {hub.cache_folder()}, and HF_HUB_OFFLINE is set"
    return FoundBase(source, None if commit else revision,
                     missing if folder is None and hub.offline() else None)


def _commit(repo: str, revision: str, store: Store) -> str | None:
    """What a branch or tag stood for when it was last fetched; remembered, should the cache be cleared."""
    remembered = store.commits.get(f"{repo}@{revision}")
    commit = hub.known_commit(repo, revision)
    if commit is not None and commit != remembered:
        store.commits.put(f"{repo}@{revision}", commit)
    return commit or remembered


def _in_folder(folder: Path, family: Family, variant: str | None, store: Store) -> BaseSource:
    try:
        names = sorted(_names(folder, family))
        wanted = wanted_files(names, family.folders, variant)
        check_layout(folder, family, wanted, names)
        files = {name: store.digests.of(_inside(folder, name)) for name in wanted}
    except OSError as error:
        raise said(error, f"reading the base {folder}") from error
    return BaseSource(identity=f"files:{digest(plain(files))}", family=family.NAME, folder=folder,
                      variant=variant, files=files, sampling=_sampling(folder, family.sampling))


def _complete(folder: Path, family: Family, variant: str | None) -> bool:
    """Whether a snapshot is more than a download that was cut off; `load` goes on with one that is not."""
    names = sorted(_names(folder, family))
    try:
        check_layout(folder, family, wanted_files(names, family.folders, variant), names)
    except RecipeError:
        return False
    return True


def _names(folder: Path, family: Family) -> Iterator[str]:
    for inner in ("", *family.folders):
        if (folder / inner).is_dir():
            prefix = f"{inner}/" if inner else ""
            yield from (prefix + entry.name for entry in os.scandir(folder / inner) if entry.is_file())


def _inside(folder: Path, name: str) -> Path:
    """The file, unless it is a link out of the base; snapshots in the Hub's cache link into that cache."""
    path = folder / name
    real, home = path.resolve(), folder.resolve()
    if home.parent.name == "snapshots" and home.parent.parent.name.startswith("models--"):
        home = home.parents[2]
    if not real.is_relative_to(home):
        raise RecipeError(f"{path} is a link that leads out of the base, to {real}",
                          fix="copy the file into the base's folder")
    return path


def _sampling(folder: Path, usual: Sampling) -> Sampling:
    """What a base's manifest.json says of its sampler, else what is usual in its family."""
    try:
        said = json.loads((folder / "manifest.json").read_bytes())["sampling"]
        return Sampling(steps=int(said["steps"]), guidance=float(said["guidance"]))
    except (OSError, ValueError, KeyError, TypeError):
        return usual
