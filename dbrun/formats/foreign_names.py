"""Names of other trainers for what kohya's files hold: SimpleTuner, OneTrainer, and kohya's own for other bases."""

from __future__ import annotations

from collections.abc import Iterable

from dbrun.models.base import Family

LYCORIS_PREFIX = "lycoris_"
"""Beginning of the layers' names in SimpleTuner's files, which adapt the denoiser alone."""
BUNDLED_WORD = "bundle_emb."
"""Beginning of the names of new words that OneTrainer writes into the file of a LoRA."""


def usual_names(names: Iterable[str], family: Family) -> dict[str, str]:
    """Name of a tensor in a file -> its name in kohya's files for this family; bundled words are left out."""
    denoiser = next(iter(family.components))
    prefixes = dict(family.other_kohya_prefixes)
    if denoiser in family.kohya_prefixes:
        prefixes[LYCORIS_PREFIX] = family.kohya_prefixes[denoiser][1]
    usual: dict[str, str] = {}
    for name in names:
        if name.startswith(BUNDLED_WORD):
            continue
        usual[name] = name
        for other, prefix in prefixes.items():
            if name.startswith(other):
                usual[name] = prefix + name.removeprefix(other)
    return usual


def bundled_words(names: Iterable[str]) -> tuple[str, ...]:
    """New words in the file of a LoRA, which only OneTrainer's own readers and A1111 take from there."""
    words = [name.split(".")[1] for name in names if name.startswith(BUNDLED_WORD)]
    return tuple(dict.fromkeys(words))
