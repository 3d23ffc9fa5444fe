"""Are the names of a checkpoint of one file those of the published models, both ways, and is each kind of file told?"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dbrun.errors import RecipeError
from dbrun.models import ldm_keys, ldm_layouts, ldm_names
from dbrun.models.base import families
from dbrun.safetensors_header import Header

FAMILY_OF = ((ldm_layouts.SD1, "sd"), (ldm_layouts.SD2, "sd"), (ldm_layouts.SDXL, "sdxl"))
LAYOUTS = {name: family.checkpoint_layouts for name, family in families().items()}
UNET = ldm_layouts.UNET


class Shapes:
    """A pipeline on the meta device: names and shapes of the published model, no weights."""

    def __init__(self, layout: ldm_layouts.Layout, family: str, configs: str) -> None:
        for name in ("unet", *layout.text_encoders):
            setattr(self, name, families()[family].empty_component(ldm_layouts.PUBLISHED / configs, name))


def header(*names: str, dtype: str = "F16", channels: int = 4, **metadata: str) -> Header:
    shapes = {ldm_layouts.FIRST_CONVOLUTION: [320, channels, 3, 3]}
    tensors = {name: {"dtype": dtype, "shape": shapes.get(name, [1])} for name in names}
    return Header(tensors, {key.replace("__", "."): value for key, value in metadata.items()}, 0)


@pytest.mark.parametrize(("layout", "name"), FAMILY_OF, ids=["SD 1.x", "SD 2.x", "SDXL"])
def test_every_name_of_the_published_models_is_written_and_read(layout: ldm_layouts.Layout, name: str) -> None:
    family = families()[name]
    for prediction, configs in layout.configs.items():
        folder = ldm_layouts.PUBLISHED / configs
        assert family.written_layout(folder) is layout
        family.check_configs(folder)
        config = ldm_layouts.scheduler_config(folder, prediction, zero_snr=False)
        assert config["prediction_type"] == prediction
        shapes = Shapes(layout, name, configs)
        own = shapes.unet.state_dict()
        keys = {ldm_keys.unet_key(name, shapes.unet.config): tuple(tensor.shape) for name, tensor in own.items()}
        assert {ldm_names.unet_name(key, shapes.unet.config): shape for key, shape in keys.items()} == {
            name: tuple(tensor.shape) for name, tensor in own.items()}
        assert layout.is_published_size({UNET + key: shape for key, shape in keys.items()})
        for component, names in layout.text_encoders.items():
            state = getattr(shapes, component).state_dict()
            written = {key: tuple(tensor.shape) for key, tensor in ldm_keys._text_state_dict(state, names).items()}
            assert names.token_embedding in written
            assert dict(ldm_names._text_shapes(written, names, layers=99)) == {
                name: tuple(tensor.shape) for name, tensor in state.items()}


def test_the_layout_of_sdxl_is_the_one_of_the_original_release() -> None:
    """Names in sd_xl_base_1.0.safetensors, as listed by Stability's generative-models."""
    shapes = Shapes(ldm_layouts.SDXL, "sdxl", "sdxl")
    keys = {ldm_keys.unet_key(name, shapes.unet.config) for name in shapes.unet.state_dict()}
    assert {"label_emb.0.0.weight", "label_emb.0.2.bias", "input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight",
            "input_blocks.6.0.op.weight", "middle_block.1.transformer_blocks.9.ff.net.0.proj.weight",
            "output_blocks.2.2.conv.weight", "output_blocks.5.2.conv.bias", "output_blocks.8.0.skip_connection.weight",
            "input_blocks.4.0.emb_layers.1.weight"} <= keys
    names = ldm_layouts.SDXL.text_encoders["text_encoder_2"]
    written = ldm_keys._text_state_dict(shapes.text_encoder_2.state_dict(), names)
    assert written["conditioner.embedders.1.model.text_projection"].shape == (1280, 1280)
    assert written["conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight"].shape == (3840, 1280)
    assert "conditioner.embedders.1.model.positional_embedding" in written


CLIP, OPEN_CLIP = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
WHOLE = (ldm_layouts.FIRST_CONVOLUTION, "first_stage_model.decoder.conv_in.weight")


@pytest.mark.parametrize(("found", "told"), [
    (header("lora_unet_down_blocks_0.alpha"), "a LoRA of kohya's kind"),
    (header("unet.down_blocks.0.lora_A.weight"), "an adapter"),
    (header("model.diffusion_model.double_blocks.0.img_attn.qkv.weight"), "a FLUX checkpoint"),
    (header("down_blocks.0.resnets.0.conv1.weight"), "a UNet alone"),
    (header("anything"), "not a checkpoint of Stable Diffusion"),
    (header(*WHOLE, channels=9), "a base for inpainting"),
    (header(*WHOLE, "conditioner.embedders.0.model.token_embedding.weight"), "an SDXL refiner"),
    (header(*WHOLE, "edm_mean"), "the noise process of EDM"),
    (header(*WHOLE), "no text encoder"),
    (header(WHOLE[0], f"{OPEN_CLIP}token_embedding.weight"), "holds no VAE"),
    (header(*WHOLE, f"{OPEN_CLIP}token_embedding.weight", f"{UNET}label_emb.0.0.weight"), "an unCLIP base"),
    (header(*WHOLE, f"{CLIP}embeddings.token_embedding.weight", dtype="F8_E4M3"), "weights of the type F8_E4M3"),
])
def test_files_that_are_no_base_are_called_what_they_are(found: Header, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        ldm_layouts.recognise(Path("my.safetensors"), found, LAYOUTS)


def test_what_a_file_predicts_is_read_from_its_tensors_and_its_metadata() -> None:
    read = ldm_layouts.read_hints
    assert read(header("v_pred", "ztsnr")) == ldm_layouts.Hints("v_prediction", zero_snr=True)
    assert read(header(modelspec__prediction_type="v")).prediction == "v_prediction"
    assert read(header(modelspec__prediction_type="epsilon")).prediction == "epsilon"
    assert read(header(modelspec__architecture="stable-diffusion-v2-768-v")).prediction == "v_prediction"
    assert read(header(modelspec__architecture="stable-diffusion-xl-v1-base")).prediction is None
    config = ldm_layouts.scheduler_config(ldm_layouts.PUBLISHED / "sdxl", "v_prediction", zero_snr=True)
    assert config["rescale_betas_zero_snr"] is True and config["timestep_spacing"] == "trailing"


def test_a_checkpoint_is_a_whole_safetensors_file(tmp_path: Path) -> None:
    file = tmp_path / "my.safetensors"
    save_file({ldm_layouts.FIRST_CONVOLUTION: torch.zeros(8, 4, 3, 3)}, file)
    assert ldm_layouts.read_checkpoint(file)[1] == {ldm_layouts.FIRST_CONVOLUTION: (8, 4, 3, 3)}
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(RecipeError, match="not a complete safetensors file"):
        ldm_layouts.read_checkpoint(file)
    assert json.loads((ldm_layouts.PUBLISHED / "sdxl" / "model_index.json").read_text())["force_zeros_for_empty_prompt"]
