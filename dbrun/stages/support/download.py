"""Downloads of bases and picture data sets from the Hugging Face Hub."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.disk_space import check_free_space, format_bytes, free_bytes
from dbrun.errors import Gated, RecipeError, StageFailed
from dbrun.models.base import no_op
from dbrun.naming import COMMIT

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

POLL_INTERVAL = 0.1
"""Seconds between two checks of whether a download is to stop."""


@dataclass(frozen=True)
class RepoKind:
    """A kind of repository on the Hub.

    label: its name in errors; path_key, revision_key: the recipe keys that name it; info_method: the method of HfApi
    that gives its commit; repo_type: the Hub's, None for a model.
    """

    label: str
    path_key: str
    revision_key: str
    info_method: str
    repo_type: str | None = None

    @property
    def hub_options(self) -> dict[str, str]:
        """Keyword arguments of the Hub's library for this kind."""
        return {"repo_type": self.repo_type} if self.repo_type else {}


@dataclass(frozen=True)
class FirstFiles:
    """A check of small files that are fetched first. endings: of their names; run: gets their folder, may raise."""

    endings: tuple[str, ...]
    run: Callable[[Path], object]


MODEL = RepoKind("model", "base.path", "base.revision", "model_info")
DATASET = RepoKind("data set", "subject.images", "subject.revision", "dataset_info", "dataset")


def resolve_commit(repo: str, revision: str | None, kind: RepoKind = MODEL) -> str:
    """The 40-digit commit of a branch or tag (None: the default branch), asked of the Hub.

        A full commit hash is returned unasked. Raises RecipeError where the Hub does not have the repository or the
        revision, Gated where it refuses this login, StageFailed where the Hub cannot be reached.
        """
    if revision and COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi

    with _hub_errors(repo, revision, kind):
        info = getattr(HfApi(), kind.info_method)(repo, revision=revision)
        # of a gated repository everyone sees the commit: ask about the files now, before pictures are drawn for it
        if getattr(info, "gated", False):
            HfApi().auth_check(repo, **kind.hub_options)
        return str(info.sha)


def download(repo: str, commit: str, wanted: Callable[[Sequence[str]], Sequence[str]],
             seen: Callable[[int, int], None], kind: RepoKind = MODEL, poll: Callable[[], object] = no_op,
             check: FirstFiles | None = None, note: Callable[[str], object] = no_op) -> Path:
    """Fetch files of a commit into the Hub's own cache and return the folder that holds them.

    wanted: all file names of the repository -> those to fetch; seen: called before each file with (files done, files
    in all); poll: called every POLL_INTERVAL, may raise to stop; check: of the first files, before the others; note:
    gets a text on the size of the download. Files in the cache are not fetched again; one that was cut off is fetched
    from its start, since the Hub's library keeps no part of it. Raises StageFailed, before the first byte, where the
    missing files do not fit on the cache's disk.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils.logging import set_verbosity_error

    disable_progress_bars()
    set_verbosity_error()
    with _hub_errors(repo, commit, kind):
        entries = HfApi().list_repo_tree(repo, recursive=True, revision=commit, **kind.hub_options)
        files = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
        names = wanted(tuple(files))
        _check_room(repo, [files[name] for name in names], kind, note)
        first: list[str] = []
        if check is not None:
            first = [name for name in names if name.endswith(check.endings)]
        names = list(dict.fromkeys((*first, *names)))
        folder = None
        for done, name in enumerate(names):
            if check is not None and folder is not None and done == len(first):
                check.run(folder)
            seen(done, len(names))
            fetch = partial(hf_hub_download, repo, name, revision=commit, **kind.hub_options)
            path = Path(_run_polled(fetch, poll))
            # the root of the repository: as many folders up as the name has slashes
            folder = path.parents[name.count("/")]
    if folder is None:
        raise RecipeError(f"{repo} holds no base in diffusers format", fix="name another one in `base.path`")
    return folder


def _check_room(repo: str, files: Sequence[RepoFile], kind: RepoKind, note: Callable[[str], object]) -> None:
    """Tell how much is missing in the Hub's cache; raise StageFailed unless it fits on its disk."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(constants.HF_HUB_CACHE)
    blobs = cache / repo_folder_name(repo_id=repo, repo_type=kind.repo_type or "model") / "blobs"
    # a blob is named by its sha256 if it is a large file, else by its git id; files with equal content share one
    missing: dict[str, int] = {}
    for file in files:
        blob = file.lfs.sha256 if file.lfs else file.blob_id
        if not (blobs / blob).exists():
            missing[blob] = file.size
    free = free_bytes(cache)
    if missing:
        room = "" if free is None else f"; {format_bytes(free)} are free in {cache}"
        note(f"the download of {repo} takes {format_bytes(sum(missing.values()))}{room}")
    check_free_space(cache, f"the Hub's cache, {cache}", f"the download of {repo}", sum(missing.values()),
                     fix="free some space (`hf cache prune` and `hf cache rm` show what can be deleted), or set "
                         "HF_HUB_CACHE to a folder on a larger disk")


def _run_polled(fetch: Callable[[], str], poll: Callable[[], object]) -> str:
    """The result of `fetch`, while `poll` is called every POLL_INTERVAL; raises what either of them raises."""
    # large files take minutes, and the Hub's library cannot be interrupted: let it run in a daemon thread, which the
    # end of the process ends
    results: list[str] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            results.append(fetch())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        poll()
        thread.join(POLL_INTERVAL)
    if raised:
        raise raised[0]
    return results[0]


@contextmanager
def _hub_errors(repo: str, revision: str | None, kind: RepoKind) -> Iterator[None]:
    """Context manager: turn errors of the Hub's library into RecipeError and StageFailed."""
    from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except RevisionNotFoundError as error:
        raise RecipeError(f"{repo} has no revision {revision}", fix=f"check `{kind.revision_key}`") from error
    except GatedRepoError as error:
        # a kind of RepositoryNotFoundError, so it comes first
        page = f"{kind.repo_type}s/{repo}" if kind.repo_type else repo
        raise Gated(f"{repo} is gated, and the Hub refuses its files to this login",
                    fix=f"accept its terms on https://huggingface.co/{page}, then `hf auth login` with the same account"
                    ) from error
    except RepositoryNotFoundError as error:
        raise RecipeError(f"the Hub shows no {kind.label} {repo}: it does not exist, or needs a login",
                          fix=f"check `{kind.path_key}`; for a gated {kind.label}, `hf auth login`") from error
    except (HTTPError, OSError) as error:
        raise StageFailed(f"{repo} could not be fetched from the Hub: {error}",
                          fix="run the same command again when the network is back; what is here is kept") from error
