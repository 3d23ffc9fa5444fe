"""Reading the config files and the licence in a base's folder, and silencing the libraries that load it."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dbrun.errors import RecipeError
from dbrun.input_file import path_exists, read_file, read_json

MAX_CARD_BYTES = 2**20
"""Largest model card in bytes that is searched for a licence."""
CONFIG_FILES = ("config.json", "tokenizer_config.json")
"""Names of the files with the settings of a component, other than a scheduler."""
LICENCE_FILE = re.compile(r"(LICEN[CS]E|COPYING)[\w.-]*", re.IGNORECASE)
"""Name of a file that holds the text of a licence."""
SCHEDULER_FILE = "scheduler_config.json"
"""Name of a scheduler's config in its folder."""
UNKNOWN_LICENCE = "unknown"
"""Licence of a base whose files name none; the Hub's own word for that case."""


class SettingType(NamedTuple):
    """Type of a setting: how a message describes it, and the test of a value."""

    words: str
    fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    # in Python a bool is an int; the comparison is false for NaN, which JSON readers of Python accept
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_list_of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) > 0 and all(map(test, value))


COUNT = SettingType("a whole number above 0", _is_count)
COUNT_OR_NULL = SettingType("a whole number above 0, or null", lambda value: value is None or _is_count(value))
NUMBER = SettingType("a finite number", _is_number)
SETTING_TYPES: Mapping[str, SettingType] = {
    "block_out_channels": SettingType("a list of whole numbers above 0", _is_list_of(_is_count)),
    **dict.fromkeys(("in_channels", "latent_channels", "max_position_embeddings", "num_hidden_layers",
                     "projection_dim"), COUNT),
    **dict.fromkeys(("addition_time_embed_dim", "projection_class_embeddings_input_dim"), COUNT_OR_NULL),
    **dict.fromkeys(("scaling_factor", "model_max_length"), NUMBER),
    **dict.fromkeys(("latents_mean", "latents_std"),
                    SettingType("a list of finite numbers, or null",
                                lambda value: value is None or _is_list_of(_is_number)(value))),
    "temperal_downsample": SettingType("a list of true and false",
                                       _is_list_of(lambda value: isinstance(value, bool))),
    "sample_size": SettingType("a whole number above 0, two of them, or null",
                               lambda value: value is None or _is_count(value) or _is_list_of(_is_count)(value)),
}
"""Setting that dbrun reads → its type; those of a scheduler are in `scheduling.py`. Others may be null, as diffusers
writes most that are not used."""


def read_config(path: Path) -> dict[str, Any]:
    """Settings in a JSON file. Raises RecipeError for a missing file, no JSON object, or a setting of another type."""
    try:
        settings = read_json(path)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} of the base cannot be read: {error}",
                          fix="check that `base.path` is a complete folder in diffusers format") from error
    if not isinstance(settings, dict):
        raise RecipeError(f"{path} of the base is not a JSON object", fix="check `base.path`")
    for key, value in settings.items():
        kind = SETTING_TYPES.get(key)
        if kind is not None and not kind.fits(value):
            raise wrong_setting(path, key, value, kind.words)
    return settings


def wrong_setting(file: object, key: str, found: object, allowed: str) -> RecipeError:
    """Error of a setting in a base's config. allowed: description of the allowed values."""
    return RecipeError(f"{file} of the base: found {json.dumps(found)[:60]} as `{key}`, allowed: {allowed}",
                       fix="fetch the base again, or choose another")


def check_component_configs(folder: Path, subfolders: Iterable[str]) -> None:
    """Read the config of every component in a base's folder. Raises RecipeError for one that `read_config` refuses."""
    for subfolder in subfolders:
        for name in CONFIG_FILES:
            if path_exists(folder / subfolder / name):
                read_config(folder / subfolder / name)


def tokenizer_length(folder: Path, tokenizer: str, most: int) -> int:
    """Tokens of every prompt, marks and padding included: a tokenizer's own length, at most `most`.

    tokenizer: its folder in the base's.
    """
    # some tokenizers name no real length, only a huge number
    return int(min(read_config(folder / tokenizer / "tokenizer_config.json").get("model_max_length", most), most))


def loaded_class(index: dict[str, Any], component: str) -> str | None:
    """Class of a component that a model_index.json names, as in `"scheduler": ["diffusers", "DDIMScheduler"]`."""
    entry = index.get(component)
    if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str):
        return entry[1]
    return None


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
