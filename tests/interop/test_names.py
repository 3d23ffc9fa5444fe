"""Is every name that we write one that ComfyUI, A1111 and sd-scripts look for, at the published layouts?"""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.extend([str(Path(__file__).parent), str(Path(__file__).parent / "programs")])

from adapter_kinds import make
from compare import compare
from layer_names import DIFFUSERS_FILE, NUMBER, folded, read_names, unfolded
from published_layouts import LAYOUTS

from dbrun.adapters.attach import match_layers, matching_names
from dbrun.formats.base import formats
from dbrun.formats.kohya import file_names
from dbrun.models.base import families
from dbrun.models.ldm_layouts import PUBLISHED

LISTED = read_names()
PASSED_OVER = {
    "comfyui": {"sd15": set(), "sdxl": set()},
    "a1111": {"sd15": set(), "sdxl": {"lora_te2_text_projection"}},
    "kohya": {"sd15": {"lora_unet_time_embedding_linear_1", "lora_unet_time_embedding_linear_2"},
              "sdxl": {"lora_unet_time_embed_0", "lora_unet_time_embed_2", "lora_unet_label_emb_0_0",
                       "lora_unet_label_emb_0_2", "lora_te2_text_projection"}}}
"""Program -> layout -> layers of the preset `all` that it passes over in silence; all others it reads."""


@pytest.mark.parametrize("word", LAYOUTS)
def test_each_layer_is_looked_for_by_its_name(word: str) -> None:
    layout = LAYOUTS[word]
    folder, written = PUBLISHED / layout.folder, set[str]()
    for component, part in layout.family.components.items():
        module = layout.family.empty_component(folder, part)
        layers = match_layers(module, layout.family.target_presets[component]["all"])
        model = SimpleNamespace(family=layout.family, folder=folder)
        written |= set(file_names(layout.family, component, layers, lambda model=model: model).values())
    for program, exceptions in PASSED_OVER.items():
        assert written - LISTED[program][word] == exceptions[word], program


@pytest.mark.parametrize("word", [pytest.param(word, marks=() if word == "flux2_klein" else pytest.mark.slow)
                                  for word in LISTED[DIFFUSERS_FILE]["layouts"]])
def test_each_layer_of_a_transformer_is_looked_for_or_named_as_passed_over(word: str, tmp_path) -> None:
    family = families()[word]
    family.write_tiny_base(tmp_path)
    module = family.empty_component(tmp_path, family.components["denoiser"])
    *_, widest = family.target_presets["denoiser"].values()
    layers = match_layers(module, widest)
    known = LISTED[DIFFUSERS_FILE]["layouts"][word]
    unread = [name for name in layers if NUMBER.sub("#", f"transformer.{name}") not in known]
    assert matching_names(layers, family.comfyui_unread.get("denoiser", ())) == unread
    told = formats()["diffusers"].passed_over(family, "denoiser", make("lora"), layers)
    assert [f"{len(unread)} of {len(layers)} layers" in clause for clause in told] == [True] * bool(unread)


def test_names_are_stored_exactly() -> None:
    names = {"lora_unet_input_blocks_4_1_proj_in", "lora_unet_input_blocks_10_1_proj_in", "lora_te_text_model"}
    assert set(unfolded(folded(names))) == names and len(folded(names)) == 2


def test_the_comparison_sees_what_differs() -> None:
    base = {name: torch.zeros(2) for name in ("right", "half", "missed", "stray", "same")}
    merged = {**base, "right": torch.ones(2), "half": torch.ones(2), "missed": torch.ones(2)}
    loaded = {**merged, "half": torch.full((2,), 0.5), "missed": torch.zeros(2), "stray": torch.ones(2)}
    found = compare(base, merged, loaded)
    assert (found["changed"], found["applied"], found["stray"]) == (3, 2, 1)
    assert (found["error"], found["worst"], found["missed"]) == (0.5, "half", ["missed"])
