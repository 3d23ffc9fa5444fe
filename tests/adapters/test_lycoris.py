"""Do LoHa and LoKr compute what their papers say, and does each of their settings show? In 64 bits, by hand."""

import pytest
import torch
from torch import nn

from dbrun.adapters.attach import attach, read_weights, write_weights
from dbrun.adapters.loha import LoHa
from dbrun.adapters.lokr import LoKr

CLOSE = 1e-6
"""Largest difference between a weight of size 1 as applied in 32 bits and the formula in 64; measured 3.1e-8."""


def loha(**settings: object) -> LoHa:
    return LoHa.model_validate({"type": "loha", "rank": 2, **settings})


def lokr(**settings: object) -> LoKr:
    return LoKr.model_validate({"type": "lokr", "rank": 1, **settings})


def kernels(t: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A core T [r, r, k, k] times A [r, out] and B [r, in] along its first two axes (FedPara, proposition 3)."""
    whole = torch.zeros(a.shape[1], b.shape[1], *t.shape[2:], dtype=t.dtype)
    for i in range(t.shape[0]):
        for j in range(t.shape[1]):
            whole += a[i][:, None, None, None] * b[j][None, :, None, None] * t[i, j]
    return whole


def check_loha(got, scale: float) -> None:
    s = got.state
    if "hada_t1" in s:
        one, two = (kernels(s[f"hada_t{k}"], s[f"hada_w{k}_a"], s[f"hada_w{k}_b"]) for k in (1, 2))
    else:
        one, two = (s[f"hada_w{k}_a"] @ s[f"hada_w{k}_b"] for k in (1, 2))
    torch.testing.assert_close(got.delta(), (scale * one * two).reshape(got.bare.shape), rtol=0, atol=CLOSE)


@pytest.mark.parametrize(("settings", "scale"), [({}, 1.0), ({"rank": 3, "alpha": 1.5}, 0.5), ({"alpha": 6.0}, 3.0)])
@pytest.mark.parametrize("layer", ["linear", "conv"])
def test_loha_is_the_entrywise_product_of_two_products(worn, request, settings, scale, layer) -> None:
    got = worn(loha(**settings), request.getfixturevalue(layer))
    check_loha(got, scale)
    assert got.shapes()["hada_w1_b"] == (settings.get("rank", 2), got.bare[0].numel())


def test_loha_takes_a_kernel_apart_as_a_tensor_if_asked(worn, conv) -> None:
    got = worn(loha(alpha=1.0, effective_conv=True, targets="all"), conv)
    check_loha(got, 0.5)
    assert got.shapes()["hada_t1"] == (2, 2, 3, 3) and got.shapes()["hada_w1_b"] == (2, 6)


def check_lokr(got, scale: float) -> None:
    """kron(W1, W2), for a convolution at every place of the kernel."""
    s = got.state
    one = s["lokr_w1"] if "lokr_w1" in s else s["lokr_w1_a"] @ s["lokr_w1_b"]
    if "lokr_t2" in s:
        two = kernels(s["lokr_t2"], s["lokr_w2_a"], s["lokr_w2_b"])
    else:
        two = s["lokr_w2"] if "lokr_w2" in s else s["lokr_w2_a"] @ s["lokr_w2_b"]
    out, into = got.bare.shape[0] // one.shape[0], got.bare.shape[1] // one.shape[1]
    two = two.reshape(out, into, -1)
    whole = torch.stack([torch.kron(one, two[..., place]) for place in range(two.shape[-1])], dim=-1)
    torch.testing.assert_close(got.delta(), scale * whole.reshape(got.bare.shape), rtol=0, atol=CLOSE)


@pytest.mark.parametrize(("settings", "scale", "shapes"), [
    ({}, 1.0, {"lokr_w1": (2, 3), "lokr_w2_a": (4, 1), "lokr_w2_b": (1, 4)}),
    ({"alpha": 2.5}, 2.5, {"lokr_w1": (2, 3), "lokr_w2_a": (4, 1), "lokr_w2_b": (1, 4)}),
    ({"rank": 2, "alpha": 1.0}, 0.5, {"lokr_w1": (2, 3), "lokr_w2": (4, 4)}),
    ({"factor": 4}, 1.0, {"lokr_w1": (4, 4), "lokr_w2_a": (2, 1), "lokr_w2_b": (1, 3)}),
    ({"factor": 2}, 1.0, {"lokr_w1": (2, 2), "lokr_w2_a": (4, 1), "lokr_w2_b": (1, 6)}),
    ({"decompose_both": True}, 1.0, {"lokr_w1_a": (2, 1), "lokr_w1_b": (1, 3), "lokr_w2_a": (4, 1),
                                     "lokr_w2_b": (1, 4)}),
], ids=str)
def test_lokr_is_a_kronecker_product(worn, linear, settings, scale, shapes) -> None:
    got = worn(lokr(**settings), linear)
    check_lokr(got, scale)
    assert got.shapes() == shapes


@pytest.mark.parametrize("effective", [False, True])
def test_lokr_on_a_convolution(worn, effective) -> None:
    got = worn(lokr(alpha=2.0, effective_conv=effective, targets="all"), nn.Conv2d(12, 8, 3))
    check_lokr(got, 2.0)
    assert ("lokr_t2" in got.shapes()) is effective


@pytest.mark.parametrize("kind", [loha, lokr])
def test_dropout_leaves_out_a_layers_update_while_training(net, x, kind) -> None:
    layers = ("down.0.to_k", "down.0.to_q", "down.1.to_k", "down.1.to_q")
    plain = net(x)
    for dropout, answers in ((0.0, 1), (0.5, 3)):
        twin = type(net)()
        twin.load_state_dict(net.state_dict())
        attach(twin, kind(dropout=dropout), layers, seed=1)
        write_weights(twin, {name: torch.ones_like(t) for name, t in read_weights(twin).items()})
        torch.manual_seed(0)
        seen = {tuple(twin.train()(x).flatten().tolist()) for _ in range(20)}
        assert len(seen) >= answers and (dropout or len(seen) == 1)
        assert torch.equal(twin.eval()(x), twin(x)) and not torch.allclose(twin(x), plain)


@pytest.mark.parametrize("kind", [loha, lokr])
def test_a_dropout_that_may_leave_out_all_layers_is_refused(linear, kind) -> None:
    found = kind(dropout=0.1).layer_problem({str(i): linear.weight.shape for i in range(8)})
    assert found is not None and found[0] == "dropout" and "leave out all of them" in found[1]
    assert kind(dropout=0.1).layer_problem({str(i): linear.weight.shape for i in range(10)}) is None


def test_lokr_knows_how_peft_splits_a_side() -> None:
    from peft.tuners.lokr.layer import factorization

    for factor in (None, 2, 3, 4, 5, 8, 16, 100):
        adapter = lokr(factor=factor)
        for side in (*range(1, 200), 320, 640, 768, 1280, 2560):
            expected = factorization(side, -1 if factor is None else factor)[1]
            assert adapter._large_factor_side(side) == expected, (side, factor)
