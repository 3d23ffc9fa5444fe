"""Do adapters of every format and type go into one base and out again, each as if it were alone?"""

import pytest
import torch

from dbrun.errors import RecipeError, UsageError
from dbrun.formats.base import formats
from dbrun.formats.roundtrip import Probe
from dbrun.models.base import families
from dbrun.use.adapter_files import AdapterFile, find_adapter, split_adapters_and_prompt
from dbrun.use.blend import Blend
from dbrun.use.sample import SampleRequest, draw

SD, PROBE = families()["sd"], Probe("a photo of sks dog", 32)


@pytest.fixture(scope="module")
def three(world):
    """A DoRA in diffusers' format, a LoHa in kohya's, an OFT in PEFT's; and what each of them predicts alone."""
    taught = {"a": ("dora", "diffusers"), "b": ("loha", "kohya"), "c": ("oft", "peft")}
    found = {}
    for i, (name, (kind, form)) in enumerate(taught.items()):
        adapters = world.adapters(kind, i)
        found[name] = (find_adapter(str(world.write(name, form, adapters))), world.alone(adapters))
    return found



def test_each_in_turn_is_what_it_is_alone_and_the_base_comes_back_to_the_bit(world, three) -> None:
    model = world.fresh()
    blend, base, loads = Blend(model), PROBE.predict(model), world.loads
    for name in ("a", "b", "c", "b", "a"):
        adapter, alone = three[name]
        blend.apply([adapter])
        assert (PROBE.predict(model) - alone).abs().max() < 1e-4 < 1e-2 < (alone - base).abs().max()
    blend.restore()
    assert torch.equal(PROBE.predict(model), base) and world.loads == loads


def test_three_adapters_in_one_process_draw_as_each_alone_over_a_base_loaded_once(world, three, monkeypatch) -> None:
    """The pictures themselves, through what `dbrun sample --each` calls."""
    calls = []
    load = type(SD).load
    monkeypatch.setattr(type(SD), "load", lambda self, *a, **k: calls.append(1) or load(self, *a, **k))
    wish = SampleRequest("a photo of sks dog", count=2, seed=3, steps=2, guidance=2.0, resolution=32, each=True)
    adapters = [adapter for adapter, _ in three.values()]
    together = draw(wish, adapters, world.at_hand, world.at_hand.load(device="cpu"), lambda *_: None)
    assert len(calls) == 1 and next(iter(together)) == "base" and len(together) == 4
    alone = [draw(wish, [a], world.at_hand, world.at_hand.load(device="cpu"), lambda *_: None) for a in adapters]
    for row, own in zip(list(together)[1:], alone, strict=True):
        assert [p.tobytes() for p in together[row]] == [p.tobytes() for p in list(own.values())[1]]
    pictures = [p.tobytes() for row in together.values() for p in row]
    assert len(set(pictures)) == len(pictures) == 8


def test_weights_scale_the_change_and_several_are_summed(world) -> None:
    """Of a plain LoRA, half the weight is the LoRA of half the alpha; two at once are both updates."""
    first, second = (world.adapters("lora", seed, "denoiser") for seed in (5, 6))
    paths = [world.write(f"sum{i}", "diffusers", a) for i, a in enumerate((first, second))]
    model = world.fresh()
    bare = {n: p.detach().clone() for n, p in model.pipeline.unet.named_parameters()}
    blend = Blend(model)
    blend.apply([find_adapter(f"{paths[0]}:0.5"), find_adapter(f"{paths[1]}:-2")])
    half, minus = first["denoiser"], second["denoiser"]
    for name in half.modules:
        change = model.pipeline.unet.get_parameter(f"{name}.weight") - bare[f"{name}.weight"]
        wanted = sum(w * (a.state[f"{name}.lora_B.weight"].flatten(1) @ a.state[f"{name}.lora_A.weight"].flatten(1))
                     for w, a in ((0.5, half), (-2, minus)))
        torch.testing.assert_close(change.flatten(1), wanted, rtol=0, atol=1e-5)


def test_a_whole_component_goes_in_and_out_as_an_adapter_does(world, three) -> None:
    """Full fine-tuning beside others: its weights are swapped, by any weight, and the base is not loaded again."""
    taught = world.adapters("full", 7)
    path, alone = world.write("whole", "component", taught), world.alone(taught)
    full = find_adapter(str(path.parents[2]))
    assert full.form.NAME == "component" and set(full.components(SD)) == {"denoiser", "text_encoder"}
    model = world.fresh()
    blend, base, loads = Blend(model), PROBE.predict(model), world.loads
    for adapters, expected in (([full], alone), ([three["b"][0]], three["b"][1]), ([full], alone)):
        blend.apply(adapters)
        assert (PROBE.predict(model) - expected).abs().max() < 1e-4 < 1e-2 < (expected - base).abs().max()
    blend.apply([find_adapter(f"{path.parent}:0.5")])
    name, learnt = next(iter(taught["denoiser"].state.items()))
    first = world.fresh().pipeline.unet.get_parameter(name)
    torch.testing.assert_close(model.pipeline.unet.get_parameter(name), first + 0.5 * (learnt - first), rtol=0,
                               atol=1e-6)
    blend.restore()
    assert torch.equal(PROBE.predict(model), base) and world.loads == loads + 1


def test_a_component_of_another_architecture_and_a_whole_base_are_no_adapters(world, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    path = world.write("odd", "component", world.adapters("full", 7, "denoiser"))
    save_file({n: t for n, t in load_file(path).items() if n != "conv_in.bias"}, path)
    with pytest.raises(RecipeError, match="holds another denoiser than the base has"):
        Blend(world.fresh()).apply([find_adapter(str(path.parent))])
    with pytest.raises(UsageError, match="holds no adapter"):
        find_adapter(str(world.home / "base" / "unet"))


def test_words_name_adapters_weights_and_a_prompt(world, three, tmp_path, monkeypatch) -> None:
    adapter, _ = three["a"]
    found, prompt = split_adapters_and_prompt([f"{adapter.place}:0.6", str(three["c"][0].place), "a photo: of sks dog"])
    assert [a.weight for a in found] == [0.6, 1.0] and prompt == "a photo: of sks dog"
    assert found[0].label == "pytorch_lora_weights:0.6" and found[1].form.NAME == "peft"
    assert set(found[1].components(SD)) == {"denoiser", "text_encoder"}
    for words, message in ((["x"], "found no prompt"), ([str(adapter.place)], "found no prompt"),
                           ([str(adapter.place), str(adapter.place)], "in the place of the prompt"),
                           (["nothing.safetensors", "a dog"], "does not exist"),
                           ([str(adapter.place), "a \x1b dog"], r"the character U\+001B"),
                           ([str(world.home / "base"), "a dog"], "holds no adapter"),
                           ([f"{adapter.place}:1e9", "a dog"], "the weight 1e9")):
        with pytest.raises(UsageError, match=message):
            split_adapters_and_prompt(words)


def test_an_adapter_of_another_base_is_refused_and_leaves_the_base_alone(world, tmp_path) -> None:
    from safetensors.torch import save_file

    save_file({"lora_unet_mid_block_nothing.lora_down.weight": torch.ones(1, 4),
               "lora_unet_mid_block_nothing.lora_up.weight": torch.ones(4, 1)}, tmp_path / "other.safetensors")
    model = world.fresh()
    base, blend = PROBE.predict(model), Blend(model)
    other = find_adapter(str(tmp_path / "other.safetensors"))
    assert isinstance(other, AdapterFile) and other.form.NAME == "kohya" and other.document == {}
    with pytest.raises(RecipeError, match=r"other\.safetensors: 1 of its layers are not in the base's denoiser"):
        blend.apply([other])
    # As diffusers names them: layers of the base, of other widths, and, in XL, more of them.
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.{}.attn1.to_q.lora_{}.weight"
    wide = {layer.format(0, "A"): torch.ones(2, 640), layer.format(0, "B"): torch.ones(640, 2)}
    more = {layer.format(n, side): torch.ones(2, 16) if side == "A" else torch.ones(16, 2)
            for n in (0, 1) for side in "AB"}
    for tensors, said in ((wide, r"xl\.safetensors: diffusers cannot put .* is \[2, 640\] in it, and \[2, 16\]"),
                          (more, r"finds no place on the base for 2 of its 4 weights; it is for Stable Diffusion XL")):
        save_file(tensors, tmp_path / "xl.safetensors")
        with pytest.raises(RecipeError, match=said):
            blend.apply([find_adapter(str(tmp_path / "xl.safetensors"))])
    assert torch.equal(PROBE.predict(model), base)
    assert formats()["kohya"].find_files(tmp_path) is None
