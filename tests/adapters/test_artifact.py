"""Does a folder hold adapters exactly, and equal adapters as equal bytes?"""

import torch

from dbrun.adapters.adapter_io import Attached, read_artifact, write_artifact
from dbrun.adapters.attach import attach, read
from dbrun.adapters.lora import Lora


def attached(net) -> Attached:
    modules = ("conv_in", "down.0.to_q", "down.1.to_q")
    asked = Lora.model_validate({"type": "lora", "rank": 2, "alpha": 3.0, "targets": ("to_q", "conv_in")})
    adapter = asked.decided(modules)
    attach(net, adapter, modules, seed=1)
    return Attached(adapter, modules, read(net))


def test_what_is_written_is_read(net, tmp_path) -> None:
    original = attached(net)
    write_artifact(tmp_path, {"denoiser": original, "text_encoder": original})
    back = read_artifact(tmp_path)
    assert list(back) == ["denoiser", "text_encoder"]
    for found in back.values():
        assert found.adapter == original.adapter and found.modules == original.modules
        assert all(torch.equal(found.state[k], original.state[k]) for k in original.state)


def test_two_ways_to_ask_for_an_adapter_are_equal_bytes(net, tmp_path) -> None:
    state, modules = attached(net).state, ("conv_in", "down.0.to_q", "down.1.to_q")
    asked = ({"type": "lora", "rank": 3, "alpha": 3.0, "targets": ("to_q", "conv_in")},
             {"type": "lora", "rank": 3, "targets": "all"})
    for name, words in zip("ab", asked, strict=True):
        (tmp_path / name).mkdir()
        adapter = Lora.model_validate(words).decided(modules)
        write_artifact(tmp_path / name, {"denoiser": Attached(adapter, modules, state)})
    assert (tmp_path / "a" / "adapter.json").read_bytes() == (tmp_path / "b" / "adapter.json").read_bytes()


def test_equal_adapters_are_equal_bytes(net, tmp_path) -> None:
    original = attached(net)
    shuffled = Attached(original.adapter, original.modules, dict(reversed(original.state.items())))
    for name, one in (("a", original), ("b", shuffled)):
        (tmp_path / name).mkdir()
        write_artifact(tmp_path / name, {"denoiser": one})
    for file in ("denoiser.safetensors", "adapter.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_onto_gives_a_fresh_module_the_same_answer(net, x) -> None:
    import copy
    fresh = copy.deepcopy(net)
    original = attached(net)
    trained = Attached(original.adapter, original.modules, {k: t + 0.1 for k, t in original.state.items()})
    plain = fresh(x)
    trained.onto(fresh)
    from dbrun.adapters.attach import write
    write(net, trained.state)
    assert torch.equal(fresh(x), net(x)) and not torch.allclose(fresh(x), plain)
