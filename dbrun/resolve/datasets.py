"""Where are the pictures of a data set of the Hub, and is it whole?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from dbrun.errors import NotFetched, RecipeError
from dbrun.events import Emit, Note, Progress
from dbrun.images.captions import METADATA_FILES, TEXT_SUFFIX
from dbrun.images.discover import TRAIN_SPLIT, is_picture
from dbrun.recipe.load import LoadedRecipe
from dbrun.recipe.schema.subject import Subject
from dbrun.resolve import hub
from dbrun.store.store import Store

EVENT_STAGE = "pictures"
"""What notes and progress of fetching stand under."""


def find_dataset(repo: str, revision: str, store: Store) -> tuple[Path, tuple[str, ...]]:
    """The folder of a fetched data set in the Hub's cache, and what a person should know. Raises NotFetched."""
    commit = _resolve_commit(repo, revision, store)
    folder = hub.dataset_snapshot(repo, commit) if commit else None
    if commit is None or folder is None:
        raise NotFetched(f"the data set {repo} at {revision} is not in {hub.cache_folder()}",
                         fix="unset HF_HUB_OFFLINE, so that `dbrun run` may fetch it" if hub.is_offline() else
                         "`dbrun run` fetches it")
    pinned = f"{repo} at {revision} is commit {commit}; `revision: {commit}` in the recipe keeps it"
    unsure = f"{repo} is taken as it lies in {folder}: whether that is all of it has not been asked of the Hub"
    return folder, (*([pinned] if commit != revision else []), *([] if _is_complete(repo, commit, store) else [unsure]))


def fetch_datasets(loaded: LoadedRecipe, store: Store, emit: Emit) -> None:
    """Fetch the data sets that a recipe names and that are not here yet, if the Hub may be asked."""
    for subject in loaded.recipe.subjects_by_key.values():
        if subject.revision is None or hub.is_offline():
            continue
        commit = _resolve_commit(subject.images, subject.revision, store)
        if commit is None or not _is_complete(subject.images, commit, store):
            store.prepare()
            _fetch_dataset(subject, subject.revision, store, emit)


def select_dataset_files(names: Iterable[str]) -> tuple[str, ...]:
    """Those of a data set's files that are read: pictures, and what says something of them; of splits only `train`."""
    plain = [name for name in sorted(names) if ".." not in PurePosixPath(name).parts]
    used = [name for name in plain
            if is_picture(name) or PurePosixPath(name).name in METADATA_FILES or name.endswith(TEXT_SUFFIX)]
    if any("/" not in name for name in used):
        return tuple(used)
    return tuple(name for name in used if name.startswith(f"{TRAIN_SPLIT}/")) or tuple(used)


def _fetch_dataset(subject: Subject, revision: str, store: Store, emit: Emit) -> None:
    from dbrun.stages.support.download import DATASET, download, resolve_commit

    repo = subject.images
    commit = resolve_commit(repo, revision, DATASET)
    emit(Note(EVENT_STAGE, f"fetching the data set {repo} at {commit[:12]}"))
    count = 0

    def chosen(names: Sequence[str]) -> Sequence[str]:
        nonlocal count
        found = select_dataset_files(names)
        if not any(map(is_picture, found)):
            kinds = ", ".join(sorted({PurePosixPath(name).suffix or "no suffix" for name in names})[:6])
            raise RecipeError(f"the data set {repo} holds no picture files: found {kinds or 'nothing'}",
                              fix="save its pictures into a folder (of a parquet set, by the `datasets` library: "
                                  "`picture.save(…)` for each row), and name that")
        count = len(found)
        return found

    download(repo, commit, chosen, lambda done, total: emit(Progress(EVENT_STAGE, done, total, "files")), DATASET)
    store.commits.put(_commit_key(repo, revision), commit)
    store.commits.put(f"{_commit_key(repo, commit)} files", str(count))
    store.save_caches()


def _commit_key(repo: str, revision: str) -> str:
    return f"datasets/{repo}@{revision}"


def _resolve_commit(repo: str, revision: str, store: Store) -> str | None:
    """What a branch or tag stood for when it was last fetched."""
    if hub.COMMIT.fullmatch(revision):
        return revision
    return hub.cached_commit(repo, revision, hub.DATASETS) or store.commits.get(_commit_key(repo, revision))


def _is_complete(repo: str, commit: str, store: Store) -> bool:
    """Whether all of it was fetched once and is still there."""
    folder, count = hub.dataset_snapshot(repo, commit), store.commits.get(f"{_commit_key(repo, commit)} files")
    if folder is None or count is None:
        return False
    there = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return len(select_dataset_files(there)) >= int(count)
