"""Contents of the local Hugging Face cache, read from its folder layout; importing its library takes too long."""
from __future__ import annotations

import os
import re
from pathlib import Path

from dbrun.input_file import read_file
from dbrun.naming import COMMIT

MODELS, DATASETS = "models", "datasets"
"""Kinds of repository, as the names of their folders in the cache begin."""
MAX_REF_BYTES = 1024
"""Largest file of a branch or tag in bytes; it holds one commit."""
REVISION = re.compile(r"[A-Za-z0-9][\w.+-]*(/[A-Za-z0-9][\w.+-]*)*")
"""Branch or tag. No part begins with a dot: the name becomes a path in the cache."""


def cache_folder() -> Path:
    """Folder of the cache, from the same environment variables and in the same order as the Hub's library."""
    env = os.environ
    hub_cache = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE")
    if hub_cache:
        return Path(os.path.expandvars(hub_cache)).expanduser()
    default_home = Path(env.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    home = env.get("HF_HOME") or str(default_home)
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids using the Hub."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def repository_folder(repo: str, kind: str = MODELS) -> Path:
    """Folder of a repository `owner/name` in the cache, whether it exists or not. kind: MODELS or DATASETS."""
    return cache_folder() / f"{kind}--{repo.replace('/', '--')}"


def cached_commit(repo: str, revision: str, kind: str = MODELS) -> str | None:
    """Commit that a branch or tag had when it was last fetched; None if it never was. Kept by the cache in `refs/`."""
    if not REVISION.fullmatch(revision):
        return None
    try:
        ref = repository_folder(repo, kind) / "refs" / revision
        text = read_file(ref, MAX_REF_BYTES).decode("ascii").strip()
    except (OSError, ValueError):
        return None
    return text if COMMIT.fullmatch(text) else None


def model_snapshot(repo: str, commit: str) -> Path | None:
    """Folder of a fetched commit of a model in diffusers format; None if it is not in the cache. May be incomplete."""
    folder = repository_folder(repo) / "snapshots" / commit
    return folder if (folder / "model_index.json").is_file() else None


def snapshot_folder(repo: str, commit: str) -> Path:
    """Folder of a commit of a model in the cache, whether anything of it was fetched or not."""
    return repository_folder(repo) / "snapshots" / commit


def is_fetched(repo: str, commit: str, name: str) -> bool:
    """Whether a file of a commit of a model is in the cache."""
    return (snapshot_folder(repo, commit) / name).is_file()


def dataset_snapshot(repo: str, commit: str) -> Path | None:
    """Folder of a commit of a data set; None if nothing of it was fetched. May be incomplete."""
    folder = repository_folder(repo, DATASETS) / "snapshots" / commit
    return folder if folder.is_dir() else None
