"""Reading the config files and the licence in a base's folder, and silencing the libraries that load it."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from dbrun.errors import RecipeError
from dbrun.input_file import read_file, read_json

MAX_CARD_BYTES = 2**20
"""Largest model card in bytes that is searched for a licence."""
LICENCE_FILE = re.compile(r"(LICEN[CS]E|COPYING)[\w.-]*", re.IGNORECASE)
"""Name of a file that holds the text of a licence."""
UNKNOWN_LICENCE = "unknown"
"""Licence of a base whose files name none; the Hub's own word for that case."""


def read_config(path: Path) -> dict[str, Any]:
    """Settings in a JSON file. Raises RecipeError where the file is missing, or holds no JSON object."""
    try:
        settings = read_json(path)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} of the base cannot be read: {error}",
                          fix="check that `base.path` is a complete folder in diffusers format") from error
    if not isinstance(settings, dict):
        raise RecipeError(f"{path} of the base is not a JSON object", fix="check `base.path`")
    return settings


def find_licence(folder: Path) -> str:
    """Licence of a base, from its model card, its manifest.json, or the name of a licence file; else `unknown`."""
    # a card is Markdown behind a YAML header between two lines of `---`
    try:
        front = read_file(folder / "README.md", MAX_CARD_BYTES).decode().split("---")[1]
    except (OSError, ValueError, IndexError):
        front = ""
    fields = dict(line.partition(":")[::2] for line in front.splitlines() if line.startswith("license"))
    # `license: other` is what the Hub asks for where `license_name` says which
    value = fields.get("license_name", fields.get("license", ""))
    licence = value.strip().strip("'\"")
    if licence:
        return licence
    try:
        return str(read_json(folder / "manifest.json")["licence"])
    except (OSError, ValueError, KeyError, TypeError):
        texts = sorted(path.name for path in folder.glob("*") if LICENCE_FILE.fullmatch(path.name))
        if texts:
            return f"see {texts[0]}"
        return UNKNOWN_LICENCE


def downsampling_factor(folder: Path) -> int:
    """Factor by which the side of the innermost layer is smaller than the input's, for a UNet or VAE in folder."""
    # every block but the last halves the side; four blocks are diffusers' default
    blocks = read_config(folder / "config.json").get("block_out_channels", (1,) * 4)
    return int(2 ** (len(blocks) - 1))


def silence_libraries() -> None:
    """Silence diffusers and transformers; call it before their pipelines are imported, because the import prints."""
    # peft imports bitsandbytes where it is installed, which warns at every start about missing 4-bit kernels
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

    import diffusers.utils.logging as of_diffusers
    import transformers.utils.logging as of_transformers

    for library in (of_diffusers, of_transformers):
        library.set_verbosity_error()
        library.disable_progress_bar()
