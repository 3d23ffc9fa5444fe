"""Does the model card say what an adapter is, of which base and licence, and how each of its files is used?"""

import pytest
import yaml
from huggingface_hub import ModelCard

from dbrun.formats.base import formats
from dbrun.formats.model_card import render_card
from dbrun.models.base import families
from dbrun.models.configs import find_licence
from dbrun.safetensors_header import trigger_words

SD = families()["sd"]
RECIPE = {"base": {"type": "sd", "identity": f"hub:runwayml/sd15@{'a' * 40}", "variant": None}, "seed": 3,
          "subject": {"instance_prompt": "a photo of sks dog", "class_prompt": ["a photo of a dog", "a dog at night"]},
          "adapt": {"denoiser": {"type": "lora", "rank": 8, "alpha": 4.0}, "text_encoder": None},
          "train": {"steps": 300}, "images": {"resolution": 512}}
DOCUMENT = {"instance_prompt": "a photo of sks dog", "recipe": RECIPE, "inputs": {"train": "7" * 64},
            "libraries": {"torch": "2.9"}, "licence": "CreativeML-OpenRAIL-M"}


def front(text: str) -> dict:
    return yaml.safe_load(text.split("---")[1])


def test_the_hub_reads_its_front_matter() -> None:
    text = render_card(DOCUMENT, SD, ["diffusers", "kohya"], ["a photo of sks dog", 'a "dog": at sea'])
    data = ModelCard(text).data
    assert (data.license, data.base_model) == ("creativeml-openrail-m", "runwayml/sd15")
    assert data.to_dict()["library_name"] == "diffusers"
    assert data.instance_prompt == "a photo of sks dog" and "lora" in data.tags
    assert front(text)["widget"][1] == {"text": 'a "dog": at sea', "output": {"url": "samples/adapted/01.png"}}
    assert front(text)["base_model_relation"] == "adapter"


def test_a_reader_learns_trigger_base_licence_prompts_and_origin() -> None:
    text = render_card(DOCUMENT, SD, ["diffusers"], ["a photo of sks dog"])
    for words in ("Trigger: `sks`", "huggingface.co/runwayml/sd15", "Licence of the base: CreativeML-OpenRAIL-M",
                  "denoiser: lora rank 8 alpha 4.0; 300 steps at 512 pixels", "before_after.png",
                  "- `a photo of sks dog`",
                  "train `777777777777`", "torch 2.9", "seed: 3"):
        assert words in text, words


@pytest.mark.parametrize("name", formats())
def test_every_format_says_how_it_is_used(name) -> None:
    used = {"diffusers": 'load_lora_weights("path/to/this/folder", weight_name="pytorch_lora_weights.safetensors")',
            "kohya": "models/loras/", "peft": "PeftModel.from_pretrained(pipeline.unet", "merged": '"merged")',
            "single_file": "models/checkpoints/", "component": "component/unet", "embedding": "load_textual_inversion"}
    text = render_card(DOCUMENT, SD, [name], ["a"])
    # a format that is new says at least its name
    assert used.get(name, name) in text and ("lora" in front(text)["tags"]) is not formats()[name].LARGE


def test_python_in_it_is_python() -> None:
    text = render_card(DOCUMENT, SD, list(formats()), ["a"])
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    assert len(blocks) >= 3
    for block in blocks:
        compile(block, "card", "exec")


def test_a_base_of_files_names_no_place_and_an_unknown_licence_is_said(tmp_path) -> None:
    recipe = {**RECIPE, "base": {"type": "sd", "identity": "files:abc", "variant": None}}
    text = render_card({**DOCUMENT, "recipe": recipe, "licence": find_licence(tmp_path)}, SD, ["diffusers"], ["a"])
    assert "base_model" not in front(text) and front(text)["license"] == "unknown"
    assert 'from_pretrained("path/to/the/base")' in text and "Licence of the base: unknown\n" in text


def test_a_licence_is_read_from_a_card_or_a_manifest(tmp_path) -> None:
    assert find_licence(tmp_path) == "unknown"
    for name, told in (("licence.txt", "see licence.txt"), ("LICENSE-MODEL.md", "see LICENSE-MODEL.md")):
        (tmp_path / name).write_text("All rights …")
        assert find_licence(tmp_path) == told
    card = render_card({**DOCUMENT, "licence": told}, SD, ["peft"], ["a"])
    assert front(card)["license_name"] == "see LICENSE-MODEL.md"
    (tmp_path / "manifest.json").write_text('{"licence": "Apache-2.0"}')
    assert find_licence(tmp_path) == "Apache-2.0"
    (tmp_path / "README.md").write_text("---\nlicense: openrail++\ntags:\n- x\n---\n# hi\nlicense: no\n")
    assert find_licence(tmp_path) == "openrail++"
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: my terms\n---\n")
    assert find_licence(tmp_path) == "my terms"
    assert front(render_card({**DOCUMENT, "licence": "my terms"}, SD, ["peft"], ["a"]))["license"] == "other"


def test_the_trigger_is_what_no_class_prompt_says() -> None:
    assert trigger_words(RECIPE) == "sks"
    assert trigger_words({**RECIPE, "adapt": {"trigger": {"token": "<x>"}}}) == "<x>"
    assert trigger_words({**RECIPE, "subject": {"instance_prompt": "a zwx car", "class_prompt": None}}) is None
    second = {"instance_prompt": "a zwx car", "class_prompt": "a car"}
    assert trigger_words({"subjects": [RECIPE["subject"], second]}) == "sks zwx"
