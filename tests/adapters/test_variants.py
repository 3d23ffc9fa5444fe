"""Do LoRA's variants compute what their papers say, and does each of their settings show? In 64 bits, by hand."""

import math

import pytest
import torch

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.attach import attach, disable_adapter, read_weights
from dbrun.adapters.lora import Lora
from dbrun.adapters.pissa import principal_factors

CLOSE = 1e-6
"""Largest difference between a weight of size 1 as applied in 32 bits and the formula in 64; measured 1.3e-7."""


def lora(**settings: object) -> Lora:
    return Lora.model_validate({"type": "lora", "rank": 2, **settings})


def product(state: dict[str, torch.Tensor], before: str = "") -> torch.Tensor:
    a, b = state[f"{before}lora_A.weight"], state[f"{before}lora_B.weight"]
    return (b.flatten(1) @ a.flatten(1)).reshape(b.shape[0], *a.shape[1:])


@pytest.mark.parametrize(("settings", "scale"), [
    ({}, 1.0), ({"alpha": 5.0}, 2.5), ({"rank": 4, "alpha": 3.0, "rslora": True}, 1.5),
    ({"rank": 3, "rslora": True}, math.sqrt(3))])
@pytest.mark.parametrize("layer", ["linear", "conv"])
def test_the_update_is_scaled_by_rank_or_its_root(worn, request, settings, scale, layer) -> None:
    got = worn(lora(**settings), request.getfixturevalue(layer))
    assert got.adapter.scale == pytest.approx(scale)
    torch.testing.assert_close(got.delta(), scale * product(got.state), rtol=0, atol=CLOSE)


@pytest.mark.parametrize("layer", ["linear", "conv"])
def test_dora_learns_magnitude_and_direction_apart(worn, request, layer) -> None:
    """W' = m (W + s B A) / |W + s B A|, a norm for each output (arXiv:2402.09353, eq. 5)."""
    got = worn(lora(alpha=3.0, dora=True), request.getfixturevalue(layer))
    direction = got.bare.double() + 1.5 * product(got.state)
    norm = direction.flatten(1).norm(dim=1)
    magnitude = got.state["lora_magnitude_vector"].flatten()
    one_each = (-1, *[1] * (direction.ndim - 1))
    expected = direction * (magnitude / norm).reshape(one_each)
    torch.testing.assert_close(got.weight(), expected, rtol=0, atol=CLOSE)


def test_dora_begins_with_the_norms_of_the_weights(worn, linear) -> None:
    first = worn(lora(dora=True), linear).first["0.lora_magnitude_vector"]
    torch.testing.assert_close(first, linear.weight.norm(dim=1))


@pytest.mark.parametrize("settings", [{}, {"alpha": 5.0}, {"alpha": 5.0, "rslora": True}])
def test_pissa_begins_with_the_main_directions_and_takes_them_off(worn, linear, settings) -> None:
    """s B0 A0 is W cut to its largest singular values; after learning W acts as W - s B0 A0 + s B A."""
    got = worn(lora(start="pissa", **settings), linear)
    first = {name.replace("0.", ""): t.double() for name, t in got.first.items()}
    u, s, vt = torch.linalg.svd(got.bare.double(), full_matrices=False)
    cut, scale = u[:, :2] * s[:2] @ vt[:2], got.adapter.scale
    torch.testing.assert_close(scale * product(first), cut, rtol=0, atol=CLOSE)
    torch.testing.assert_close(scale * product(first, "start/"), -cut, rtol=0, atol=CLOSE)
    torch.testing.assert_close(got.delta(), scale * product(got.state) - cut, rtol=0, atol=CLOSE)


def test_pissa_leaves_as_a_plain_lora_of_twice_the_rank(worn, linear) -> None:
    adapter = lora(start="pissa", alpha=5.0, rslora=True)
    got = worn(adapter, linear)
    state = read_weights(got.net)
    config, out = adapter.to_peft(("0",), state)
    assert (config.r, config.use_rslora, config.use_dora, config.init_lora_weights) == (4, False, False, True)
    assert config.lora_alpha / config.r == pytest.approx(adapter.scale)
    for tensors, scale in ((out, adapter.scale), (adapter.to_lora(state), 1.0)):
        assert {name: tuple(t.shape) for name, t in tensors.items()} == {
            "0.lora_A.weight": (4, 12), "0.lora_B.weight": (8, 4)}
        whole = product({name.removeprefix("0."): t.double() for name, t in tensors.items()})
        torch.testing.assert_close(scale * whole, got.delta(), rtol=0, atol=CLOSE)


def test_pissa_of_a_rank_beyond_the_layer_begins_as_the_base_and_can_learn_in_all_of_it(linear) -> None:
    net = torch.nn.Sequential(linear)
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    plain = net(x).detach()
    attach(net, lora(rank=10, start="pissa"), ("0",), seed=1)
    torch.testing.assert_close(net(x), plain, rtol=0, atol=CLOSE)
    state = read_weights(net)
    assert state["0.lora_A.weight"].shape == (10, 12) and state["0.lora_A.weight"].abs().sum(1).gt(0).all()


def test_pissa_leaves_the_bases_weights_alone_and_switched_off_is_the_base(linear) -> None:
    before, net = linear.weight.detach().clone(), torch.nn.Sequential(linear)
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    plain = net(x).detach()
    attach(net, lora(start="pissa"), ("0",), seed=1)
    assert torch.equal(net[0].get_base_layer().weight, before)
    with disable_adapter(net):
        assert torch.equal(net(x), plain)
    trains = [name for name, p in net.named_parameters() if p.requires_grad]
    assert trains == ["0.lora_A.default.weight", "0.lora_B.default.weight"]


def test_main_directions_do_not_depend_on_the_thread_count() -> None:
    weight = torch.randn(96, 80, generator=torch.Generator().manual_seed(0))
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(principal_factors(weight, 4))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_what_is_at_its_default_leaves_the_document_as_it_was() -> None:
    adapter = lora(alpha=2.0).resolved_for(("0",))
    assert adapter.to_json() == {"type": "lora", "rank": 2, "alpha": 2.0, "dropout": 0.0}
    changed = lora(dora=True, rslora=True, start="pissa").to_json()
    assert (changed["dora"], changed["rslora"], changed["start"]) == (True, True, "pissa")


def test_pissa_goes_through_a_folder(net, x, tmp_path) -> None:
    import copy

    from dbrun.adapters.adapter_io import read_adapters, write_adapters

    fresh, modules = copy.deepcopy(net), ("down.0.to_q", "down.1.to_q")
    adapter = lora(start="pissa").resolved_for(modules)
    attach(net, adapter, modules, seed=1)
    write_adapters(tmp_path, {"denoiser": ComponentAdapter(adapter, modules, read_weights(net))})
    read_adapters(tmp_path)["denoiser"].attach_to(fresh)
    assert torch.equal(fresh(x), net(x))
