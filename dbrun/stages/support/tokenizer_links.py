"""Tokenizers of a base in a checkpoint of one file, which lacks them: links to those of another base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from dbrun.models.base import Family, no_op

TOKENIZER_SUFFIXES = (".json", ".txt", ".model", ".jinja")
"""Files of a tokenizer: configs, vocabularies, sentencepiece models, chat templates."""


def hub_tokenizers(identity: str) -> tuple[str, str] | None:
    """Repository and commit of the tokenizers, from the base's identity; None where they are in a local folder."""
    _, _, place = identity.partition("+hub:")
    repo, _, commit = place.partition("@")
    return (repo, commit) if place else None


def tokenizer_files(folder: Path, family: Family) -> tuple[str, ...]:
    """Relative names of the files of the tokenizers in a base's folder, sorted."""
    names: list[str] = []
    for tokenizer in family.tokenizers:
        names += [f"{tokenizer}/{path.name}" for path in (folder / tokenizer).glob("*")]
    return tuple(sorted(_wanted(names, family)))


def link_tokenizers(base: Path, source: Path, family: Family) -> None:
    """Link the tokenizers in the folder `source` into the folder of a base; links that are there already stay."""
    for name in tokenizer_files(source, family):
        target = base / name
        target.parent.mkdir(exist_ok=True)
        if not target.exists():
            target.symlink_to((source / name).resolve())


def download_tokenizers(repo: str, commit: str, family: Family, poll: Callable[[], object] = no_op) -> Path:
    """Fetch the tokenizers of a base, and return its folder in the Hub's cache. poll: as in `download`."""
    from dbrun.stages.support import download

    return download.download(repo, commit, lambda names: _wanted(names, family), lambda done, total: None, poll=poll)


def describe_tokenizers_download(repo: str, commit: str, family: Family) -> str | None:
    """Text on the size of what `download_tokenizers` would fetch; None for nothing."""
    from dbrun.stages.support.download import describe_download

    return describe_download(repo, commit, lambda names: _wanted(names, family))


def _wanted(names: Sequence[str], family: Family) -> list[str]:
    """Names of tokenizers' files among all files of a base."""
    return [name for name in names if name.rpartition("/")[0] in family.tokenizers
            and name.endswith(TOKENIZER_SUFFIXES)]
