"""Does `show` tell of any adapter what it is, from its header alone?"""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from dbrun.errors import UsageError
from dbrun.use.describe_adapter import describe_adapter

LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"


def lora(layer: str, rank: int, width: int = 768) -> dict:
    return {f"{layer}.lora_down.weight": torch.ones(rank, width), f"{layer}.lora_up.weight": torch.ones(320, rank),
            f"{layer}.alpha": torch.tensor(rank / 2)}


@pytest.mark.parametrize(("tensors", "metadata", "told"), [
    ({**lora(LAYER, 8), **lora(TEXT, 4)}, {"ss_sd_model_name": "v1-5.safetensors", "ss_tag_frequency": json.dumps(
        {"1_zwx dog": {"zwx dog": 9, "grass": 2}})},
     {"type": "lora", "rank": "4 to 8", "alpha": "2 to 4", "layers": "1 of the denoiser, 1 of the text_encoder",
      "base": "Stable Diffusion 1.x, v1-5.safetensors", "trigger": "zwx dog, grass",
      "loads in": "ComfyUI, Forge and A1111; diffusers where all of it is LoRA"}),
    ({f"{LAYER}.oft_blocks": torch.ones(4, 2, 2)}, {"modelspec.trigger_phrase": "zwx"},
     {"type": "oft", "layers": "1 of the denoiser", "trigger": "zwx",
      "loads in": "ComfyUI, Forge and A1111; diffusers where all of it is LoRA"}),
    ({f"{LAYER}.weight": torch.ones(4), f"{LAYER}.on_input": torch.tensor(1)}, {}, {
        "type": "unknown", "loads in": "no program that dbrun knows"}),
    (lora("lora_unet_double_blocks_0_img_attn_qkv", 4), {}, {
        "type": "lora", "rank": "4", "alpha": "2", "layers": "1 of the denoiser", "base": "FLUX.1 or Chroma or FLUX.2",
        "loads in": "ComfyUI and Forge; diffusers where all of it is LoRA"}),
    ({"emb_params": torch.ones(2, 768)}, {}, {
        "type": "embedding", "word": "<a>", "loads in": "diffusers (`load_textual_inversion`), ComfyUI and A1111"})])
def test_any_adapter_is_described(tmp_path, tensors, metadata, told) -> None:
    save_file(tensors, tmp_path / "a.safetensors", metadata=metadata)
    assert describe_adapter(tmp_path / "a.safetensors") == told


def test_a_peft_folder_and_its_file_are_described(tmp_path) -> None:
    home = tmp_path / "text_encoder"
    home.mkdir()
    name = "base_model.model.encoder.layers.0.self_attn.q_proj"
    save_file({f"{name}.lora_A.weight": torch.ones(4, 8), f"{name}.lora_B.weight": torch.ones(8, 4)},
              home / "adapter_model.safetensors")
    (home / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
    told = describe_adapter(home)
    assert (told["type"], told["rank"], told["alpha"], told["layers"]) == ("lora", "4", "8", "1 of the text_encoder")
    assert told == describe_adapter(home / "adapter_model.safetensors")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


@pytest.mark.parametrize("name", ["a.pt", "a.ckpt", "a b.bin"])
def test_a_pickle_is_never_read_and_the_way_out_is_told(tmp_path, name) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UsageError, match="pickle, which can run code") as caught:
        describe_adapter(tmp_path / name)
    assert "weights_only=True" in str(caught.value.fix) and ".safetensors" in str(caught.value.fix)
