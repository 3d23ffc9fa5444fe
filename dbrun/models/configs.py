"""What do the configs in a base's folder say, and how do the libraries that read it keep quiet?"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

from dbrun.errors import RecipeError

LICENCE_FILE = re.compile(r"(LICEN[CS]E|COPYING)[\w.-]*", re.IGNORECASE)
"""The name of a file with the text of a licence."""
UNKNOWN_LICENCE = "unknown"
"""The licence of a base whose files say nothing of it; so the Hub calls it, too."""


def read_config(path: Path) -> dict[str, Any]:
    """A JSON file of settings. Raises RecipeError where it is missing or none."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} of the base cannot be read: {error}",
                          fix="check that `base.path` is a complete folder in diffusers format") from error
    if not isinstance(settings, dict):
        raise RecipeError(f"{path} of the base is no table of settings", fix="check `base.path`")
    return settings


def find_licence(folder: Path) -> str:
    """What a base's card says of its licence, or its manifest.json, or where its text is; else `unknown`."""
    try:
        front = (folder / "README.md").read_text(encoding="utf-8").split("---")[1]
    except (OSError, ValueError, IndexError):
        front = ""
    said = dict(line.partition(":")[::2] for line in front.splitlines() if line.startswith("license"))
    if word := said.get("license_name", said.get("license", "")).strip().strip("'\""):
        return word
    try:
        return str(json.loads((folder / "manifest.json").read_bytes())["licence"])
    except (OSError, ValueError, KeyError, TypeError):
        texts = sorted(path.name for path in folder.glob("*") if LICENCE_FILE.fullmatch(path.name))
        return f"see {texts[0]}" if texts else UNKNOWN_LICENCE


def downsampling_factor(folder: Path) -> int:
    """How many times smaller the innermost layer of the network in folder is than its input: 2 ** halvings."""
    return int(2 ** (len(read_config(folder / "config.json").get("block_out_channels", (1,) * 4)) - 1))


def silence_libraries() -> None:
    """Silence the libraries; before their pipelines are imported, since the import itself prints."""
    # peft loads it where it is installed, and it says at every start which 4-bit kernels it has not
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

    import diffusers.utils.logging as of_diffusers
    import transformers.utils.logging as of_transformers

    for library in (of_diffusers, of_transformers):
        library.set_verbosity_error()
        library.disable_progress_bar()
