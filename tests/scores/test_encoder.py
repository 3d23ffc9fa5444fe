"""Do encoders of the real classes give unit embeddings that depend on nothing but the picture or text?"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_encoders import write_tiny_clip, write_tiny_dinov2

from dbrun.errors import RecipeError, StageFailed
from dbrun.scores.encoder import Encoder, encoder_types, missing_files, open_encoder, read_encoder_type, wanted_files

CPU = torch.device("cpu")
WRITERS = {"clip": write_tiny_clip, "dinov2": write_tiny_dinov2}
NOISE = np.random.default_rng(0).integers(0, 256, (3, 40, 56, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp(name)) for name, write in WRITERS.items()}


@pytest.fixture(scope="module")
def encoders(folders: dict[str, Path]) -> dict[str, Encoder]:
    return {name: open_encoder(folder, CPU) for name, folder in folders.items()}


def test_every_encoder_is_tried_here() -> None:
    assert set(encoder_types()) == set(WRITERS)


@pytest.mark.parametrize("name", WRITERS)
def test_pictures_are_encoded_as_if_each_stood_alone(encoders: dict[str, Encoder], name: str) -> None:
    encoder = encoders[name]
    together = encoder.embed_pictures(NOISE)
    assert together.shape == (3, encoder.width) and together.dtype == torch.float32
    assert torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-6)
    alone = torch.cat([encoder.embed_pictures([Image.fromarray(picture)]) for picture in NOISE])
    assert torch.equal(alone, together)
    assert encoder.embed_pictures([]).shape == (0, encoder.width)
    # another mode of the same pixels is the same picture
    assert torch.equal(encoder.embed_pictures([Image.fromarray(NOISE[0]).convert("RGBA")]), together[:1])


@pytest.mark.parametrize("name", WRITERS)
def test_an_embedding_is_what_transformers_gives(encoders: dict[str, Encoder], folders: dict[str, Path],
                                                name: str) -> None:
    from transformers import AutoModel

    # pixels by hand: shortest side, centre, mean and deviation, as preprocessor_config.json has them
    config = json.loads((folders[name] / "preprocessor_config.json").read_text())
    shortest, side = config["size"]["shortest_edge"], config["crop_size"]["height"]
    size = (int(56 * shortest / 40), shortest)
    resized = Image.fromarray(NOISE[0]).resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    cropped = np.asarray(resized.crop((left, top, left + side, top + side)), dtype=np.float32) / 255
    pixels = (cropped - np.float32(config["image_mean"])) / np.float32(config["image_std"])
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    model = AutoModel.from_pretrained(folders[name]).eval()
    with torch.no_grad():
        if name == "clip":
            row = model.get_image_features(batch).pooler_output
        else:
            row = model(batch).last_hidden_state[:, 0]
    expected = row / row.norm()
    torch.testing.assert_close(encoders[name].embed_pictures(NOISE[:1]), expected, rtol=1e-4, atol=1e-5)


def test_texts_are_encoded_as_if_each_stood_alone_and_long_ones_are_cut(encoders: dict[str, Encoder]) -> None:
    clip = encoders["clip"]
    texts = ["a dog", "a photo of a dog on the beach, " * 9, ""]
    together = clip.embed_texts(texts)
    assert together.shape == (3, clip.width) and torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-6)
    assert torch.equal(torch.cat([clip.embed_texts([text]) for text in texts]), together)
    assert not torch.equal(together[0], together[2])
    with pytest.raises(TypeError, match="dinov2 embeds no texts"):
        encoders["dinov2"].embed_texts(texts)


def test_bf16_weights_give_float32_embeddings_near_those_of_fp32(encoders: dict[str, Encoder],
                                                                folders: dict[str, Path]) -> None:
    half = open_encoder(folders["clip"], CPU, "bf16")
    assert next(half.model.parameters()).dtype == torch.bfloat16
    rows = half.embed_pictures(NOISE)
    assert rows.dtype == torch.float32 and not torch.equal(rows, encoders["clip"].embed_pictures(NOISE))
    assert float((rows * encoders["clip"].embed_pictures(NOISE)).sum(dim=1).min()) > 0.999


def test_another_kind_of_model_is_refused_with_the_file_and_what_is_allowed(tmp_path: Path,
                                                                           folders: dict[str, Path]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}')
    with pytest.raises(RecipeError) as caught:
        read_encoder_type(tmp_path)
    assert caught.value.message == (f"{tmp_path}/config.json: found model_type 'siglip', "
                                    "expected 'clip' (CLIP) or 'dinov2' (DINOv2)")
    with pytest.raises(RecipeError, match=r"found model_type 'dinov2', expected 'clip' \(CLIP\)"):
        read_encoder_type(folders["dinov2"], role="clip")
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(RecipeError, match="cannot be read as the config of an encoder"):
        read_encoder_type(tmp_path)
    with pytest.raises(RecipeError, match="cannot be read as the config of an encoder"):
        read_encoder_type(tmp_path / "none")
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(RecipeError, match=r"lacks preprocessor_config\.json and model\.safetensors and tokenizer"):
        read_encoder_type(tmp_path)


def test_weights_that_are_not_the_models_are_refused(tmp_path: Path) -> None:
    """transformers only warns, and draws the missing ones at random."""
    from safetensors.torch import load_file, save_file

    folder = write_tiny_dinov2(tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageFailed, match=r"lacks 1 weights of Dinov2Model, such as layernorm\.weight"):
        open_encoder(folder, CPU)
    (folder / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(StageFailed, match="cannot be loaded as Dinov2Model"):
        open_encoder(folder, CPU)


def test_a_preprocessor_that_does_not_fit_the_model_is_refused_when_the_encoder_is_opened(tmp_path: Path) -> None:
    folder = write_tiny_clip(tmp_path)
    config = json.loads((folder / "preprocessor_config.json").read_text())
    config["crop_size"] = {"height": 48, "width": 48}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(StageFailed, match=r"cannot be loaded as CLIPModel: .*48"):
        open_encoder(folder, CPU)


def test_an_embedding_that_is_no_number_is_refused(folders: dict[str, Path]) -> None:
    encoder = open_encoder(folders["dinov2"], CPU)
    with torch.no_grad():
        next(encoder.model.parameters()).fill_(float("nan"))
    with pytest.raises(StageFailed, match="zero or not finite"):
        encoder.embed_pictures(NOISE[:1])


def test_only_what_is_read_is_wanted(folders: dict[str, Path]) -> None:
    names = ["README.md", "config.json", "pytorch_model.bin", "tf_model.h5", "model.safetensors", "vocab.json",
             "model-00001-of-00002.safetensors", "model.safetensors.index.json", "onnx/model.onnx", "merges.txt",
             "preprocessor_config.json", "model.fp16.safetensors"]
    assert wanted_files(names) == ("config.json", "merges.txt", "model.safetensors", "preprocessor_config.json",
                                   "vocab.json")
    names.remove("model.safetensors")
    sharded = wanted_files(names)
    assert {"model-00001-of-00002.safetensors", "model.safetensors.index.json"} <= set(sharded)
    assert missing_files(sharded, encoder_types()["clip"]) == ()
    # each file that transformers wrote is read, none is left out
    for name, folder in folders.items():
        there = [path.name for path in folder.iterdir()]
        assert set(wanted_files(there)) == set(there), name
