"""Do the libraries read a merged pipeline and a single checkpoint as a user would, in the original layout?"""

import re

import numpy as np
import pytest
import torch
from adapter_kinds import make, moved, put
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from representatives import cases
from safetensors.torch import load_file, save_file
from second_base import as_second

from dbrun.errors import StageFailed
from dbrun.formats.base import formats
from dbrun.models import ldm_keys
from dbrun.models.base import families
from dbrun.models.ldm_layouts import Hints, read_hints
from dbrun.safetensors_header import read_header

SD, IF = families()["sd"], families()["if_stage1"]


@pytest.fixture(scope="module", params=cases(["1.x", "2.x", "2.x of v"], 0))
def folder(request, tmp_path_factory):
    """A tiny base; of 2.x, with what 2.1's configs say otherwise."""
    place = tmp_path_factory.mktemp("whole") / "base"
    SD.write_tiny_base(place, prediction="v_prediction" if request.param == "2.x of v" else "epsilon")
    return place if request.param == "1.x" else as_second(place)


def fresh(folder):
    return SD.load(folder, device=torch.device("cpu"), dtype=torch.float32)


def drawn(pipeline) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline("a photo of sks dog", num_inference_steps=2, guidance_scale=2.0, width=32, height=32,
                    generator=torch.Generator().manual_seed(0), output_type="np").images[0]


@pytest.fixture(scope="module")
def written(folder, tmp_path_factory):
    """Both formats with a LoKr on the denoiser and a DoRA on the text encoder, and the picture that these make."""
    out, taught = tmp_path_factory.mktemp("out"), fresh(folder)
    adapters = {"denoiser": moved(put(fresh(folder), "denoiser", make("lokr"), "all"), by=0.1),
                "text_encoder": moved(put(fresh(folder), "text_encoder", make("dora"), "all"), by=0.1)}
    for component, attached in adapters.items():
        attached.attach_to(taught.module(component))
    for name in ("merged", "single_file"):
        formats()[name].write(out, SD, adapters, lambda: fresh(folder))
    return out, drawn(taught.pipeline)


def test_a_merged_pipeline_draws_what_was_trained(folder, written) -> None:
    out, expected = written
    pipeline = DiffusionPipeline.from_pretrained(out / "merged", use_safetensors=True)
    assert type(pipeline) is StableDiffusionPipeline
    assert abs(drawn(pipeline) - expected).max() < 1e-4 < 1e-2 < abs(drawn(fresh(folder).pipeline) - expected).max()


def test_a_single_checkpoint_draws_what_was_trained(folder, written) -> None:
    out, expected = written
    pipeline = StableDiffusionPipeline.from_single_file(str(out / "single_file.safetensors"), config=str(folder),
                                                        local_files_only=True, safety_checker=None)
    assert abs(drawn(pipeline) - expected).max() < 1e-4


def test_a_merged_pipeline_names_no_place_and_no_version(folder, written) -> None:
    texts = [p.read_text() for p in (written[0] / "merged").rglob("*.json")]
    assert len(texts) >= 5 and not any(str(folder.parent) in t or "_version" in t for t in texts)


def test_the_layout_is_the_one_of_the_original_release() -> None:
    """Names of v1-5-pruned-emaonly.safetensors, as listed by CompVis' ddpm and openaimodel."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
    names = {ldm_keys.unet_key(name, unet.config) for name in unet.state_dict()}
    assert len(names) == len(unet.state_dict()) == 686
    known = {"time_embed.0.weight", "time_embed.2.bias", "input_blocks.0.0.weight",
             "input_blocks.1.0.in_layers.0.weight",
             "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", "input_blocks.3.0.op.weight",
             "input_blocks.4.0.skip_connection.bias", "input_blocks.11.0.out_layers.3.weight",
             "middle_block.1.proj_in.weight", "middle_block.2.emb_layers.1.weight", "output_blocks.2.1.conv.weight",
             "output_blocks.5.2.conv.bias", "output_blocks.11.1.transformer_blocks.0.ff.net.0.proj.weight",
             "out.0.weight", "out.2.bias"}
    assert known <= names
    assert {re.match(r"[a-z_]+\.\d+", n)[0] for n in names if n.startswith("output")} == {
        f"output_blocks.{i}" for i in range(12)}


def test_the_text_encoder_of_2_stands_there_as_openclip_has_it(written) -> None:
    """Names of v2-1_512-ema-pruned.safetensors, as listed by open_clip's TextTransformer; 1.x has those of CLIP."""
    names = {n for n in load_file(written[0] / "single_file.safetensors") if n.startswith("cond_stage_model.")}
    if not any(n.startswith("cond_stage_model.model.") for n in names):
        assert "cond_stage_model.transformer.text_model.encoder.layers.1.self_attn.q_proj.weight" in names
        return
    block = {f"transformer.resblocks.{i}.{part}" for i in range(3) for part in (
        "attn.in_proj_weight", "attn.in_proj_bias", *(f"{layer}.{end}" for end in ("weight", "bias") for layer in (
            "attn.out_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")))}
    assert names == {f"cond_stage_model.model.{n}" for n in (
        *block, "token_embedding.weight", "positional_embedding", "ln_final.weight", "ln_final.bias")}


def test_bases_without_such_a_layout_are_refused_with_the_reason(folder, tmp_path, monkeypatch) -> None:
    form = formats()["single_file"]
    assert "no other program reads" in form.unsupported_reason(IF, "denoiser", make("lora"))
    assert form.unsupported_base_reason(SD, folder) is None
    monkeypatch.setattr(type(form), "unsupported_base_reason", lambda *_: "which it is not")
    with pytest.raises(StageFailed, match="which it is not"):
        form.write(tmp_path, SD, {}, lambda: fresh(folder))


def test_a_layer_that_a_reader_passes_over_is_known_from_the_configs(tmp_path) -> None:
    """diffusers leaves out the 24th, which the base of the release has not; a base that has it would lose it."""
    SD.write_tiny_base(tmp_path)
    as_second(tmp_path, layers=24)
    assert "load 23 layers of a 2.x text encoder" in formats()["single_file"].unsupported_base_reason(SD, tmp_path)
    with pytest.raises(StageFailed, match=r"this base's has 24"):
        formats()["single_file"].write(tmp_path, SD, {}, lambda: fresh(tmp_path))


def test_a_tensor_that_the_reader_passes_over_is_an_error(folder, tmp_path) -> None:
    path, = formats()["single_file"].write(tmp_path, SD, {}, lambda: fresh(folder))
    save_file({**load_file(path), "model.diffusion_model.extra.weight": torch.ones(2)}, path)
    with pytest.raises(StageFailed, match="ignored or changed 1 tensors"):
        formats()["single_file"].read(tmp_path, fresh(folder), ("denoiser",))


def test_a_single_checkpoint_says_what_was_trained(tmp_path) -> None:
    """ComfyUI and Forge go by the marks; without them they take every SDXL checkpoint for epsilon."""
    SD.write_tiny_base(tmp_path / "base")
    form, changes = formats()["single_file"], {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    for made, hints in (({}, Hints(None, False)), (changes, Hints("v_prediction", True))):
        path, = form.write(tmp_path, SD, {}, lambda made=made: fresh(tmp_path / "base").with_scheduler_changes(made))
        assert read_hints(read_header(path)) == hints
        form.read(tmp_path, fresh(tmp_path / "base"), ("denoiser",))
