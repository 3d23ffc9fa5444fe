"""Do new words go in and out with the adapters that they lie beside, each picture as if its adapter were alone?"""

import pytest
import torch

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.embedding import Embedding
from dbrun.cli.verbs import app_for
from dbrun.errors import UsageError
from dbrun.formats.base import formats
from dbrun.formats.roundtrip import Probe
from dbrun.models.base import families
from dbrun.use.adapter_files import find_adapter
from dbrun.use.blend import Blend
from dbrun.use.sample import SampleRequest, draw
from dbrun.use.trigger_words import find_words, uncarried_words

SD = families()["sd"]
PROMPT = "a photo of <sks> dog and a <zwx> car"
PROBE = Probe(PROMPT, 32)


def word(world, name: str, token: str, seed: int, vectors: int) -> None:
    """The vectors of a new word, far from those of the base, in the folder of an adapter."""
    draw = torch.Generator().manual_seed(seed)
    attached = ComponentAdapter(Embedding(token=token, initializer="dog", vectors=vectors), (),
                                {token: torch.randn(vectors, 32, generator=draw)})
    formats()["embedding"].write(world.home / name, SD, {"trigger": attached}, world.fresh)


@pytest.fixture(scope="module")
def two(world):
    """A LoRA beside <sks> of two vectors, a LoKr beside <zwx>; and a whole component without a word."""
    kinds = {"with-sks": ("lora", "diffusers"), "with-zwx": ("lokr", "kohya"), "wordless": ("full", "component")}
    for i, (name, (kind, form)) in enumerate(kinds.items()):
        world.write(name, form, world.adapters(kind, 20 + i))
    word(world, "with-sks", "<sks>", 1, 2)
    word(world, "with-zwx", "<zwx>", 2, 1)
    return {name: find_adapter(str(world.home / name)) for name in kinds}


def test_each_knows_its_own_word_only_and_the_base_none(world, two) -> None:
    model = world.fresh()
    blend, base = Blend(model), PROBE.predict(model)
    table = model.pipeline.text_encoder.get_input_embeddings()
    size, length = tuple(table.weight.shape), len(model.pipeline.tokenizer)
    for name in ("with-sks", "with-zwx", "wordless", "with-sks"):
        blend.apply([two[name]])
        alone = world.fresh()
        Blend(alone).apply([two[name]])
        assert torch.equal(PROBE.predict(model), PROBE.predict(alone))
        known = {token for token in model.pipeline.tokenizer.get_vocab() if token in ("<sks>", "<sks>_1", "<zwx>")}
        assert known == {"with-sks": {"<sks>", "<sks>_1"}, "with-zwx": {"<zwx>"}}.get(name, set())
    blend.restore()
    assert torch.equal(PROBE.predict(model), base)
    assert (tuple(table.weight.shape), len(model.pipeline.tokenizer)) == (size, length)
    assert model.pipeline.text_encoder.config.vocab_size == table.num_embeddings == size[0]


def test_it_is_what_diffusers_reads(world, two) -> None:
    theirs, ours = world.fresh(), world.fresh()
    theirs.pipeline.load_textual_inversion(str(world.home / "with-sks" / "embeddings" / "sks.safetensors"))
    theirs.pipeline.load_lora_weights(str(world.home / "with-sks"))
    Blend(ours).apply([two["with-sks"]])
    assert (PROBE.predict(ours) - PROBE.predict(theirs)).abs().max() < 1e-4
    bare = world.fresh()
    Blend(bare).apply([find_adapter(str(world.home / "with-sks" / "pytorch_lora_weights.safetensors"))])
    assert torch.equal(PROBE.predict(bare), PROBE.predict(ours)), "its word lies beside the file, too"


def test_pictures_of_two_that_are_swapped_are_those_of_each_alone(world, two, monkeypatch) -> None:
    wish = SampleRequest(PROMPT, count=1, seed=3, steps=2, guidance=2.0, resolution=32, each=True)
    adapters = [two["with-sks"], two["with-zwx"]]
    loads, load = [], type(SD).load
    monkeypatch.setattr(type(SD), "load", lambda self, *a, **k: loads.append(1) or load(self, *a, **k))
    together = draw(wish, adapters, world.at_hand, world.at_hand.load(device="cpu"), lambda *_: None)
    assert len(loads) == 1
    pictures = [row[0].tobytes() for row in together.values()]
    alone = [draw(wish, [a], world.at_hand, world.at_hand.load(device="cpu"), lambda *_: None) for a in adapters]
    assert pictures[1:] == [list(own.values())[1][0].tobytes() for own in alone]
    assert pictures[0] == next(iter(alone[0].values()))[0].tobytes() and len(set(pictures)) == 3


def test_both_together_know_both_words_and_one_word_of_two_is_refused(world, two, tmp_path) -> None:
    assert set(find_words([two["with-sks"], two["with-zwx"]], SD)) == {"<sks>", "<zwx>"}
    model = world.fresh()
    Blend(model).apply([two["with-sks"], two["with-zwx"]])
    assert {"<sks>", "<zwx>"} <= model.pipeline.tokenizer.get_vocab().keys()
    world.write("also-sks", "kohya", world.adapters("lora", 25, "denoiser"))
    word(world, "also-sks", "<sks>", 5, 1)
    other = find_adapter(str(world.home / "also-sks"))
    with pytest.raises(UsageError, match=r"both have a word <sks>.*\n.*--each"):
        Blend(world.fresh()).apply([two["with-sks"], other])
    said = uncarried_words([other], SD)
    assert said == (f"the word <sks>, which stays in {other.place}",)


def test_a_word_alone_is_drawn_with_and_made_nothing_else_of(world, tmp_path, monkeypatch) -> None:
    (world.home / "lone").mkdir(exist_ok=True)
    word(world, "lone", "<sks>", 7, 1)
    for place in ("lone", "lone/embeddings", "lone/embeddings/sks.safetensors"):
        one = find_adapter(str(world.home / place))
        assert one.form.NAME == "embedding" and set(one.components(SD)) == {"trigger"}
        model = world.fresh()
        base = PROBE.predict(model)
        Blend(model).apply([one])
        assert (PROBE.predict(model) - base).abs().max() > 1e-3
    for words, why in ((("convert", str(one.place), "--to", "peft"), "which cannot be converted"),
                       (("merge", str(one.place), "-o", str(tmp_path / "x"), "--how", "full", "--base",
                         str(world.home / "base")), "change no weight"),
                       (("merge", str(one.place), str(one.place), "-o", "x", "--base", str(world.home / "base")),
                        "found embedding on the trigger in sks")):
        with pytest.raises(UsageError, match=why):
            app_for(words)(list(words), standalone_mode=False)
