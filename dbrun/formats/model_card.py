"""The model card: the README.md of an export, read by people and by the Hub."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.base import Adapter
from dbrun.formats.base import formats
from dbrun.formats.kohya import FILE as KOHYA_FILE
from dbrun.formats.kohya import NAME_PLACEHOLDER
from dbrun.formats.passed_over import MERGED_INSTEAD, OTHER_PROGRAMS_FORMAT, passed_over
from dbrun.formats.recipe_facts import class_picture_count, training_summary
from dbrun.models.base import Family
from dbrun.models.configs import UNKNOWN_LICENCE
from dbrun.models.file_names import PROMPT_PLACEHOLDER
from dbrun.models.quantisation import quantisations
from dbrun.safetensors_header import trigger_words

BASE_PLACEHOLDER = "path/to/the/base"
"""Stands for the path of a local base, which differs on the reader's machine."""
TORCH_DTYPES = {"fp32": "torch.float32", "bf16": "torch.bfloat16", "fp16": "torch.float16"}
"""`train.precision` → the dtype's name in Python source."""
WORDS_CONTENT = "a trigger"
"""`Format.CONTENT` of the formats for new words."""
MAX_GALLERY_PICTURES = 6
"""Number of pictures in the gallery that the Hub shows."""


@dataclass(frozen=True)
class SamplePictures:
    """How before_after.png was drawn.

    prompts: of its columns; seed: of the first, each further one has the next; resolution: side in pixels; scheduler:
    name of the class in diffusers; has_scheduler: whether the export holds one that differs from the base's.
    """

    prompts: tuple[str, ...]
    seed: int
    steps: int
    guidance: float
    resolution: int
    scheduler: str
    has_scheduler: bool = False


def compatibility_warnings(family: Family, names: Sequence[str],
                           adapters: Mapping[str, ComponentAdapter]) -> tuple[str, ...]:
    """Sentences on programs that read a format differently than its own library, each with the format's name first."""
    warnings = []
    for name in names:
        form = formats()[name]
        for component, attached in adapters.items():
            if not isinstance(attached.adapter, Adapter):
                continue
            why = form.compatibility_warning(family, component, attached.adapter)
            if why:
                warnings.append(f"{name}: {why}")
    # Components of one type give one and the same sentence.
    return tuple(dict.fromkeys(warnings))


def layer_warnings(family: Family, names: Sequence[str],
                   adapters: Mapping[str, ComponentAdapter]) -> tuple[str, ...]:
    """Sentences on layers that programs ignore in these formats, and on the file to take there instead."""
    types = {name: attached.adapter for name, attached in adapters.items() if isinstance(attached.adapter, Adapter)}
    layers = {name: adapters[name].modules for name in types}
    advice = None
    if compatibility_warnings(family, (OTHER_PROGRAMS_FORMAT,), adapters):
        advice = MERGED_INSTEAD
    elif OTHER_PROGRAMS_FORMAT in names:
        advice = f"take `{KOHYA_FILE}` there"
    return passed_over(names, family, types, layers, advice)


def render_card(document: Mapping[str, Any], family: Family, names: Sequence[str], pictures: SamplePictures,
                cautions: Sequence[str] = ()) -> str:
    """Text of an export's README.md with its front matter; equal documents give equal text.

    It has NAME_PLACEHOLDER for the run's name. document: the export's provenance; names: formats written; cautions:
    `compatibility_warnings` and `layer_warnings`.
    """
    prompts = pictures.prompts
    # The text is part of an export's bytes: no date, no path, and wording that stays.
    repo, commit = _hub_source(document)
    parts = [_front_matter(document, repo, names, prompts), f"# {NAME_PLACEHOLDER}", _summary(document, repo, commit),
             "![The base above, what it has learnt below](before_after.png)", _picture_list(pictures),
             "## How to use it", *_usage(document, family, names, pictures), _weights_to_try(names),
             *(f"Note: {caution}." for caution in cautions), _provenance(document)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _hub_source(document: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Repository and commit of a base from the Hub; (None, None) for any other base."""
    kind, _, rest = str(document["recipe"]["base"]["identity"]).partition(":")
    repo, _, commit = rest.partition("@")
    if kind != "hub":
        return None, None
    return repo, commit


def _front_matter(document: Mapping[str, Any], repo: str | None, names: Sequence[str], prompts: Sequence[str]) -> str:
    """YAML that the Hub reads; every value is written as JSON, which is valid YAML and needs no quoting rules."""
    finetune = all(formats()[name].LARGE for name in names)
    tags, relation = ["text-to-image", "diffusers", "dreambooth", "dbrun"], "finetune"
    if not finetune:
        # The Hub's own tags for adapters: they bring the gallery and the LoRA widget.
        tags += ["lora", "template:sd-lora"]
        relation = "adapter"
    matter: dict[str, object] = {"library_name": "diffusers", "pipeline_tag": "text-to-image", "tags": tags}
    licence = str(document.get("licence") or UNKNOWN_LICENCE)
    # The Hub takes identifiers in lower case; a licence with a space in its name is none of them.
    if " " in licence:
        matter |= {"license": "other", "license_name": licence}
    else:
        matter["license"] = licence.lower()
    if repo:
        matter |= {"base_model": repo, "base_model_relation": relation}
    if isinstance(document["instance_prompt"], str):
        matter["instance_prompt"] = document["instance_prompt"]
    gallery = []
    for i, prompt in enumerate(prompts[:MAX_GALLERY_PICTURES]):
        gallery.append({"text": prompt, "output": {"url": f"samples/adapted/{i:02d}.png"}})
    matter["widget"] = gallery
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in matter.items()]
    return "\n".join(["---", *lines, "---"])


def _summary(document: Mapping[str, Any], repo: str | None, commit: str | None) -> str:
    """List of facts: trigger, base, licence, adapters and length of training."""
    recipe = document["recipe"]
    base = f"`{recipe['base']['identity']}`"
    if repo:
        base = f"[{repo}](https://huggingface.co/{repo}) at `{commit}`"
    lines = [f"- Base: {base}, of type `{recipe['base']['type']}`",
             f"- Licence of the base: {document.get('licence') or UNKNOWN_LICENCE}",
             f"- What learnt: {training_summary(document)}"]
    count = class_picture_count(recipe)
    if count:
        lines.append(f"- Class images beside them: {count}")
    quantise = recipe["base"].get("quantise")
    if quantise is not None:
        lines.insert(1, _quantisation(quantise, recipe["train"]["precision"]))
    trigger = trigger_words(recipe)
    if trigger:
        lines.insert(0, f"- Trigger: `{trigger}`")
    return "\n".join(lines)


def _quantisation(name: str, precision: str) -> str:
    """Fact on the quantised denoiser, with the config by which diffusers loads the same."""
    config = quantisations()[name].DIFFUSERS_CONFIG.replace("DTYPE", TORCH_DTYPES[precision])
    return (f"- Quantised in training: the linear layers of the denoiser, `{name}`, in diffusers `{config}`; on the "
            "base's own weights the adapter works, too, and draws slightly different pictures")


def _picture_list(pictures: SamplePictures) -> str:
    """The prompts of before_after.png, each with the seed of its pictures."""
    lines = [f"- `{prompt}`, seed {pictures.seed + column}" for column, prompt in enumerate(pictures.prompts)]
    return (f"Drawn with {pictures.steps} steps and a guidance of {pictures.guidance:g}, from left to right\n\n"
            + "\n".join(lines))


def _usage(document: Mapping[str, Any], family: Family, names: Sequence[str], pictures: SamplePictures) -> list[str]:
    """A Python program for each format that diffusers reads, and instructions for other programs."""
    recipe, texts = document["recipe"], []
    words = [name for name in names if formats()[name].CONTENT == WORDS_CONTENT]
    word_lines = [line for name in words for line in formats()[name].loading_lines(family, recipe)]
    for name in names:
        form = formats()[name]
        lines = form.loading_lines(family, recipe)
        # A new word is loaded in the program of each other format; alone it has one of its own.
        if lines and (name not in words or len(words) == len(names)):
            more = [] if name in words or form.HOLDS_WORDS else word_lines
            program = _program(document, family, [*lines, *more], form.pipeline_source(), pictures)
            texts.append(f"With {form.LOADED_BY}, in this folder:\n\n```python\n{program}\n```")
        text = form.usage(family)
        if text:
            texts.append(text)
    if family.comfyui_usage and "diffusers" in names:
        texts.append(family.comfyui_usage)
    return texts


def _program(document: Mapping[str, Any], family: Family, loading: Sequence[str], source: str | None,
             pictures: SamplePictures) -> str:
    """Python that loads the base or a whole pipeline, then the adapter, and draws the first picture.

    loading: lines that put the adapter on `pipeline`; source: of a whole pipeline, as Python source, None for the base.
    A picture that starts from another one needs more than a prompt: the program then ends with the loaded pipeline.
    """
    imports = [line for line in loading if line.startswith("from ")]
    steps = [line for line in loading if line not in imports]
    kind = family.pipeline_classes[0]
    base = source or _base_arguments(document)
    # the flow transformers were trained in bf16, and some overflow in fp16
    half = "bfloat16" if family.process == "flow" else "float16"
    lines = ["import torch", f"from diffusers import {', '.join(sorted({kind, pictures.scheduler}))}", *imports, "",
             'folder = "."',
             'device = "cuda" if torch.cuda.is_available() else "cpu"',
             f'dtype = torch.{half} if device == "cuda" else torch.float32',
             f"pipeline = {kind}.from_pretrained({base}, torch_dtype=dtype).to(device)"]
    if pictures.has_scheduler:
        lines.append(f'pipeline.scheduler = {pictures.scheduler}.from_pretrained(f"{{folder}}/scheduler")')
    else:
        lines.append(f"pipeline.scheduler = {pictures.scheduler}.from_config(pipeline.scheduler.config)")
    lines += steps
    if family.start_image_reason is None:
        text, side = json.dumps(pictures.prompts[0], ensure_ascii=False), pictures.resolution
        prompt = family.card_arguments.replace(PROMPT_PLACEHOLDER, text)
        lines += ["", *(line.replace(PROMPT_PLACEHOLDER, text) for line in family.card_lines)]
        guidance = family.guidance_arguments.format(pictures.guidance)
        lines += [f"generator = torch.Generator().manual_seed({pictures.seed})",
                  f"image = pipeline({prompt}, num_inference_steps={pictures.steps}, {guidance},",
                  f"                 height={side}, width={side}, generator=generator).images[0]",
                  'image.save("picture.png")']
    return "\n".join(lines)


def _base_arguments(document: Mapping[str, Any]) -> str:
    """Arguments of `from_pretrained` for the base: its name and commit, or a placeholder for a local one."""
    repo, commit = _hub_source(document)
    arguments = f'"{repo or BASE_PLACEHOLDER}"'
    if commit:
        # Pinned: weights trained on one commit may not fit the next.
        arguments += f', revision="{commit}"'
    variant = document["recipe"]["base"].get("variant")
    if variant:
        arguments += f', variant="{variant}"'
    return arguments


def _weights_to_try(names: Sequence[str]) -> str:
    """Hint on strengths other than 1; empty where only whole weights were written."""
    hints = [formats()[name].WEIGHT_HINT for name in names]
    known = [hint for hint in hints if hint is not None]
    if not known:
        return ""
    return f"Weights of 0.6 to 1.2 are worth a try, lower for more of the prompt: {'; '.join(known)}."


def _provenance(document: Mapping[str, Any]) -> str:
    """Section on stages, library versions and seed."""
    stages = ", ".join(f"{name} `{digest[:12]}`" for name, digest in document["inputs"].items())
    libraries = ", ".join(f"{name} {version}" for name, version in document["libraries"].items())
    rows = {"made by": f"dbrun, stages {stages}", "libraries": libraries, "seed": str(document["recipe"]["seed"])}
    lines = "\n".join(f"- {key}: {text}" for key, text in rows.items())
    return f"## Provenance\n\nEach .safetensors file says in its header what made it (`dbrun show FILE`).\n\n{lines}"
