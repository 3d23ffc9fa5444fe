"""The commented starter recipe that `dbrun new` writes: settings that fit the base, the card and the pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dbrun.config_types import NULL_WORDS, Part
from dbrun.errors import UsageError
from dbrun.recipe.checks.exports import default_formats
from dbrun.recipe.load import load_recipe
from dbrun.recipe.schema.model import NAME_PATTERN, PATTERN_WORDS, Recipe
from dbrun.recipe.shipped import shipped_recipes
from dbrun.recipe.starter_bases import EMBEDDED, card_settings, find_starter_base

COMMENT_COLUMN = 42
EXAMPLE_PICTURES, EXAMPLE_COUNT = "embedded:sks_dog", 5
"""Pictures of a starter without own ones, and how many they are."""
FEW, MANY = 5, 15
"""Numbers of pictures between which the usual number of steps of a base is right."""
PLAIN_TEXT = re.compile(r"[A-Za-z0-9_./]([A-Za-z0-9_./ -]|:(?=[A-Za-z0-9]))*(?<! )")
"""Text that YAML reads as it is, without quotes."""
OTHER_PROGRAMS = "kohya"
STEP_GRID = 50
"""Numbers of steps are multiples of this."""
VOWELS = ("a", "e", "i", "o", "u")


@dataclass(frozen=True)
class StarterRequest:
    """What a starter recipe is for.

    base: a word of `starter_bases`; images: as the recipe names them; pictures: how many these are; word: a rare word
    for the subject; class_word: what it is one of, None for a style or for no prior preservation; memory: of the card,
    in GB.
    """

    name: str
    base: str = EMBEDDED
    images: str = EXAMPLE_PICTURES
    pictures: int = EXAMPLE_COUNT
    word: str = "sks"
    class_word: str | None = "dog"
    memory: float = 12


def check_name(name: str) -> None:
    """Raise UsageError for a name that no recipe may have."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise UsageError(f"found the name {name!r}, allowed: {PATTERN_WORDS[NAME_PATTERN]}", fix="dbrun new my_dog")


def starter_recipe(request: StarterRequest, place: Path | None = None) -> str:
    """Text of a commented starter recipe. Raises UsageError for a name that no recipe may have, or a card too small.

    place: path of its file, for the commands in the comments; left out, NAME.yaml.
    """
    check_name(request.name)
    settings = card_settings(request.base, request.memory)
    usual = load_recipe(shipped_recipes()[find_starter_base(request.base).recipe]).recipe
    lines = [*_head(request, place or Path(f"{request.name}.yaml")),
             *_base_lines(usual, settings), "",
             *_subject_lines(request), *_prior_lines(request, usual), "",
             *_image_lines(request, usual), "",
             *_training_lines(request, usual), "",
             *_result_lines(request, usual)]
    return "\n".join(lines) + "\n"


def training_steps(usual: int, pictures: int) -> int:
    """Steps for a number of pictures. usual: those for about ten.

    Fewer pictures are learnt, and learnt by heart, sooner; many need more, but far less than in proportion.
    """
    share = 1.0
    if pictures < FEW:
        share = 0.6
    elif pictures > MANY:
        share = min(3.0, (pictures / MANY) ** 0.5)
    return max(STEP_GRID, round(usual * share / STEP_GRID) * STEP_GRID)


def _line(text: str, comment: str = "") -> str:
    """A line with its comment in COMMENT_COLUMN, or two blanks after a longer text."""
    if not comment:
        return text
    return f"{text.ljust(COMMENT_COLUMN - 2)}  # {comment}"


def _quoted(text: str) -> str:
    """Text as a YAML scalar that is read as this text."""
    if PLAIN_TEXT.fullmatch(text) and text not in NULL_WORDS:
        return text
    # `${` would be a reference to another value
    return json.dumps(text.replace("${", "\\${"), ensure_ascii=False)


def _flow(part: Part, leave_out: tuple[str, ...] = (), **more: object) -> str:
    """The keys that a part of a recipe sets, as a YAML mapping on one line."""
    values: dict[str, Any] = part.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    first = {"type": values["type"]} if "type" in values else {}
    values = {**first, **more, **values, **more}
    for key in leave_out:
        values.pop(key, None)
    return yaml.safe_dump(values, default_flow_style=True, sort_keys=False, width=1000).strip()


def _head(request: StarterRequest, place: Path) -> Iterator[str]:
    on_card = "" if request.base == EMBEDDED else f" on a card of {request.memory:g} GB"
    count = "1 picture" if request.pictures == 1 else f"{request.pictures} pictures"
    yield f"# A starter recipe for {request.base}{on_card}, with {count}. Every line may be changed;"
    yield "# a run then computes only what the change touches."
    yield f"#   dbrun plan {place}     what a run would fetch and do"
    yield f"#   dbrun run {place}      teach it; the results are in outputs/{request.name}/"
    if request.images == EXAMPLE_PICTURES:
        yield "# The pictures are those of a drawn dog: name your own folder as `images`, and your own words below it."
    yield "schema: dbrun/v1"
    yield f"name: {_quoted(request.name)}"
    yield ""


def _base_lines(usual: Recipe, settings: Mapping[str, object]) -> Iterator[str]:
    base = usual.base
    if base.path == EMBEDDED:
        yield "# A small model that only draws. For photographs: dbrun new NAME --base sdxl --images FOLDER"
    yield "base:"
    yield f"  type: {base.type}"
    yield f"  path: {base.path}"
    if base.revision:
        yield _line(f"  revision: {base.revision}", "a commit, so that the base is the same tomorrow")
    if base.variant:
        yield _line(f"  variant: {base.variant}", "the half-size files")
    if settings.get("quantise"):
        yield _line(f"  quantise: {settings['quantise']}",
                    "the denoiser in 4 bits, so that it fits; needs pip install 'dbrun[quantise]'")
    if settings.get("offload"):
        yield _line(f"  offload: {settings['offload']}", "its blocks wait in CPU memory: fits the card, slower steps")


def _subject_lines(request: StarterRequest) -> Iterator[str]:
    subject = request.word if request.class_word is None else f"{request.word} {request.class_word}"
    yield "subject:"
    yield _line(f"  images: {_quoted(request.images)}", "a folder; a .txt beside a picture is its own prompt")
    yield _line(f"  instance_prompt: {_quoted(f'a photo of {subject}')}",
                "a rare word that comes to mean your subject; say it in prompts")
    if request.class_word is not None:
        article = "an" if request.class_word[:1].lower() in VOWELS else "a"
        yield _line(f"  class_prompt: {_quoted(f'a photo of {article} {request.class_word}')}", "what it is one of")


def _prior_lines(request: StarterRequest, usual: Recipe) -> Iterator[str]:
    if request.class_word is None or usual.prior is None:
        yield "# No `prior`: the class may come to look like the subject, which is right for a style."
        return
    yield "# Other pictures of the class, made by the base, so that it does not turn into your subject."
    yield f"prior: {_flow(usual.prior)}"


def _image_lines(request: StarterRequest, usual: Recipe) -> Iterator[str]:
    yield "images:"
    yield _line(f"  resolution: {usual.images.resolution}", "what the base was made for")
    if request.base != EMBEDDED:
        yield _line("  buckets: {step: 64}", "pictures keep about their shape, little is cut off")


def _training_lines(request: StarterRequest, usual: Recipe) -> Iterator[str]:
    adapter = usual.adapt.adapters["denoiser"]
    steps = training_steps(usual.train.steps or 0, request.pictures)
    shown = round(steps * usual.train.batch_size / request.pictures)
    yield "adapt:"
    yield f"  denoiser: {_flow(adapter)}"
    yield "train:"
    yield _line(f"  steps: {steps}", f"each picture is seen about {shown} times; the previews show when it is enough")
    yield _line(f"  learning_rate: {usual.train.learning_rate:g}", "usual for this base; halve it if colours burn out")
    yield f"  batch_size: {usual.train.batch_size}"
    if request.base != EMBEDDED:
        yield _line("  gradient_checkpointing: true", "about a third slower, for much less memory")
    if "guidance" in usual.train.model_fields_set:
        yield f"  guidance: {usual.train.guidance:g}"
    if usual.train.precision == "bf16":
        yield "  precision: bf16"
    if usual.objective.model_fields_set:
        yield f"objective: {_flow(usual.objective)}"


def _result_lines(request: StarterRequest, usual: Recipe) -> Iterator[str]:
    steps = training_steps(usual.train.steps or 0, request.pictures)
    every = max(STEP_GRID, steps // 5 // STEP_GRID * STEP_GRID)
    yield "# Previews while it learns, every so many steps: stop with Ctrl-C when they are good; it can go on later."
    yield f"samples: {_flow(usual.samples, ('prompts',), every=every)}"
    formats = ["diffusers"]
    if OTHER_PROGRAMS in default_formats(usual):
        formats.append(OTHER_PROGRAMS)
    yield _line(f"export: [{', '.join(formats)}]", _export_comment(formats))
    yield _line("seed: 0", "another seed, another (equally good) result")


def _export_comment(formats: list[str]) -> str:
    if OTHER_PROGRAMS in formats:
        return "for diffusers; kohya is the file for ComfyUI and A1111"
    return "for diffusers, and for ComfyUI"
