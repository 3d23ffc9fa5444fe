"""The model card: the README.md of an export, read by people and by the Hub."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.base import Adapter
from dbrun.formats.base import formats
from dbrun.models.base import Family
from dbrun.models.configs import UNKNOWN_LICENCE
from dbrun.models.quantisation import quantisations
from dbrun.safetensors_header import trigger_words

BASE_PLACEHOLDER = "path/to/the/base"
"""Stands for the path of a local base, which differs on the reader's machine."""
TORCH_DTYPES = {"fp32": "torch.float32", "bf16": "torch.bfloat16", "fp16": "torch.float16"}
"""`train.precision` → the dtype's name in Python source."""
MAX_GALLERY_PICTURES = 6
"""Number of pictures in the gallery that the Hub shows."""


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


def render_card(document: Mapping[str, Any], family: Family, names: Sequence[str], prompts: Sequence[str],
                cautions: Sequence[str] = ()) -> str:
    """Text of an export's README.md with its front matter; equal documents give equal text.

    document: the export's provenance; names: formats written; prompts: of the sample pictures, in their order;
    cautions: `compatibility_warnings`.
    """
    # The text is part of an export's bytes: no date, no path, and wording that stays.
    repo, commit = _hub_source(document)
    parts = [_front_matter(document, repo, names, prompts), f"# {_title(document)}", _summary(document, repo, commit),
             "![The base above, what it has learnt below](before_after.png)", _prompt_list(prompts), "## How to use it",
             *_usage(family, names, repo or BASE_PLACEHOLDER, commit), *cautions, _provenance(document)]
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


def _title(document: Mapping[str, Any]) -> str:
    """The instance prompt, or several joined by commas."""
    prompts = document["instance_prompt"]
    if isinstance(prompts, str):
        return prompts
    return ", ".join(prompts or ()) or "An adapter"


def _summary(document: Mapping[str, Any], repo: str | None, commit: str | None) -> str:
    """List of facts: trigger, base, licence, adapters and length of training."""
    recipe = document["recipe"]
    adapters = "; ".join(f"{component}: {_adapter_summary(one)}" for component, one in recipe["adapt"].items() if one)
    base = f"`{recipe['base']['identity']}`"
    if repo:
        base = f"[{repo}](https://huggingface.co/{repo}) at `{commit}`"
    lines = [f"- Base: {base}, of type `{recipe['base']['type']}`",
             f"- Licence of the base: {document.get('licence') or UNKNOWN_LICENCE}",
             f"- What learnt: {adapters}; {recipe['train']['steps']} steps at {recipe['images']['resolution']} pixels"]
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


def _adapter_summary(adapter: Mapping[str, Any]) -> str:
    numbers = [f"{key} {adapter[key]}" for key in ("rank", "alpha", "block_size", "token") if adapter.get(key)]
    return " ".join([str(adapter["type"]), *numbers])


def _prompt_list(prompts: Sequence[str]) -> str:
    return "Drawn with the prompts\n\n" + "\n".join(f"- `{prompt}`" for prompt in dict.fromkeys(prompts))


def _usage(family: Family, names: Sequence[str], base: str, commit: str | None) -> list[str]:
    """Instructions of each format that has any."""
    arguments = f'"{base}"'
    if commit:
        # Pinned: weights trained on one commit may not fit the next.
        arguments += f', revision="{commit}"'
    texts = (formats()[name].usage(family, arguments) for name in names)
    found = [text for text in texts if text]
    if family.comfyui_usage and "diffusers" in names:
        found.append(family.comfyui_usage)
    return found


def _provenance(document: Mapping[str, Any]) -> str:
    """Section on stages, library versions and seed."""
    stages = ", ".join(f"{name} `{digest[:12]}`" for name, digest in document["inputs"].items())
    libraries = ", ".join(f"{name} {version}" for name, version in document["libraries"].items())
    rows = {"made by": f"dbrun, stages {stages}", "libraries": libraries, "seed": str(document["recipe"]["seed"])}
    lines = "\n".join(f"- {key}: {text}" for key, text in rows.items())
    return f"## Provenance\n\nEach .safetensors file says in its header what made it (`dbrun show FILE`).\n\n{lines}"
