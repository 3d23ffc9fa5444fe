"""Names and patterns that several rooms share, each stated once: Hub ids, checkpoints, file names, prompts."""

from __future__ import annotations

import re

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""A repository on the Hugging Face Hub: owner/name."""
COMMIT = re.compile(r"[0-9a-f]{40}")
"""A commit of such a repository, written out."""
CHECKPOINT_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
"""Ends of the names of files that hold a whole base. Only the first is read: the others are pickles."""
CHECKPOINT_NAME = re.compile(r"step-(?P<step>\d{8,})\.(?P<digest>[0-9a-f]{64})\.safetensors")
"""The name of a checkpoint: the steps that are done, and the sha256 of the file's bytes."""
METRICS_FILE = "metrics.jsonl"
"""A line of JSON for each step of a training, in its artifact and in the run's folder."""
SCORES_FILE = "scores.json"
"""The scores of an adapter, in the artifact of `evaluate` and beside what a run delivered."""
SELECTION_FILE = "selection.json"
"""The candidate that `select` chose, and the scores of all, in its artifact beside the adapter."""
REPORT_FILE = "report.html"
"""The page about a run, in the run's folder and beside what it delivered."""
PROGRESS_FILE = "progress.png"
"""The previews of a training as one picture, beside what the run delivered."""
YAML_SUFFIXES = (".yaml", ".yml")
"""The endings of the names of recipes."""
FORBIDDEN_IN_PROMPT = re.compile(
    # controls, without tab, line feed, carriage return and next line, which are white space
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f"
    # what reorders the text on a screen, so that another prompt is read than is learnt
    r"\u202a-\u202e\u2066-\u2069"
    # halves of a pair, and code points that will never be assigned
    r"\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""A character that no prompt may hold, wherever it is written. All others may: joiners, soft hyphens, private use, and
code points that are not assigned yet, such as the emoji of a newer Unicode."""

FILLER_WORDS = frozenset(["a", "an", "the", "of", "in", "on", "at", "with", "and", "photo", "photograph", "picture",
                          "image"])
"""Words of a prompt that name no subject and no class."""


def usable_step(name: str, last_step: int | None) -> int | None:
    """The steps that a checkpoint of this file name has done; None for another file, and for one beyond last_step.

    Runs of several lengths share a folder: a checkpoint beyond a run's last step is of no use to it.
    """
    match = CHECKPOINT_NAME.fullmatch(name)
    if match is None:
        return None
    step = int(match["step"])
    return step if last_step is None or step <= last_step else None


def forbidden_in_prompt(text: str) -> str | None:
    """Name and place of the first character that no prompt may hold, counted from 1; None where there is none."""
    bad = FORBIDDEN_IN_PROMPT.search(text)
    if bad is None:
        return None
    return f"the character U+{ord(bad[0]):04X} (number {bad.start() + 1})"


def file_name_key(name: str) -> str:
    """The same text for names that differ only in case or in Unicode form: IMG_1.JPG and img_1.jpg, NFC and NFD.

    Cameras, archives and other systems change both, and most file systems take such names for one.
    """
    if name.isascii():
        return name.lower()
    # imported here: most names are ASCII, and its tables are large
    import unicodedata

    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
