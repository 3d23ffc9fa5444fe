"""How does a base, or a data set of pictures, come from the Hugging Face Hub?"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.disk_space import check_free_space
from dbrun.errors import RecipeError, StageFailed
from dbrun.models.base import no_op

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

POLL_INTERVAL = 0.1
"""Seconds between two looks at whether a download is to stop."""
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class RepoKind:
    """What a repository holds. label: how errors call it; path, revision: what names it in a recipe; type: the Hub's.

    info_method: the method of the Hub's library that tells its commit.
    """

    label: str
    path_key: str
    revision_key: str
    info_method: str
    repo_type: str | None = None

    @property
    def hub_options(self) -> dict[str, str]:
        """What the Hub's library is told beside the name."""
        return {"repo_type": self.repo_type} if self.repo_type else {}


MODEL = RepoKind("model", "base.path", "base.revision", "model_info")
DATASET = RepoKind("data set", "subject.images", "subject.revision", "dataset_info", "dataset")


def resolve_commit(repo: str, revision: str | None, kind: RepoKind = MODEL) -> str:
    """The 40-digit commit that a branch or tag (None: the default branch) stands for now; asks the Hub."""
    if revision and COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi

    with _hub_errors(repo, revision, kind):
        return str(getattr(HfApi(), kind.info_method)(repo, revision=revision).sha)


def download(repo: str, commit: str, wanted: Callable[[Sequence[str]], Sequence[str]],
             seen: Callable[[int, int], None], kind: RepoKind = MODEL, poll: Callable[[], object] = no_op) -> Path:
    """Fetch the wanted files at a commit into the Hub's own cache; the folder that holds them.

    wanted: picks from all the file names of the repository; seen: told before each file how many of how many are
    there; poll: called all the while, may raise to stop. A file that is there already is not fetched again.
    Raises StageFailed, before the first byte, where the cache's disk has no room for what is not there.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils.logging import set_verbosity_error

    disable_progress_bars()
    set_verbosity_error()
    with _hub_errors(repo, commit, kind):
        found = HfApi().list_repo_tree(repo, recursive=True, revision=commit, **kind.hub_options)
        files = {file.path: file for file in found if isinstance(file, RepoFile)}
        names = wanted(tuple(files))
        _check_room(repo, [files[name] for name in names], kind)
        folder = None
        for done, name in enumerate(names):
            seen(done, len(names))
            file = _run_polled(partial(hf_hub_download, repo, name, revision=commit, **kind.hub_options), poll)
            folder = Path(file).parents[name.count("/")]
    if folder is None:
        raise RecipeError(f"{repo} holds no base in diffusers format", fix="name another in `base.path`")
    return folder


def _check_room(repo: str, files: Sequence[RepoFile], kind: RepoKind) -> None:
    """Raise StageFailed unless those of the files that the Hub's cache lacks fit on its disk."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(constants.HF_HUB_CACHE)
    blobs = cache / repo_folder_name(repo_id=repo, repo_type=kind.repo_type or "model") / "blobs"
    # a blob is called by its sha256 where the Hub keeps large files, else by its git id; names may share one
    missing = {name: file.size for file in files
               if not (blobs / (name := file.lfs.sha256 if file.lfs else file.blob_id)).exists()}
    check_free_space(cache, f"the Hub's cache, {cache}", f"the download of {repo}", sum(missing.values()),
                     fix="free some room (`hf cache prune` and `hf cache rm` know what can go), or set HF_HUB_CACHE "
                         "to a larger disk")


def _run_polled(fetch: Callable[[], str], poll: Callable[[], object]) -> str:
    """What fetch gives. It has a thread of its own, which ends with the process: large files take minutes."""
    given: list[str] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            given.append(fetch())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        poll()
        thread.join(POLL_INTERVAL)
    if raised:
        raise raised[0]
    return given[0]


@contextmanager
def _hub_errors(repo: str, revision: str | None, kind: RepoKind) -> Iterator[None]:
    from huggingface_hub.errors import HTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except RevisionNotFoundError as error:
        raise RecipeError(f"{repo} has no revision {revision}", fix=f"check `{kind.revision_key}`") from error
    except RepositoryNotFoundError as error:
        raise RecipeError(f"the Hub shows no {kind.label} {repo}: it does not exist, or needs a login",
                          fix=f"check `{kind.path_key}`; for a gated {kind.label}, `hf auth login`") from error
    except (HTTPError, OSError) as error:
        raise StageFailed(f"{repo} could not be fetched from the Hub: {error}",
                          fix="run the same command again when the network is back; what is here is kept") from error
