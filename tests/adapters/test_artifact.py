"""Does a folder hold adapters exactly, and equal adapters as equal bytes?"""

import torch

from dbrun.adapters.artifact import Attached, read_artifact, write_artifact
from dbrun.adapters.attach import attach, read
from dbrun.adapters.lora import Lora


def attached(net) -> Attached:
    adapter = Lora.model_validate({"type": "lora", "rank": 2, "alpha": 3.0, "targets": ("to_q", "conv_in")})
    modules = ("conv_in", "down.0.to_q", "down.1.to_q")
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
