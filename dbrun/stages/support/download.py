"""Downloads of bases and picture data sets from the Hugging Face Hub."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dbrun.disk_space import check_free_space, format_bytes, free_bytes
from dbrun.errors import HubUnreachable, RecipeError
from dbrun.models.base import no_op
from dbrun.naming import COMMIT
from dbrun.stages.support.resumable_file import LargeFile, fetch_large_file, part_size

POLL_INTERVAL = 0.1
"""Seconds between two checks of whether a download is to stop."""
ANSWER_SECONDS = 10.0
"""Seconds that the Hub has for its answer about a repository; by itself the library would wait for ever."""
HTTP_UNAUTHORIZED = 401


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
ENCODER = RepoKind("encoder", "evaluate.clip.path", "evaluate.clip.revision", "model_info")
DATASET = RepoKind("data set", "subject.images", "subject.revision", "dataset_info", "dataset")


class HubFile(NamedTuple):
    """A file of a repository. name: relative; size: in bytes; blob: its name in the cache, a sha256 for large files."""

    name: str
    size: int
    blob: str
    is_large: bool


def resolve_commit(repo: str, revision: str | None, kind: RepoKind = MODEL) -> str:
    """The 40-digit commit of a branch or tag (None: the default branch), asked of the Hub.

    A full commit hash is returned unasked. Raises RecipeError where the Hub does not have the repository or the
    revision, or refuses this login; HubUnreachable where it gives no answer.
    """
    if revision and COMMIT.fullmatch(revision):
        return revision
    return str(_ask_about(repo, revision, kind).sha)


def describe_download(repo: str, revision: str, wanted: Callable[[Sequence[str]], Sequence[str]],
                      kind: RepoKind = MODEL) -> str | None:
    """Text on the size of a download and the room on the cache's disk; None where all files are here.

    Asks the Hub, and fetches nothing. wanted: as in `download`. Raises as `resolve_commit` does, and StageFailed where
    the disk has no room.
    """
    files: dict[str, HubFile] = {}
    for entry in _ask_about(repo, revision, kind, files_metadata=True).siblings:
        sha256 = entry.lfs.sha256 if entry.lfs else None
        files[entry.rfilename] = HubFile(entry.rfilename, entry.size or 0, sha256 or entry.blob_id or "", bool(sha256))
    return _check_room(repo, [files[name] for name in wanted(tuple(files))], kind)


def _ask_about(repo: str, revision: str | None, kind: RepoKind, **options: bool) -> Any:
    """What the Hub says of a repository; options: of the method. Raises RecipeError where its files are refused."""
    from huggingface_hub import HfApi

    with _hub_errors(repo, revision, kind):
        info = getattr(HfApi(), kind.info_method)(repo, revision=revision, timeout=ANSWER_SECONDS, **options)
        # of a gated repository everyone sees the commit: ask about the files now, before pictures are drawn for it
        if getattr(info, "gated", False):
            HfApi().auth_check(repo, **kind.hub_options)
        return info


def download(repo: str, commit: str, wanted: Callable[[Sequence[str]], Sequence[str]],
             seen: Callable[[int, int], None], kind: RepoKind = MODEL, poll: Callable[[], object] = no_op,
             check: FirstFiles | None = None, note: Callable[[str], object] = no_op) -> Path:
    """Fetch files of a commit into the Hub's own cache and return the folder that holds them.

    wanted: all file names of the repository -> those to fetch; seen: called before each file with (files done, files
    in all); poll: called every POLL_INTERVAL, may raise to stop; check: of the first files, before the others; note:
    gets a text on the size of the download. Files in the cache are not fetched again, and a large one that was cut off
    goes on where it ended. Raises StageFailed, before the first byte, where the missing files do not fit on the
    cache's disk.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils.logging import set_verbosity_error

    disable_progress_bars()
    set_verbosity_error()
    with _hub_errors(repo, commit, kind):
        files: dict[str, HubFile] = {}
        for entry in HfApi().list_repo_tree(repo, recursive=True, revision=commit, **kind.hub_options):
            if isinstance(entry, RepoFile):
                blob = entry.lfs.sha256 if entry.lfs else entry.blob_id
                files[entry.path] = HubFile(entry.path, entry.size, blob, entry.lfs is not None)
        names = wanted(tuple(files))
        text = _check_room(repo, [files[name] for name in names], kind)
        if text is not None:
            note(text)
        first: list[str] = []
        if check is not None:
            first = [name for name in names if name.endswith(check.endings)]
        names = list(dict.fromkeys((*first, *names)))
        folder = None
        for done, name in enumerate(names):
            if check is not None and folder is not None and done == len(first):
                check.run(folder)
            seen(done, len(names))
            path = Path(_run_polled(partial(_fetch, repo, commit, files[name], kind), poll))
            # the root of the repository: as many folders up as the name has slashes
            folder = path.parents[name.count("/")]
    if folder is None:
        raise RecipeError(f"{repo} holds no base in diffusers format", fix="name another one in `base.path`")
    return folder


def _fetch(repo: str, commit: str, file: HubFile, kind: RepoKind) -> str:
    """Path of a file in the cache's folder of a commit, after it was fetched."""
    from huggingface_hub import constants, hf_hub_download, hf_hub_url

    # the Hub serves larger files in pieces only, which its library puts together
    if file.is_large and file.size <= constants.MAX_HTTP_DOWNLOAD_SIZE:
        url = hf_hub_url(repo, file.name, revision=commit, **kind.hub_options)
        blobs = _blobs_folder(repo, kind)
        lock = Path(constants.HF_HUB_CACHE) / ".locks" / blobs.parent.name / f"{file.blob}.lock"
        fetch_large_file(LargeFile(url, file.blob, file.size), blobs, lock)
    # of a file that is in `blobs` it only makes the link
    path: str = hf_hub_download(repo, file.name, revision=commit, **kind.hub_options)
    return path


def _blobs_folder(repo: str, kind: RepoKind) -> Path:
    """Folder of a repository's contents in the cache; each file has the name of its content."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder: str = repo_folder_name(repo_id=repo, repo_type=kind.repo_type or "model")
    return Path(constants.HF_HUB_CACHE) / folder / "blobs"


def _check_room(repo: str, files: Sequence[HubFile], kind: RepoKind) -> str | None:
    """Text on how much is missing in the Hub's cache, None for nothing; raise StageFailed unless its disk has room."""
    blobs = _blobs_folder(repo, kind)
    cache = blobs.parent.parent
    # files with equal content share a blob
    missing = {file.blob: file.size for file in files if not (blobs / file.blob).exists()}
    if not missing:
        return None
    total = sum(missing.values())
    here = sum(part_size(blobs, blob) for blob in missing)
    left = max(0, total - here)
    text = f"the download of {repo} takes {format_bytes(left)}"
    if here:
        text = f"the download of {repo} goes on: {format_bytes(left)} of {format_bytes(total)} are left"
    free = free_bytes(cache)
    if free is not None:
        text += f"; {format_bytes(free)} are free in {cache}"
    check_free_space(cache, f"the Hub's cache, {cache}", f"the download of {repo}", left,
                     fix="free some space (`hf cache prune` and `hf cache rm` show what can be deleted), or set "
                         "HF_HUB_CACHE to a folder on a larger disk")
    return text


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
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except RevisionNotFoundError as error:
        raise RecipeError(f"{repo} has no revision {revision}", fix=f"check `{kind.revision_key}`") from error
    except GatedRepoError as error:
        # a kind of RepositoryNotFoundError, so it comes first
        page = f"{kind.repo_type}s/{repo}" if kind.repo_type else repo
        raise RecipeError(f"{repo} is gated, and the Hub refuses its files to this login",
                          fix=f"accept its terms on https://huggingface.co/{page}, then `hf auth login` with the same "
                              "account (or set HF_TOKEN)") from error
    except RepositoryNotFoundError as error:
        raise RecipeError(f"the Hub shows no {kind.label} {repo}: it does not exist, or needs a login",
                          fix=f"check `{kind.path_key}`; for a private or gated {kind.label}, `hf auth login` (or set "
                              "HF_TOKEN)") from error
    except (HTTPError, OSError) as error:
        # the Hub answers so to a token that is not valid, also for what everyone may read
        if isinstance(error, HfHubHTTPError) and error.response.status_code == HTTP_UNAUTHORIZED:
            raise RecipeError(f"the Hub refuses this login, asked for {repo}: its token is not valid",
                              fix="`hf auth login` with a new token, or unset HF_TOKEN") from error
        raise HubUnreachable(f"{repo} could not be fetched from the Hub: {error}",
                             fix="run the same command again when the network is back; what is here is kept"
                             ) from error
