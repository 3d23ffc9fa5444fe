"""How does what a run delivered come to the Hugging Face Hub?"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dbrun.errors import StageFailed, UsageError
from dbrun.resolve.hub import is_offline
from dbrun.safetensors_header import RECORD_FILE

REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Upload:
    """What goes to the Hub. files: name below the folder -> size in bytes; nothing else in the folder goes."""

    folder: Path
    repo: str
    private: bool
    files: Mapping[str, int]


def prepare_upload(folder: Path, repo: str, *, private: bool) -> Upload:
    """The files that dbrun delivered to a folder, whole and unchanged. Raises UsageError."""
    if not REPO.fullmatch(repo):
        raise UsageError(f"found the repository {repo!r}; it is written owner/name", fix="such as me/sks-dog")
    try:
        listed = json.loads((folder / RECORD_FILE).read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder} holds no {RECORD_FILE}, so it is no folder that a run delivered",
                         fix="name one, such as outputs/sks_dog") from error
    for name, sha256 in listed.items():
        try:
            with (folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            found = None
        if found != sha256:
            raise UsageError(f"{folder / name} is {'missing' if found is None else 'not what was delivered'}",
                             fix="run the recipe again: its outputs are restored")
    names = sorted([*listed, RECORD_FILE])
    return Upload(folder, repo, private, {name: (folder / name).stat().st_size for name in names})


def upload(sent: Upload) -> str:
    """Send it in one commit, into a repository that is made where there is none; where it can be seen.

    Large files that an interrupted push has brought there are not sent again. Raises StageFailed.
    """
    if is_offline():
        raise StageFailed("HF_HUB_OFFLINE is set", fix="unset it, and give the same command again")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    api = HfApi()
    try:
        made = api.create_repo(sent.repo, repo_type="model", private=sent.private, exist_ok=True)
        api.upload_folder(repo_id=sent.repo, folder_path=sent.folder,
                          allow_patterns=[*map(_literal_pattern, sent.files)],
                          commit_message=f"Upload {sent.folder.resolve().name}, made by dbrun")
    except LocalTokenNotFoundError as error:
        raise StageFailed("the Hub wants to know who you are", fix="hf auth login, or set HF_TOKEN") from error
    except (HTTPError, OSError, RuntimeError) as error:
        words = " ".join(str(error).split())[:300]
        raise StageFailed(f"{sent.repo} could not be written: {words}",
                          fix="give the same command again; what has arrived is not sent again") from error
    return str(made)


def _literal_pattern(name: str) -> str:
    """The name as a pattern that hits itself only."""
    return re.sub(r"([*?[])", r"[\1]", name)
