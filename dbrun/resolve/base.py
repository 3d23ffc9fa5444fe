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
from dbrun.stages.load import BASE_FILE, check_layout, select_files
from dbrun.stages.sources import Artifact, BaseSource
from dbrun.store.atomic import explain_os_error
from dbrun.store.canonical import digest, to_json_value
from dbrun.store.store import Store

EMBEDDED = "embedded"


@dataclass(frozen=True)
class FoundBase:
    """A base. unpinned_revision: one whose commit is to be asked from the Hub; unavailable_reason: why it cannot be."""

    source: BaseSource
    unpinned_revision: str | None = None
    unavailable_reason: str | None = None
    notes: tuple[str, ...] = ()


def find_base(base: Base, beside: Path, store: Store) -> FoundBase:
    """The base that a recipe names. beside: where a relative path begins. Raises RecipeError."""
    family = families()[base.type]
    if base.path == EMBEDDED:
        from dbrun.embedded import weights_path

        return FoundBase(_find_local_base(weights_path(), family, base.variant, store))
    folder = beside / Path(base.path).expanduser()
    hub_like = HUB_ID.fullmatch(base.path) is not None
    if (folder / "model_index.json").is_file() and not (hub_like and base.revision):
        return FoundBase(_find_local_base(folder, family, base.variant, store))
    if hub_like:
        found = _find_hub_base(base.path, base.revision or "main", family, base.variant, store)
        if folder.is_dir():
            text = f"{base.path} is taken as a Hub id: the folder {folder} holds no model_index.json"
            return FoundBase(found.source, found.unpinned_revision, found.unavailable_reason, (text,))
        return found
    if folder.is_dir():
        raise RecipeError(f"{folder} holds no model_index.json, so it is no base in diffusers format",
                          fix="name a folder written by `save_pretrained`")
    raise RecipeError(f"found {base.path!r}, which is no folder here ({folder}) and no Hub id",
                      fix=f"write `{EMBEDDED}`, a folder in diffusers format, or a Hub id such as owner/name")


def parse_hub_identity(identity: str) -> tuple[str, str] | None:
    """The repository and the commit of a Hub base's identity, None for a base of files."""
    kind, _, rest = identity.partition(":")
    repo, _, commit = rest.partition("@")
    return (repo, commit) if kind == "hub" else None


def verified_base_folder(base: BaseSource, loaded: Artifact, store: Store) -> Path:
    """Where the base stands, once its files are those that `load` verified. Raises StageFailed."""
    parts = parse_hub_identity(base.identity)
    folder = base.folder or (hub.model_snapshot(*parts) if parts else None)
    if folder is None:
        raise StageFailed(f"the base {base.identity} is not in {hub.cache_folder()}",
                          fix="run the same command again with --force load")
    recorded = _recorded_digests(loaded)
    wrong = [name for name, sha256 in {**recorded, **base.files}.items()
             if sha256 != recorded.get(name, sha256) or _digest(folder / name, store) != sha256]
    if wrong:
        again = "run the same command again"
        raise StageFailed(f"the base in {folder} is not what `load` verified: {', '.join(wrong[:3])} differs",
                          fix=f"delete {hub.repository_folder(parts[0])}, then {again}" if parts else
                          f"{again}; if it says so once more, add --force load")
    return folder


def _recorded_digests(loaded: Artifact) -> Mapping[str, str]:
    try:
        files: Mapping[str, str] = json.loads((loaded.path / BASE_FILE).read_bytes())["files"]
    except FileNotFoundError:
        return {}
    return files


def _digest(path: Path, store: Store) -> str | None:
    try:
        return store.digests.sha256(path)
    except OSError:
        return None


def _find_hub_base(repo: str, revision: str, family: Family, variant: str | None, store: Store) -> FoundBase:
    commit = revision if hub.COMMIT.fullmatch(revision) else _resolve_commit(repo, revision, store)
    folder = hub.model_snapshot(repo, commit) if commit else None
    if folder is not None and not _is_complete(folder, family, variant):
        folder = None
    source = BaseSource(identity=f"hub:{repo}@{commit or revision}", family=family.NAME, folder=folder,
                        variant=variant, files={}, sampling=family.default_sampling)
    missing = f"{repo} at {revision} is not in {hub.cache_folder()}, and HF_HUB_OFFLINE is set"
    return FoundBase(source, None if commit else revision,
                     missing if folder is None and hub.is_offline() else None)


def _resolve_commit(repo: str, revision: str, store: Store) -> str | None:
    """What a branch or tag stood for when it was last fetched; remembered, should the cache be cleared."""
    remembered = store.commits.get(f"{repo}@{revision}")
    commit = hub.cached_commit(repo, revision)
    if commit is not None and commit != remembered:
        store.commits.put(f"{repo}@{revision}", commit)
    return commit or remembered


def _find_local_base(folder: Path, family: Family, variant: str | None, store: Store) -> BaseSource:
    try:
        names = sorted(_file_names(folder, family))
        wanted = select_files(names, family.subfolders, variant)
        check_layout(folder, family, wanted, names)
        files = {name: store.digests.sha256(_path_inside_base(folder, name)) for name in wanted}
    except OSError as error:
        raise explain_os_error(error, f"reading the base {folder}") from error
    return BaseSource(identity=f"files:{digest(to_json_value(files))}", family=family.NAME, folder=folder,
                      variant=variant, files=files, sampling=_read_sampling(folder, family.default_sampling))


def _is_complete(folder: Path, family: Family, variant: str | None) -> bool:
    """Whether a snapshot is more than a download that was cut off; `load` goes on with one that is not."""
    names = sorted(_file_names(folder, family))
    try:
        check_layout(folder, family, select_files(names, family.subfolders, variant), names)
    except RecipeError:
        return False
    return True


def _file_names(folder: Path, family: Family) -> Iterator[str]:
    for inner in ("", *family.subfolders):
        if (folder / inner).is_dir():
            prefix = f"{inner}/" if inner else ""
            yield from (prefix + entry.name for entry in os.scandir(folder / inner) if entry.is_file())


def _path_inside_base(folder: Path, name: str) -> Path:
    """The file, unless it is a link out of the base; snapshots in the Hub's cache link into that cache."""
    path = folder / name
    real, home = path.resolve(), folder.resolve()
    if home.parent.name == "snapshots" and home.parent.parent.name.startswith("models--"):
        home = home.parents[2]
    if not real.is_relative_to(home):
        raise RecipeError(f"{path} is a link that leads out of the base, to {real}",
                          fix="copy the file into the base's folder")
    return path


def _read_sampling(folder: Path, usual: Sampling) -> Sampling:
    """What a base's manifest.json says of its sampler, else what is usual in its family."""
    try:
        said = json.loads((folder / "manifest.json").read_bytes())["sampling"]
        return Sampling(steps=int(said["steps"]), guidance=float(said["guidance"]))
    except (OSError, ValueError, KeyError, TypeError):
        return usual
