"""Where are the pictures of a data set of the Hub, and is it whole?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from dbrun.errors import NotFetched, RecipeError
from dbrun.events import Emit, Note, Progress
from dbrun.images.captions import TABLES, TEXT
from dbrun.images.discover import SPLIT, is_picture
from dbrun.recipe.load import LoadedRecipe
from dbrun.recipe.schema.subject import Subject
from dbrun.resolve import hub
from dbrun.store.store import Store

TOLD = "pictures"
"""What notes and progress of fetching stand under."""


def dataset_folder(repo: str, revision: str, store: Store) -> tuple[Path, tuple[str, ...]]:
    """The folder of a fetched data set in the Hub's cache, and what a person should know. Raises NotFetched."""
    commit = _commit(repo, revision, store)
    folder = hub.dataset(repo, commit) if commit else None
    if commit is None or folder is None:
        raise NotFetched(f"the data set {repo} at {revision} is not in {hub.cache_folder()}",
                         fix="unset HF_HUB_OFFLINE, so that `dbrun run` may fetch it" if hub.offline() else
                         "`dbrun run` fetches it")
    pinned = f"{repo} at {revision} is commit {commit}; `revision: {commit}` in the recipe keeps it"
    unsure = f"{repo} is taken as it lies in {folder}: whether that is all of it has not been asked of the Hub"
    return folder, (*([pinned] if commit != revision else []), *([] if _whole(repo, commit, store) else [unsure]))


def fetch(loaded: LoadedRecipe, store: Store, emit: Emit) -> None:
    """Fetch the data sets that a recipe names and that are not here yet, if the Hub may be asked."""
    for subject in loaded.recipe.taught.values():
        if subject.revision is None or hub.offline():
            continue
        commit = _commit(subject.images, subject.revision, store)
        if commit is None or not _whole(subject.images, commit, store):
            store.prepare()
            _fetch(subject, subject.revision, store, emit)


def wanted(names: Iterable[str]) -> tuple[str, ...]:
    """Those of a data set's files that are read: pictures, and what says something of them; of splits only `train`."""
    plain = [name for name in sorted(names) if ".." not in PurePosixPath(name).parts]
    used = [name for name in plain if is_picture(name) or PurePosixPath(name).name in TABLES or name.endswith(TEXT)]
    if any("/" not in name for name in used):
        return tuple(used)
    return tuple(name for name in used if name.startswith(f"{SPLIT}/")) or tuple(used)


def _fetch(subject: Subject, revision: str, store: Store, emit: Emit) -> None:
    from dbrun.stages.support.download import DATASET, commit_of, download

    repo = subject.images
    commit = commit_of(repo, revision, DATASET)
    emit(Note(TOLD, f"fetching the data set {repo} at {commit[:12]}"))
    count = 0

    def chosen(names: Sequence[str]) -> Sequence[str]:
        nonlocal count
        found = wanted(names)
        if not any(map(is_picture, found)):
            kinds = ", ".join(sorted({PurePosixPath(name).suffix or "no suffix" for name in names})[:6])
            raise RecipeError(f"the data set {repo} holds no picture files: found {kinds or 'nothing'}",
                              fix="save its pictures into a folder (of a parquet set, by the `datasets` library: "
                                  "`picture.save(…)` for each row), and name that")
        count = len(found)
        return found

    download(repo, commit, chosen, lambda done, total: emit(Progress(TOLD, done, total, "files")), DATASET)
    store.commits.put(_name(repo, revision), commit)
    store.commits.put(f"{_name(repo, commit)} files", str(count))
    store.save_tables()


def _name(repo: str, revision: str) -> str:
    return f"datasets/{repo}@{revision}"


def _commit(repo: str, revision: str, store: Store) -> str | None:
    """What a branch or tag stood for when it was last fetched."""
    if hub.COMMIT.fullmatch(revision):
        return revision
    return hub.known_commit(repo, revision, hub.DATASETS) or store.commits.get(_name(repo, revision))


def _whole(repo: str, commit: str, store: Store) -> bool:
    """Whether all of it was fetched once and is still there."""
    folder, count = hub.dataset(repo, commit), store.commits.get(f"{_name(repo, commit)} files")
    if folder is None or count is None:
        return False
    there = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return len(wanted(there)) >= int(count)
