"""Are long prompts read in pieces, and earlier layers as other programs read them?"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from dbrun.models.base import Model, families
from dbrun.models.prompt_reading import PromptReading

LONG = "a photo of a dog " * 9
"""153 letters and blanks: a tiny base has a token for each letter, so that the third piece is begun."""


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    family, folder = families()[request.param], tmp_path_factory.mktemp(request.param)
    family.write_tiny_base(folder)
    return family.load(folder, device=torch.device("cpu"), dtype=torch.float32)


def hidden(model: Model, prompt: str, **reading: int) -> Tensor:
    """The condition `hidden` [L, D] under a reading."""
    model.prompt_reading = PromptReading(**reading)
    with torch.no_grad():
        (condition,) = model.encode_prompts([prompt])
    model.prompt_reading = PromptReading()
    return condition["hidden"]


def test_each_piece_is_what_it_is_alone(model: Model) -> None:
    """Of letters without blanks, 75 are a piece; the last piece is the rest with its padding."""
    text = "abcdefghij" * 16
    pieces = [hidden(model, text[start:start + 75]) for start in (0, 75)]
    # each letter but the last of a word is another token than the last, so only whole pieces of inner letters compare
    whole = hidden(model, text, chunks=3)
    assert whole.shape == (3 * 77, pieces[0].shape[1])
    assert torch.equal(whole[:75], pieces[0][:75]), "causal: the states before the last letter are the same"
    assert not torch.equal(whole[77:152], pieces[0][:75]), "the second piece holds other letters"


def test_a_short_prompt_is_itself_and_padding(model: Model) -> None:
    one, three = hidden(model, "a dog"), hidden(model, "a dog", chunks=3)
    assert torch.equal(three[:77], one)
    empty = hidden(model, "", chunks=3)
    # zeros in a base that wants them for the empty prompt; else the marks and the padding of each piece
    assert torch.equal(empty[77:154], empty[154:]) and not torch.equal(three[77:154], one)


def test_the_end_of_a_long_prompt_counts_only_in_pieces(model: Model) -> None:
    assert torch.equal(hidden(model, LONG + "red"), hidden(model, LONG + "blue"))
    assert not torch.equal(hidden(model, LONG + "red", chunks=3), hidden(model, LONG + "blue", chunks=3))


def test_batched_prompts_are_what_they_are_alone(model: Model) -> None:
    model.prompt_reading = PromptReading(chunks=2)
    with torch.no_grad():
        together = model.encode_prompts([LONG, "a dog"])
        alone = [model.encode_prompts([prompt])[0] for prompt in (LONG, "a dog")]
    model.prompt_reading = PromptReading()
    for left, right in zip(together, alone, strict=True):
        torch.testing.assert_close(left["hidden"], right["hidden"], rtol=0, atol=2e-6)


def test_clip_skip_is_that_of_diffusers(tmp_path: Path) -> None:
    """diffusers counts the layers that are left out, all others the layer that is read."""
    family = families()["sd"]
    family.write_tiny_base(tmp_path)
    model = family.load(tmp_path, device=torch.device("cpu"), dtype=torch.float32)
    pipeline: Any = StableDiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    # diffusers 0.42 looks for the norm where transformers 4 had it
    norm = SimpleNamespace(final_layer_norm=pipeline.text_encoder.final_layer_norm)
    object.__setattr__(pipeline.text_encoder, "text_model", norm)
    theirs, _ = pipeline.encode_prompt("a dog", "cpu", 1, False, clip_skip=1)
    assert torch.equal(hidden(model, "a dog", clip_skip=2), theirs[0])
    assert not torch.equal(hidden(model, "a dog"), theirs[0])


@pytest.mark.parametrize("reading", [{"chunks": 3}, {"clip_skip": 2}], ids=["pieces", "clip skip"])
def test_pictures_are_drawn_by_the_same_reading(model: Model, reading: dict[str, int]) -> None:
    if model.family.clip_skip_reason and "clip_skip" in reading:
        pytest.skip("SDXL always reads one layer")
    settings = {"seed": 1, "steps": 2, "guidance": 3.0, "resolution": 32}
    usual = model.generate(LONG, **settings)
    model.prompt_reading = PromptReading(**reading)
    assert model.generate(LONG, **settings).tobytes() != usual.tobytes()
    model.prompt_reading = PromptReading()
