"""Does a new word learn alone: begun as a known one, and read by diffusers as it was trained?"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_steps import gone
from tiny_training import FAMILY, digests, load
from torch import Tensor
from train_settings import train_settings

from dbrun.adapters.adapter_io import ComponentAdapter, read_adapters, write_adapters
from dbrun.adapters.attach import attach, disable_adapter, read_weights
from dbrun.adapters.embedding import Embedding
from dbrun.errors import RecipeError, StageFailed
from dbrun.formats.base import formats
from dbrun.formats.roundtrip import Probe, ReferencePredictions
from dbrun.models.base import Model
from dbrun.options.optimizers import AdamW
from dbrun.options.schedules import Constant
from dbrun.training.loop import Trainer
from dbrun.training.param_groups import trains_text_encoders
from dbrun.training.prompt_embeds import live_prompts

# the tiny tokenizer reads letters, so a `dog` is three tokens
SKS = Embedding(token="<sks>", initializer="dog", vectors=3)
PROMPTS = ("a photo of a dog", "a photo of a <sks>")
PROBE = Probe(PROMPTS[1], 32)
SETTINGS = train_settings(steps=6, learning_rate=0.05, accumulation=1, max_grad_norm=1.0, optimizer=AdamW(),
                    schedule=Constant(), precision="fp32", prior_weight=1.0, seed=0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("embedding")
    FAMILY.write_tiny_base(place / "base")
    return place


def put(model: Model, word: Embedding = SKS) -> ComponentAdapter:
    module = model.module("trigger")
    attach(module, word, (), seed=0)
    return ComponentAdapter(word.resolved_for(()), (), read_weights(module))


def trainer(model: Model) -> Trainer:
    return Trainer(model, ("trigger",), live_prompts(model, PROMPTS), SETTINGS)


def hidden(model: Model, prompt: str) -> Tensor:
    with torch.no_grad():
        return model.encode_prompts([prompt])[0]["hidden"]


def trained(model: Model) -> ComponentAdapter:
    first = put(model)
    return replace(first, state=gone(trainer(model), 3).adapter_states()["trigger"])


def test_the_word_begins_as_the_one_that_it_is_like(home: Path) -> None:
    model = load(home)
    as_dog, letters = hidden(model, "a photo of a dog"), hidden(model, PROMPTS[1])
    put(model)
    assert torch.equal(hidden(model, PROMPTS[1]), as_dog) and not torch.equal(letters, as_dog)
    assert torch.equal(hidden(model, "a photo of a dog"), as_dog)


def test_vectors_begin_as_the_tokens_in_turn(home: Path) -> None:
    state = put(load(home), Embedding(token="<x>", initializer="ab", vectors=4)).state["<x>"]
    assert state.shape == (4, 32) and torch.equal(state[0], state[2]) and torch.equal(state[1], state[3])
    assert not torch.equal(state[0], state[1])


def test_a_word_that_does_not_fit_is_told_with_the_number_that_does(home: Path) -> None:
    with pytest.raises(RecipeError, match="3 tokens") as caught:
        put(load(home), Embedding(token="<x>", initializer="dog", vectors=2))
    assert "`vectors: 3`" in str(caught.value)
    model = load(home)
    model.pipeline.tokenizer.add_tokens(["<sks>_1"])
    with pytest.raises(RecipeError, match="knows the word '<sks>_1' already"):
        put(model)


def test_only_the_word_learns(home: Path) -> None:
    model = load(home)
    before = digests(model)
    first = put(model)
    assert trains_text_encoders(model)
    after = gone(trainer(model), 3).adapter_states()["trigger"]
    assert digests(model) == before and list(after) == ["<sks>"]
    assert (after["<sks>"] != first.state["<sks>"]).all()


def test_of_two_words_each_keeps_its_own_vectors(home: Path) -> None:
    model = load(home)
    put(model)
    alone = hidden(model, PROMPTS[1])
    model.module("trigger").vocabulary.add("<zwx>", torch.ones(2, 32))
    assert torch.equal(hidden(model, PROMPTS[1]), alone)
    assert not torch.equal(hidden(model, "a photo of a <zwx>"), alone)


def test_switched_off_it_is_as_it_began(home: Path) -> None:
    model = load(home)
    put(model)
    began = hidden(model, PROMPTS[1])
    gone(trainer(model), 2)
    with disable_adapter(model.module("trigger")):
        assert torch.equal(hidden(model, PROMPTS[1]), began)
    assert not torch.allclose(hidden(model, PROMPTS[1]), began)


def test_a_resumed_training_ends_in_the_same_bits(home: Path) -> None:
    unbroken, first, second = (load(home) for _ in range(3))
    for loaded in (unbroken, first, second):
        put(loaded)
    resumed = trainer(second)
    resumed.restore(gone(trainer(first), 2).checkpoint())
    a, b = gone(trainer(unbroken), 4).checkpoint(), gone(resumed, 4).checkpoint()
    assert a.values == b.values and a.tensors.keys() == b.tensors.keys()
    assert all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)


def test_it_is_kept_and_read_exactly(home: Path, tmp_path: Path) -> None:
    model, fresh = load(home), load(home)
    word = trained(model)
    write_adapters(tmp_path, {"trigger": word})
    back = read_adapters(tmp_path)["trigger"]
    assert back.adapter == SKS and back.modules == ()
    back.attach_to(fresh.module("trigger"))
    assert torch.equal(hidden(fresh, PROMPTS[1]), hidden(model, PROMPTS[1]))


def test_diffusers_loads_the_file_and_draws_what_was_trained(home: Path, tmp_path: Path) -> None:
    model, theirs, form = load(home), load(home), formats()["embedding"]
    base = PROBE.predict(model)
    word = trained(model)
    paths = form.write(tmp_path, FAMILY, {"trigger": word}, lambda: load(home))
    assert paths == (tmp_path / "embeddings" / "sks.safetensors",)
    pipeline = theirs.pipeline
    pipeline.load_textual_inversion(str(paths[0]))
    expected = ReferencePredictions(base, PROBE.predict(model), {"trigger": word})
    assert expected.effect > 0.01
    assert expected.compare(PROBE.predict(theirs), theirs, form) == 0.0
    ours = model.generate(PROMPTS[1], seed=3, steps=2, guidance=4.0, resolution=32)
    pipeline.scheduler = theirs.sampling_scheduler()
    drawn = pipeline(PROMPTS[1], num_inference_steps=2, guidance_scale=4.0, width=32, height=32,
                     generator=torch.Generator("cpu").manual_seed(3)).images[0]
    assert drawn.tobytes() == ours.tobytes()
    with pytest.raises(StageFailed, match="ignored or changed"):
        expected.compare(expected.trained_prediction, load(home), form)
