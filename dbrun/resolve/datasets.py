"""Data sets of the Hub as a source of pictures: found in the local cache, or fetched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from dbrun.errors import NotFetched, RecipeError
from dbrun.events import Emit, Note, Progress
from dbrun.images.captions import TEXT_SUFFIX
from dbrun.images.discover import TRAIN_SPLIT, is_picture
from dbrun.images.metadata import metadata_files
from dbrun.naming import COMMIT
from dbrun.pace import Pace
from dbrun.recipe.load import LoadedRecipe
from dbrun.recipe.schema.subject import Subject
from dbrun.resolve import hub
from dbrun.store.store import Store

EVENT_STAGE = "pictures"
"""Stage name of the notes and progress events of fetching."""


def find_dataset(repo: str, revision: str, store: Store) -> tuple[Path, tuple[str, ...]]:
    """Folder of a fetched data set in the Hub's cache, and notes for people. Raises NotFetched if it is not there."""
    commit = _resolve_commit(repo, revision, store)
    folder = hub.dataset_snapshot(repo, commit) if commit else None
    if commit is None or folder is None:
        fix = "`dbrun run` fetches it"
        if hub.is_offline():
            fix = "unset HF_HUB_OFFLINE, so that `dbrun run` may fetch it"
        raise NotFetched(f"the data set {repo} at {revision} is not in {hub.cache_folder()}", fix=fix)
    notes: list[str] = []
    if commit != revision:
        notes.append(f"{repo} at {revision} is commit {commit}; `revision: {commit}` in the recipe pins it")
    # another program may have fetched a part of it, and only the Hub knows how many files there are
    if not _is_complete(repo, commit, store):
        notes.append(f"{repo} is taken as it is in {folder}: the Hub was not asked whether it is complete")
    return folder, tuple(notes)


def fetch_datasets(loaded: LoadedRecipe, store: Store, emit: Emit) -> None:
    """Fetch the data sets that a recipe names and that are not complete here. Does nothing if HF_HUB_OFFLINE is set."""
    for subject in loaded.recipe.subjects_by_key.values():
        if subject.revision is None or hub.is_offline():
            continue
        commit = _resolve_commit(subject.images, subject.revision, store)
        if commit is None or not _is_complete(subject.images, commit, store):
            store.prepare()
            _fetch_dataset(subject, subject.revision, store, emit)


def select_dataset_files(names: Iterable[str]) -> tuple[str, ...]:
    """Select the files of a data set that are read: pictures, caption files, metadata.

    names: relative paths. If all files lie in folders and one is `train/`, only that split is read.
    """
    used: list[str] = []
    for name in sorted(names):
        path = PurePosixPath(name)
        # the names come from the Hub; `..` could lead out of the cache
        if ".." in path.parts:
            continue
        if is_picture(name) or metadata_files([path.name]) or name.lower().endswith(TEXT_SUFFIX):
            used.append(name)
    if any("/" not in name for name in used):
        return tuple(used)
    train_split = tuple(name for name in used if name.startswith(f"{TRAIN_SPLIT}/"))
    return train_split or tuple(used)


def _fetch_dataset(subject: Subject, revision: str, store: Store, emit: Emit) -> None:
    """Fetch one data set and remember its commit and its number of files. Raises RecipeError if it has no pictures."""
    from dbrun.stages.support.download import DATASET, download, resolve_commit

    repo = subject.images
    commit = resolve_commit(repo, revision, DATASET)
    emit(Note(EVENT_STAGE, f"fetching the data set {repo} at {commit[:12]}"))
    count = 0

    def chosen(names: Sequence[str]) -> Sequence[str]:
        nonlocal count
        selected = select_dataset_files(names)
        if not any(map(is_picture, selected)):
            # before the download: a set of parquet files can be many gigabytes
            suffixes = sorted({PurePosixPath(name).suffix or "no suffix" for name in names})
            kinds = ", ".join(suffixes[:6]) or "nothing"
            raise RecipeError(f"the data set {repo} holds no picture files: found {kinds}",
                              fix="save its pictures as files in a folder, and name that folder (for parquet: load it "
                                  "with the library `datasets`, then `picture.save(…)` for each row)")
        count = len(selected)
        return selected

    pace = Pace()

    def show_progress(done: int, total: int) -> None:
        pace.record(done)
        emit(Progress(EVENT_STAGE, done, total, "files", seconds_left=pace.seconds_left(total - done)))

    download(repo, commit, chosen, show_progress, DATASET)
    # written after the download: a set that was cut off has no count, and is fetched again
    store.commits.put(_commit_key(repo, revision), commit)
    store.commits.put(f"{_commit_key(repo, commit)} files", str(count))
    store.save_caches()


def _commit_key(repo: str, revision: str) -> str:
    return f"datasets/{repo}@{revision}"


def _resolve_commit(repo: str, revision: str, store: Store) -> str | None:
    """Commit that a branch or tag had when it was last fetched; None if it never was. A commit stays as it is."""
    if COMMIT.fullmatch(revision):
        return revision
    return hub.cached_commit(repo, revision, hub.DATASETS) or store.commits.get(_commit_key(repo, revision))


def _is_complete(repo: str, commit: str, store: Store) -> bool:
    """Whether dbrun fetched all files of a data set once and they are still in the cache."""
    folder = hub.dataset_snapshot(repo, commit)
    count = store.commits.get(f"{_commit_key(repo, commit)} files")
    if folder is None or count is None:
        return False
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return len(select_dataset_files(names)) >= int(count)
