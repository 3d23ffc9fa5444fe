"""Does the model card say what an adapter is, of which base and licence, and how each of its files is used?"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from adapter_kinds import make, moved, put, widest
from huggingface_hub import ModelCard
from PIL import Image, ImageChops

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.formats.base import formats
from dbrun.formats.model_card import BASE_PLACEHOLDER, SamplePictures, layer_warnings, render_card
from dbrun.formats.recipe_facts import trigger_phrases
from dbrun.models.base import families
from dbrun.models.configs import find_licence
from dbrun.safetensors_header import trigger_words

SD = families()["sd"]
RECIPE = {"base": {"type": "sd", "identity": f"hub:runwayml/sd15@{'a' * 40}", "variant": None}, "seed": 3,
          "subject": {"instance_prompt": "a photo of sks dog", "class_prompt": ["a photo of a dog", "a dog at night"],
                      "pictures": [{"digest": "1", "prompt": "a"}] * 5},
          "adapt": {"denoiser": {"type": "lora", "rank": 8, "alpha": 4.0}, "text_encoder": None},
          "train": {"steps": 300}, "images": {"resolution": 512}, "prior": {"count": 40}}
DOCUMENT = {"instance_prompt": "a photo of sks dog", "recipe": RECIPE, "inputs": {"train": "7" * 64},
            "libraries": {"torch": "2.9"}, "licence": "CreativeML-OpenRAIL-M"}


def drawn(*prompts: str, side: int = 512) -> SamplePictures:
    return SamplePictures(prompts, 7, 3, 5.0, side, "DPMSolverMultistepScheduler")


def front(text: str) -> dict:
    return yaml.safe_load(text.split("---")[1])


def test_the_hub_reads_its_front_matter() -> None:
    text = render_card(DOCUMENT, SD, ["diffusers", "kohya"], drawn("a photo of sks dog", 'a "dog": at sea'))
    data = ModelCard(text).data
    assert (data.license, data.base_model) == ("creativeml-openrail-m", "runwayml/sd15")
    assert data.to_dict()["library_name"] == "diffusers"
    assert data.instance_prompt == "a photo of sks dog" and "lora" in data.tags
    assert front(text)["widget"][1] == {"text": 'a "dog": at sea', "output": {"url": "samples/adapted/01.png"}}
    assert front(text)["base_model_relation"] == "adapter"


def test_a_reader_learns_trigger_base_licence_prompts_and_origin() -> None:
    text = render_card(DOCUMENT, SD, ["diffusers"], drawn("a photo of sks dog"))
    for words in ("Trigger: `sks`", "huggingface.co/runwayml/sd15", "Licence of the base: CreativeML-OpenRAIL-M",
                  "denoiser: lora rank 8 alpha 4.0; 300 steps at 512 pixels on 5 pictures", "before_after.png",
                  "- `a photo of sks dog`, seed 7", "# %RUN-NAME%", "Class images beside them: 40", "Weights of 0.6",
                  "train `777777777777`", "torch 2.9", "seed: 3"):
        assert words in text, words


@pytest.mark.parametrize("name", formats())
def test_every_format_says_how_it_is_used(name) -> None:
    used = {"diffusers": 'load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors")',
            "kohya": "models/loras/", "peft": "PeftModel.from_pretrained(pipeline.unet", "merged": 'f"{folder}/merged"',
            "single_file": "models/checkpoints/", "component": "component/unet", "embedding": "models/embeddings/"}
    text = render_card(DOCUMENT, SD, [name], drawn("a"))
    # a format that is new says at least its name
    assert used.get(name, name) in text and ("lora" in front(text)["tags"]) is not formats()[name].LARGE


def test_a_reader_of_flux_is_told_how_comfyui_takes_the_same_file() -> None:
    flux = families()["flux"]
    text = render_card(DOCUMENT, flux, ["diffusers"], drawn("a"))
    assert "FluxPipeline.from_pretrained" in text and "`FluxGuidance`" in text and "A1111" not in text
    assert "ComfyUI" not in render_card(DOCUMENT, flux, ["merged"], drawn("a"))
    assert "FluxGuidance" not in render_card(DOCUMENT, SD, ["diffusers"], drawn("a"))


def test_the_program_guides_by_the_arguments_that_the_pipeline_has() -> None:
    text = render_card(DOCUMENT, families()["qwen_image"], ["diffusers"], drawn("a"))
    assert 'negative_prompt="", true_cfg_scale=' in text and "guidance_scale" not in text and "Qwen-Image" in text
    assert "guidance_scale=" in render_card(DOCUMENT, families()["krea2"], ["diffusers"], drawn("a"))


def programs(text: str) -> list[str]:
    return [part.split("```")[0] for part in text.split("```python\n")[1:]]


@pytest.mark.parametrize("family", ["sd", "sdxl", "if_stage1", "if_stage2"])
def test_python_in_it_is_python(family) -> None:
    recipe = {**RECIPE, "adapt": {**RECIPE["adapt"], "trigger": {"type": "embedding", "token": "<x>"}}}
    blocks = programs(render_card({**DOCUMENT, "recipe": recipe}, families()[family], list(formats()), drawn("a")))
    assert len(blocks) >= 3
    for block in blocks:
        compile(block, "card", "exec")
    assert ('token="<x>"' in blocks[0]) and ("image.save" in blocks[0]) is (family != "if_stage2")


def test_each_program_in_it_draws_what_the_trained_model_draws(tmp_path, monkeypatch) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    out.mkdir()
    SD.write_tiny_base(base)
    fresh = lambda: SD.load(base, device=torch.device("cpu"), dtype=torch.float32)  # noqa: E731
    model, on, adapter = fresh(), fresh(), make("lora", rank=2)
    adapters = {name: moved(put(model, name, adapter, widest(adapter)), by=0.1) for name in SD.components}
    for name, attached in adapters.items():
        attached.attach_to(on.module(name))
    names = ["diffusers", "peft", "merged"]
    for name in names:
        formats()[name].write(out, SD, adapters, fresh)
    base_recipe = {"type": "sd", "identity": "files:abc", "variant": None}
    recipe = {**RECIPE, "base": base_recipe, "adapt": {name: {"type": "lora"} for name in SD.components}}
    text = render_card({**DOCUMENT, "recipe": recipe}, SD, names, drawn("a sks dog", side=32))
    wanted = on.generate("a sks dog", seed=7, steps=3, guidance=5.0, resolution=32)
    monkeypatch.chdir(out)
    blocks = programs(text)
    assert len(blocks) == 3
    for block in blocks:
        exec(block.replace(BASE_PLACEHOLDER, str(base)), {})
        difference = ImageChops.difference(Image.open(out / "picture.png"), wanted)
        assert max(high for _, high in difference.getextrema()) <= 1
        (out / "picture.png").unlink()


def test_layers_that_programs_pass_over_are_named() -> None:
    layers = ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "time_embedding.linear_1")
    adapters = {"denoiser": ComponentAdapter(make("lora"), layers, {})}
    both = layer_warnings(SD, ["diffusers", "kohya"], adapters)
    assert "ComfyUI and Forge ignore 1 of 2 layers of the denoiser" in both[0] and "`kohya.safetensors`" in both[0]
    assert "sd-scripts and diffusers 0.35 ignore 1 of 2" in both[1] and "time_embedding.linear_1" in both[1]
    assert not layer_warnings(SD, ["peft", "merged"], adapters)


def test_a_transformers_family_names_what_comfyui_does_not_read() -> None:
    family, layers = families()["chroma"], ("transformer_blocks.0.attn.to_q", "distilled_guidance_layer.in_proj")
    adapters = {"denoiser": ComponentAdapter(make("lora"), layers, {})}
    assert layer_warnings(family, ["diffusers", "peft"], adapters) == (
        "diffusers: ComfyUI ignores 1 of 2 layers of the denoiser, such as `distilled_guidance_layer.in_proj`, "
        "without an error",)
    adapters = {"denoiser": ComponentAdapter(make("lora"), layers[:1], {})}
    assert layer_warnings(family, ["diffusers", "peft"], adapters) == ()


@pytest.mark.slow
def test_the_program_for_chroma_reads_no_padding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the base was trained, and unlike the pipeline that is given a prompt."""
    family, base = families()["chroma"], tmp_path / "base"
    family.write_tiny_base(base)
    recipe = {**RECIPE, "base": {"type": "chroma", "identity": "files:abc", "variant": None}}
    card = replace(drawn("a sks dog", side=32), scheduler="FlowMatchEulerDiscreteScheduler")
    text = render_card({**DOCUMENT, "recipe": recipe}, family, ["merged"], card)
    monkeypatch.chdir(tmp_path)
    (block,) = programs(text)
    exec(block.replace('f"{folder}/merged"', json.dumps(str(base))), {})
    model = family.load(base, device=torch.device("cpu"), dtype=torch.float32)
    wanted = model.generate("a sks dog", seed=7, steps=3, guidance=5.0, resolution=32)
    difference = ImageChops.difference(Image.open("picture.png"), wanted)
    assert max(high for _, high in difference.getextrema()) <= 1
@pytest.mark.parametrize(("kind", "component", "name", "told"), [
    ("lora", "text_encoder_2", "kohya", "A1111 and sd-scripts ignore 1 of 2 layers of the text_encoder_2"),
    ("lora", "text_encoder_2", "diffusers", "ComfyUI and Forge ignore 1 of 2 layers of the text_encoder_2"),
    ("lora", "text_encoder_2", "kohya", "LyCORIS in sd-scripts applies `text_projection` wrongly"),
    ("loha", "text_encoder_2", "kohya", "ignores all 2 layers of the text_encoder_2"),
    ("loha", "text_encoder_2", "kohya", "LyCORIS in sd-scripts applies `text_projection` wrongly"),
    ("dora", "text_encoder_2", "diffusers", "ignore the DoRA's lengths on the text_encoder_2")])
def test_readers_of_sdxl_and_of_other_types_are_named(kind, component, name, told) -> None:
    sdxl, layers = families()["sdxl"], ("text_model.encoder.layers.0.mlp.fc1", "text_projection")
    text, = layer_warnings(sdxl, [name], {component: ComponentAdapter(make(kind), layers, {})})
    assert told in text
    # kohya's names are no way out for a DoRA
    assert ("--how full" in text) is (kind == "dora")
    unet = ComponentAdapter(make("lora"), ("add_embedding.linear_1",), {})
    assert "kohya: sd-scripts ignores 1 of 1" in layer_warnings(sdxl, ["kohya"], {"denoiser": unet})[0]


def test_a_base_of_files_names_no_place_and_an_unknown_licence_is_said(tmp_path) -> None:
    recipe = {**RECIPE, "base": {"type": "sd", "identity": "files:abc", "variant": None}}
    text = render_card({**DOCUMENT, "recipe": recipe, "licence": find_licence(tmp_path)}, SD, ["diffusers"], drawn("a"))
    assert "base_model" not in front(text) and front(text)["license"] == "unknown"
    assert f'from_pretrained("{BASE_PLACEHOLDER}", torch_dtype' in text and "Licence of the base: unknown\n" in text


def test_a_licence_is_read_from_a_card_or_a_manifest(tmp_path) -> None:
    assert find_licence(tmp_path) == "unknown"
    for name, told in (("licence.txt", "see licence.txt"), ("LICENSE-MODEL.md", "see LICENSE-MODEL.md")):
        (tmp_path / name).write_text("All rights …")
        assert find_licence(tmp_path) == told
    card = render_card({**DOCUMENT, "licence": told}, SD, ["peft"], drawn("a"))
    assert front(card)["license_name"] == "see LICENSE-MODEL.md"
    (tmp_path / "manifest.json").write_text('{"licence": "Apache-2.0"}')
    assert find_licence(tmp_path) == "Apache-2.0"
    (tmp_path / "README.md").write_text("---\nlicense: openrail++\ntags:\n- x\n---\n# hi\nlicense: no\n")
    assert find_licence(tmp_path) == "openrail++"
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: my terms\n---\n")
    assert find_licence(tmp_path) == "my terms"
    assert front(render_card({**DOCUMENT, "licence": "my terms"}, SD, ["peft"], drawn("a")))["license"] == "other"


def test_the_trigger_is_what_no_class_prompt_says() -> None:
    assert trigger_words(RECIPE) == "sks"
    assert trigger_words({**RECIPE, "adapt": {"trigger": {"token": "<x>"}}}) == "<x>"
    assert trigger_words({**RECIPE, "subject": {"instance_prompt": "a zwx car", "class_prompt": None}}) is None
    second = {"instance_prompt": "a zwx car", "class_prompt": "a car"}
    assert trigger_words({"subjects": [RECIPE["subject"], second]}) == "sks zwx"


def test_a_trigger_that_the_recipe_names_is_the_trigger() -> None:
    """It tells what no class prompt is there to tell, and in captions the instance prompt is not there either."""
    named = {"instance_prompt": None, "class_prompt": None, "trigger": "ohwx woman"}
    assert trigger_words({**RECIPE, "subject": named}) == "ohwx woman"
    assert trigger_words({"subjects": [named, RECIPE["subject"]]}) == "ohwx woman sks"
    assert trigger_phrases({**RECIPE, "subject": named}) == ("ohwx woman",)
    phrased = {**named, "instance_prompt": "a photo of an ohwx woman"}
    assert trigger_phrases({**RECIPE, "subject": phrased}) == ("ohwx woman",)
    card = render_card({**DOCUMENT, "recipe": {**RECIPE, "subject": {**RECIPE["subject"], **named}}}, SD, ["peft"],
                       drawn("a"))
    assert "- Trigger: `ohwx woman`" in card
