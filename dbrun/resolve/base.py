"""The base that a recipe names: its folder, identity and files, found before anything is loaded."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dbrun.errors import RecipeError, StageFailed, UsageError
from dbrun.input_file import file_exists, folder_exists, is_file, read_json, undecodable
from dbrun.models.base import Family, Sampling, families
from dbrun.naming import COMMIT, HUB_ID
from dbrun.recipe.schema.model import Base
from dbrun.recipe.starter_bases import StarterBase, starter_base_at
from dbrun.resolve import hub
from dbrun.resolve.single_file import find_single_file, is_checkpoint_path
from dbrun.stages.load import BASE_FILE, MODULAR_INDEX, check_layout, refuse_modular, select_files
from dbrun.stages.sources import Artifact, BaseSource
from dbrun.stages.support.tokenizer_links import hub_tokenizers, link_tokenizers
from dbrun.store.atomic import explain_os_error
from dbrun.store.canonical import digest, to_json_value
from dbrun.store.store import Store

EMBEDDED = "embedded"
"""Value of `base.path` for the small base that ships with dbrun."""
ALLOWED_PATHS = (f"write `{EMBEDDED}`, a folder in diffusers format, a .safetensors file, or a Hub id such as "
                 "owner/name")
"""Fix for a path that is none of these."""


@dataclass(frozen=True)
class FoundBase:
    """Base as it was found. notes: texts for people.

    unpinned_revision: branch or tag whose commit must be asked from the Hub, None if the commit is known;
    unavailable_reason: why the base can be neither read nor fetched, if so.
    """

    source: BaseSource
    unpinned_revision: str | None = None
    unavailable_reason: str | None = None
    notes: tuple[str, ...] = ()


def find_base(base: Base, relative_to: Path, store: Store, like_relative_to: Path | None = None) -> FoundBase:
    """Find the base of a recipe. relative_to: folder that a relative path starts from; like_relative_to: that of a
    relative `base.like`, if it is another one.

    Raises RecipeError if the path is neither a base nor a Hub id, or if files are missing.
    """
    family = families()[base.type]
    if base.path == EMBEDDED:
        from dbrun.embedded import weights_path

        return FoundBase(_find_local_base(weights_path(), family, base.variant, store))
    folder = relative_to / Path(base.path).expanduser()
    try:
        folder.is_dir()
    except OSError as error:
        # the system refuses a name of more than 255 bytes instead of saying that nothing is there
        raise RecipeError(f"found {base.path[:60]!r}…, which the system cannot look up: {error.strerror}",
                          fix=ALLOWED_PATHS) from error
    if is_checkpoint_path(folder):
        found = find_single_file(base, folder, like_relative_to or relative_to, store)
        return FoundBase(found.source, unavailable_reason=found.unavailable_reason, notes=found.notes)
    looks_like_hub_id = HUB_ID.fullmatch(base.path) is not None
    # `owner/name` can be a folder too: the folder wins, unless a revision says that the Hub is meant
    if file_exists(folder / "model_index.json") and not (looks_like_hub_id and base.revision):
        return FoundBase(_find_local_base(folder, family, base.variant, store))
    if looks_like_hub_id:
        hub_base = _find_hub_base(base.path, base.revision or "main", family, base.variant, store)
        if folder_exists(folder):
            text = f"{base.path} is taken as a Hub id: the folder {folder} holds no model_index.json"
            return replace(hub_base, notes=(text, *hub_base.notes))
        return hub_base
    if folder_exists(folder):
        refuse_modular(folder, [MODULAR_INDEX] if file_exists(folder / MODULAR_INDEX) else [])
        raise RecipeError(f"{folder} holds no model_index.json, so it is not a base in diffusers format",
                          fix="name a folder written by `save_pretrained`")
    raise RecipeError(f"found {base.path!r}, which is neither a folder here ({folder}) nor a Hub id",
                      fix=ALLOWED_PATHS)


def parse_hub_identity(identity: str) -> tuple[str, str] | None:
    """Split the identity `hub:<repo>@<commit>` of a base into repository and commit; None for a base of local files."""
    kind, _, rest = identity.partition(":")
    repo, _, commit = rest.partition("@")
    return (repo, commit) if kind == "hub" else None


def published_base(base: BaseSource) -> StarterBase | None:
    """What dbrun knows of a base without its files: those that its starter recipes are for. None for another."""
    hub_identity = parse_hub_identity(base.identity)
    return starter_base_at(hub_identity[0]) if hub_identity is not None else None


def require_base_folder(base: BaseSource, words: Sequence[str]) -> Path:
    """Folder of a base that must be on this machine. Raises UsageError where it is not.

    words: of the command line that name the recipe, for the command that fetches the base.
    """
    if base.folder is not None:
        return base.folder
    hub_identity = parse_hub_identity(base.identity)
    name = base.identity
    if hub_identity is not None:
        repo, commit = hub_identity
        name = f"{repo} at {commit[:12]}"
    raise UsageError(f"the base {name} is not on this machine yet",
                     fix=f"fetch it first: {shlex.join(['dbrun', 'stage', 'load', *words])}")


def verified_base_folder(base: BaseSource, loaded: Artifact, store: Store) -> Path:
    """Folder of the base, after its files were compared with those that `load` verified.

    loaded: result of `load`. Raises StageFailed if the base is gone or a file differs.
    """
    hub_identity = parse_hub_identity(base.identity)
    folder = base.folder
    if folder is None and hub_identity is not None:
        folder = hub.model_snapshot(*hub_identity)
    tokenizers = hub_tokenizers(base.identity)
    if folder is None and tokenizers is not None and base.incomplete is not None:
        folder = base.incomplete
        link_tokenizers(folder, hub.snapshot_folder(*tokenizers), families()[base.family])
    if folder is None:
        raise StageFailed(f"the base {base.identity} is not in {hub.cache_folder()}",
                          fix="run the same command again with --force load")
    recorded = _recorded_digests(loaded)
    # the base can change between planning and this stage: then both digests must agree with the file on disk
    expected = {**recorded, **base.files}
    changed = [name for name, sha256 in expected.items()
               if sha256 != recorded.get(name, sha256) or _digest(folder / name, store) != sha256]
    if not changed:
        return folder
    if hub_identity is not None:
        fix = f"delete {hub.repository_folder(hub_identity[0])}, then run the same command again"
    else:
        fix = "run the same command again; if it says so once more, add --force load"
    raise StageFailed(f"the base in {folder} is not what `load` verified: {', '.join(changed[:3])} differs", fix=fix)


def _recorded_digests(loaded: Artifact) -> Mapping[str, str]:
    """Relative file name → sha256, as `load` recorded them; empty for results that have no such record."""
    try:
        files: Mapping[str, str] = read_json(loaded.path / BASE_FILE)["files"]
    except FileNotFoundError:
        return {}
    return files


def _digest(path: Path, store: Store) -> str | None:
    """Sha256 of a file; None if it cannot be read."""
    try:
        return store.digests.sha256(path)
    except OSError:
        return None


def _find_hub_base(repo: str, revision: str, family: Family, variant: str | None, store: Store) -> FoundBase:
    """Base of the Hub, as far as the local cache knows it. Does not use the network."""
    commit = revision if COMMIT.fullmatch(revision) else _resolve_commit(repo, revision, store)
    folder = hub.model_snapshot(repo, commit) if commit else None
    # a download that was cut off is as good as none: `load` will continue it
    if folder is not None and not _is_complete(folder, family, variant):
        folder = None
    source = BaseSource(identity=f"hub:{repo}@{commit or revision}", family=family.NAME, folder=folder,
                        variant=variant, files={}, sampling=family.default_sampling)
    unpinned_revision = None if commit else revision
    unavailable_reason = None
    if folder is None and hub.is_offline():
        unavailable_reason = f"{repo} at {revision} is not in {hub.cache_folder()}, and HF_HUB_OFFLINE is set"
    return FoundBase(source, unpinned_revision, unavailable_reason)


def _resolve_commit(repo: str, revision: str, store: Store) -> str | None:
    """Commit that a branch or tag had when it was last fetched; None if it never was.

    The store remembers it too: so the cache keys stay known when the user clears the Hub's cache.
    """
    remembered = store.commits.get(f"{repo}@{revision}")
    commit = hub.cached_commit(repo, revision)
    if commit is not None and commit != remembered:
        store.commits.put(f"{repo}@{revision}", commit)
    return commit or remembered


def _find_local_base(folder: Path, family: Family, variant: str | None, store: Store) -> BaseSource:
    """Base in a folder. Its identity is made of file names and contents, so it does not depend on the folder's path."""
    try:
        names = sorted(_file_names(folder, family))
        selected = select_files(names, family.subfolders, variant)
        check_layout(folder, family, selected, names)
        files = {name: store.digests.sha256(_path_inside_base(folder, name)) for name in selected}
    except OSError as error:
        raise explain_os_error(error, f"reading the base {folder}") from error
    identity = f"files:{digest(to_json_value(files))}"
    _remember_folder(identity, folder, store)
    return BaseSource(identity=identity, family=family.NAME, folder=folder, variant=variant, files=files,
                      sampling=read_sampling(folder, family.default_sampling))


def _remember_folder(identity: str, folder: Path, store: Store) -> None:
    """Remember where a base was, for adapters that name it by its content alone."""
    place = os.path.realpath(folder)
    # what is known is not written anew
    if store.commits.get(_folder_key(identity)) != place:
        store.commits.put(_folder_key(identity), place)


def remembered_folder(identity: str, store: Store) -> str | None:
    """Where a local base was last found; its content may have changed since. None if it was never used here."""
    return store.commits.get(_folder_key(identity))


def _folder_key(identity: str) -> str:
    return f"folder of {identity}"


def _is_complete(folder: Path, family: Family, variant: str | None) -> bool:
    """Whether a snapshot has all files that the family needs, and is not a download that was cut off."""
    names = sorted(_file_names(folder, family))
    try:
        check_layout(folder, family, select_files(names, family.subfolders, variant), names)
    except RecipeError:
        return False
    return True


def _file_names(folder: Path, family: Family) -> Iterator[str]:
    """Relative names of the files in a base's folder and in the subfolders that the family has."""
    for subfolder in ("", *family.subfolders):
        if not (folder / subfolder).is_dir():
            continue
        prefix = f"{subfolder}/" if subfolder else ""
        for entry in os.scandir(folder / subfolder):
            shown = undecodable(entry.name)
            if shown is not None:
                raise RecipeError(f"{folder / subfolder} holds a file whose name is not UTF-8: {shown}",
                                  fix="remove it, or fetch the base again")
            if is_file(entry):
                yield prefix + entry.name


def _path_inside_base(folder: Path, name: str) -> Path:
    """Path of a file of the base. Raises RecipeError for a link that leads out of the base."""
    path = folder / name
    real, home = path.resolve(), folder.resolve()
    # a snapshot in the Hub's cache consists of links to `blobs/`, beside `snapshots/`
    if home.parent.name == "snapshots" and home.parent.parent.name.startswith("models--"):
        home = home.parents[2]
    if not real.is_relative_to(home):
        raise RecipeError(f"{path} is a link that leads out of the base, to {real}",
                          fix="copy the file into the base's folder")
    return path


def read_sampling(folder: Path, usual: Sampling) -> Sampling:
    """Sampling settings from a base's manifest.json, which only bases made by dbrun have; `usual` if it has none."""
    try:
        sampling = read_json(folder / "manifest.json")["sampling"]
        return Sampling(steps=int(sampling["steps"]), guidance=float(sampling["guidance"]))
    # OverflowError: JSON may hold infinity
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return usual
