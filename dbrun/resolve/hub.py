"""What does the local Hugging Face cache hold? Read from its layout, without its library."""

from __future__ import annotations

import os
import re
from pathlib import Path

MODELS, DATASETS = "models", "datasets"
"""How the cache calls its kinds of repository."""
COMMIT = re.compile(r"[0-9a-f]{40}")
REVISION = re.compile(r"[A-Za-z0-9][\w.+-]*(/[A-Za-z0-9][\w.+-]*)*")


def cache_folder() -> Path:
    """The cache's folder, from the environment variables that the Hub's library reads."""
    env = os.environ
    if chosen := env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE"):
        return Path(os.path.expandvars(chosen)).expanduser()
    default = Path(env.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.path.expandvars(env.get("HF_HOME") or str(default))).expanduser() / "hub"


def is_offline() -> bool:
    """Whether the user forbids asking the Hub."""
    asked = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return asked.upper() in ("1", "ON", "YES", "TRUE")


def repository_folder(repo: str, kind: str = MODELS) -> Path:
    """The folder of a model or data set `owner/name` in the cache; it may not be there."""
    return cache_folder() / f"{kind}--{repo.replace('/', '--')}"


def cached_commit(repo: str, revision: str, kind: str = MODELS) -> str | None:
    """The commit that a branch or tag stood for when it was last fetched."""
    if not REVISION.fullmatch(revision):
        return None
    try:
        text = (repository_folder(repo, kind) / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return text if COMMIT.fullmatch(text) else None


def model_snapshot(repo: str, commit: str) -> Path | None:
    """The folder of a fetched commit, None where it is not there."""
    folder = repository_folder(repo) / "snapshots" / commit
    return folder if (folder / "model_index.json").is_file() else None


def dataset_snapshot(repo: str, commit: str) -> Path | None:
    """The folder of a data set's commit, None where nothing of it was fetched."""
    folder = repository_folder(repo, DATASETS) / "snapshots" / commit
    return folder if folder.is_dir() else None
