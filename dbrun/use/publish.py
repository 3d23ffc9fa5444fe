"""Publishing a run's delivered folder on the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dbrun.errors import StageFailed, UsageError
from dbrun.input_file import open_file, read_json
from dbrun.naming import HUB_ID, PROGRESS_FILE, REPORT_FILE
from dbrun.resolve.hub import is_offline
from dbrun.safetensors_header import IN_PROGRESS, RECORD_FILE

RESTORE = "run the recipe again: its outputs are restored"


@dataclass(frozen=True)
class Upload:
    """Files to be uploaded to a repository of the Hub.

    files: path below the folder -> size in bytes; other files in the folder are not uploaded.
    """

    folder: Path
    repo: str
    private: bool
    files: Mapping[str, int]


def prepare_upload(folder: Path, repo: str, *, private: bool) -> Upload:
    """List the files that a run delivered to a folder, and check their contents.

    Raises UsageError for a malformed repository, a folder without a record, and a missing or changed file.
    """
    if not HUB_ID.fullmatch(repo):
        raise UsageError(f"found the repository {repo!r}; it is written owner/name",
                         fix="write a name such as me/sks-dog")
    try:
        record = read_json(folder / RECORD_FILE)
        listed = record["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder} holds no {RECORD_FILE}, so it is not the folder of a run",
                         fix="name one, such as outputs/sks_dog") from error
    hidden = {REPORT_FILE}
    if IN_PROGRESS in record:
        if "stages" not in record:
            raise UsageError(f"{folder} shows a training that has delivered nothing yet", fix="let its run end first")
        # of another training than the files
        hidden.add(PROGRESS_FILE)
    # The model card speaks of these very files, so a changed one must not be published under it.
    for name, sha256 in listed.items():
        path = folder / name
        found = _file_sha256(path)
        if found is None:
            raise UsageError(f"{path} is missing", fix=RESTORE)
        if found != sha256:
            raise UsageError(f"{path} has changed since the run delivered it", fix=RESTORE)
    # The record itself is not in its list. The report shows the pictures that were trained on, which are the user's.
    names = sorted([*listed.keys() - hidden, RECORD_FILE])
    sizes = {name: (folder / name).stat().st_size for name in names}
    return Upload(folder, repo, private, sizes)


def _file_sha256(path: Path) -> str | None:
    """Digest of a file in hexadecimal; None if it cannot be read."""
    try:
        with open_file(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def upload(sent: Upload) -> str:
    """Upload the files in one commit, creating the repository if necessary; returns its URL.

    Large files that an interrupted upload has already sent are not sent again. Raises StageFailed if offline,
    without a token, or if the Hub refuses.
    """
    if is_offline():
        raise StageFailed("HF_HUB_OFFLINE is set", fix="unset it, then run the same command again")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    api = HfApi()
    try:
        url = api.create_repo(sent.repo, repo_type="model", private=sent.private, exist_ok=True)
        api.upload_folder(repo_id=sent.repo, folder_path=sent.folder,
                          allow_patterns=[_literal_pattern(name) for name in sent.files],
                          commit_message=f"Upload {sent.folder.resolve().name}, made by dbrun")
    except LocalTokenNotFoundError as error:
        raise StageFailed("the Hub needs a login", fix="hf auth login, or set HF_TOKEN") from error
    except (HTTPError, OSError, RuntimeError) as error:
        # Errors of the Hub contain whole pages at times.
        reason = " ".join(str(error).split())[:300]
        raise StageFailed(f"{sent.repo} could not be written: {reason}",
                          fix="run the same command again; files already sent are not sent again") from error
    return str(url)


def _literal_pattern(name: str) -> str:
    """A file name as a pattern that matches only this name: `allow_patterns` are shell patterns."""
    return re.sub(r"([*?[])", r"[\1]", name)
