"""How does a base come from the Hugging Face Hub?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dbrun.errors import RecipeError, StageFailed

COMMIT = re.compile(r"[0-9a-f]{40}")


def commit_of(repo: str, revision: str | None) -> str:
    """The 40-digit commit that a branch or tag (None: the default branch) stands for now; asks the Hub."""
    if revision and COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi

    with _said(repo, revision):
        return str(HfApi().model_info(repo, revision=revision).sha)


def download(repo: str, commit: str, wanted: Callable[[Sequence[str]], Sequence[str]],
             seen: Callable[[int, int], None]) -> Path:
    """Fetch the wanted files at a commit into the Hub's own cache; the folder that holds them.

    wanted: picks from all the file names of the repository; seen: told before each file how many of how many are
    there. What is there already is not fetched again.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils.logging import set_verbosity_error

    disable_progress_bars()
    set_verbosity_error()
    with _said(repo, commit):
        names = wanted(HfApi().list_repo_files(repo, revision=commit))
        folder = None
        for done, name in enumerate(names):
            seen(done, len(names))
            folder = Path(hf_hub_download(repo, name, revision=commit)).parents[name.count("/")]
    if folder is None:
        raise RecipeError(f"{repo} holds no base in diffusers format", fix="name another in `base.path`")
    return folder


@contextmanager
def _said(repo: str, revision: str | None) -> Iterator[None]:
    from huggingface_hub.errors import HTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except RevisionNotFoundError as error:
        raise RecipeError(f"{repo} has no revision {revision}", fix="check `base.revision`") from error
    except RepositoryNotFoundError as error:
        raise RecipeError(f"the Hub shows no model {repo}: it does not exist, or needs a login",
                          fix="check `base.path`; for a gated model, `hf auth login`") from error
    except (HTTPError, OSError) as error:
        raise StageFailed(f"{repo} could not be fetched from the Hub: {error}",
                          fix="run the same command again when the network is back; what is here is kept") from error
