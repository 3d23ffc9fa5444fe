"""Does a folder hold adapters exactly, and equal adapters as equal bytes?"""

import torch

from dbrun.adapters.adapter_io import ComponentAdapter, read_adapters, write_adapters
from dbrun.adapters.attach import attach, read_weights
from dbrun.adapters.lora import Lora


def attached(net) -> ComponentAdapter:
    modules = ("conv_in", "down.0.to_q", "down.1.to_q")
    asked = Lora.model_validate({"type": "lora", "rank": 2, "alpha": 3.0, "targets": ("to_q", "conv_in")})
    adapter = asked.resolved_for(modules)
    attach(net, adapter, modules, seed=1)
    return ComponentAdapter(adapter, modules, read_weights(net))


def test_what_is_written_is_read(net, tmp_path) -> None:
    original = attached(net)
    write_adapters(tmp_path, {"denoiser": original, "text_encoder": original})
    back = read_adapters(tmp_path)
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
        adapter = Lora.model_validate(words).resolved_for(modules)
        write_adapters(tmp_path / name, {"denoiser": ComponentAdapter(adapter, modules, state)})
    assert (tmp_path / "a" / "adapter.json").read_bytes() == (tmp_path / "b" / "adapter.json").read_bytes()


def test_equal_adapters_are_equal_bytes(net, tmp_path) -> None:
    original = attached(net)
    shuffled = ComponentAdapter(original.adapter, original.modules, dict(reversed(original.state.items())))
    for name, one in (("a", original), ("b", shuffled)):
        (tmp_path / name).mkdir()
        write_adapters(tmp_path / name, {"denoiser": one})
    for file in ("denoiser.safetensors", "adapter.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_onto_gives_a_fresh_module_the_same_answer(net, x) -> None:
    import copy
    fresh = copy.deepcopy(net)
    original = attached(net)
    trained = ComponentAdapter(original.adapter, original.modules, {k: t + 0.1 for k, t in original.state.items()})
    plain = fresh(x)
    trained.attach_to(fresh)
    from dbrun.adapters.attach import write_weights
    write_weights(net, trained.state)
    assert torch.equal(fresh(x), net(x)) and not torch.allclose(fresh(x), plain)
