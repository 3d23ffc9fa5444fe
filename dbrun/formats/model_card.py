"""What does the model card say: the README.md that the Hub, and people, read beside an adapter?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.base import Adapter
from dbrun.formats.base import formats
from dbrun.models.base import Family
from dbrun.models.configs import UNKNOWN_LICENCE
from dbrun.safetensors_header import trigger_words

BASE_PLACEHOLDER = "path/to/the/base"
"""Where a base of files stands on the reader's machine."""
MAX_GALLERY_PICTURES = 6
"""Pictures in the Hub's gallery."""


def compatibility_warnings(family: Family, names: Sequence[str],
                           adapters: Mapping[str, ComponentAdapter]) -> tuple[str, ...]:
    """Where programs do otherwise than a format's own library, a sentence each that begins with the format's name."""
    found = [f"{name}: {why}" for name in names for component, attached in adapters.items()
             if isinstance(attached.adapter, Adapter)
             and (why := formats()[name].compatibility_warning(family, component, attached.adapter))]
    return tuple(dict.fromkeys(found))


def render_card(document: Mapping[str, Any], family: Family, names: Sequence[str], prompts: Sequence[str],
                cautions: Sequence[str] = ()) -> str:
    """README.md of an export, front matter included; equal documents give equal text.

    names: the formats written; prompts: of the sample pictures, in their order; cautions: what to know of the formats.
    """
    repo, commit = _hub_source(document)
    parts = [_front_matter(document, repo, names, prompts), f"# {_title(document)}", _summary(document, repo, commit),
             "![The base above, what it has learnt below](before_after.png)", _prompt_list(prompts), "## How to use it",
             *_usage(family, names, repo or BASE_PLACEHOLDER, commit), *cautions, _provenance(document)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _hub_source(document: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The base's repository and commit, where it is of the Hub."""
    kind, _, rest = str(document["recipe"]["base"]["identity"]).partition(":")
    repo, _, commit = rest.partition("@")
    return (repo, commit) if kind == "hub" else (None, None)


def _front_matter(document: Mapping[str, Any], repo: str | None, names: Sequence[str], prompts: Sequence[str]) -> str:
    """The YAML that the Hub reads; JSON is YAML, so every value is written as JSON."""
    whole = [formats()[name].LARGE for name in names]
    matter: dict[str, object] = {"library_name": "diffusers", "pipeline_tag": "text-to-image",
                                 "tags": ["text-to-image", "diffusers", "dreambooth", "dbrun",
                                          *([] if all(whole) else ["lora", "template:sd-lora"])]}
    licence = str(document.get("licence") or UNKNOWN_LICENCE)
    matter |= {"license": "other", "license_name": licence} if " " in licence else {"license": licence.lower()}
    if repo:
        matter |= {"base_model": repo, "base_model_relation": "finetune" if all(whole) else "adapter"}
    if isinstance(document["instance_prompt"], str):
        matter["instance_prompt"] = document["instance_prompt"]
    matter["widget"] = [{"text": prompt, "output": {"url": f"samples/adapted/{i:02d}.png"}}
                        for i, prompt in enumerate(prompts[:MAX_GALLERY_PICTURES])]
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in matter.items()]
    return "\n".join(["---", *lines, "---"])


def _title(document: Mapping[str, Any]) -> str:
    said = document["instance_prompt"]
    return said if isinstance(said, str) else ", ".join(said or ()) or "An adapter"


def _summary(document: Mapping[str, Any], repo: str | None, commit: str | None) -> str:
    recipe = document["recipe"]
    adapters = "; ".join(f"{component}: {_adapter_summary(one)}" for component, one in recipe["adapt"].items() if one)
    of = f"[{repo}](https://huggingface.co/{repo}) at `{commit}`" if repo else f"`{recipe['base']['identity']}`"
    lines = [f"- Base: {of}, of type `{recipe['base']['type']}`",
             f"- Licence of the base: {document.get('licence') or UNKNOWN_LICENCE}",
             f"- What learnt: {adapters}; {recipe['train']['steps']} steps at {recipe['images']['resolution']} pixels"]
    if word := trigger_words(recipe):
        lines.insert(0, f"- Trigger: `{word}`")
    return "\n".join(lines)


def _adapter_summary(adapter: Mapping[str, Any]) -> str:
    numbers = [f"{key} {adapter[key]}" for key in ("rank", "alpha", "block_size", "token") if adapter.get(key)]
    return " ".join([str(adapter["type"]), *numbers])


def _prompt_list(prompts: Sequence[str]) -> str:
    return "Drawn with the prompts\n\n" + "\n".join(f"- `{prompt}`" for prompt in dict.fromkeys(prompts))


def _usage(family: Family, names: Sequence[str], base: str, commit: str | None) -> list[str]:
    at = f'"{base}"' + (f', revision="{commit}"' if commit else "")
    return [text for name in names if (text := formats()[name].usage(family, at))]


def _provenance(document: Mapping[str, Any]) -> str:
    rows = {"made by": f"dbrun, stages {', '.join(f'{n} `{d[:12]}`' for n, d in document['inputs'].items())}",
            "libraries": ", ".join(f"{name} {version}" for name, version in document["libraries"].items()),
            "seed": str(document["recipe"]["seed"])}
    lines = "\n".join(f"- {key}: {text}" for key, text in rows.items())
    return f"## Provenance\n\nEach .safetensors file says in its header what made it (`dbrun show FILE`).\n\n{lines}"
