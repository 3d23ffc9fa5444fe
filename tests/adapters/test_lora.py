"""Does each of LoRA's settings show?"""

import pytest
import torch
from pydantic import ValidationError

from dbrun.adapters.attach import attach, read_weights, write_weights
from dbrun.adapters.lora import Lora


def lora(**settings: object) -> Lora:
    return Lora.model_validate({"type": "lora", **settings})


def test_rank_is_the_inner_dimension(net) -> None:
    attach(net, lora(rank=3), ("down.0.to_q",), seed=0)
    assert read_weights(net)["down.0.to_q.lora_A.weight"].shape == (3, 8)


def test_the_update_is_scaled_by_alpha_over_rank(net, x) -> None:
    """W x + (alpha / rank) B A x, recomputed by hand on one linear layer."""
    layer = torch.nn.Sequential(torch.nn.Linear(8, 8))
    h = torch.randn(2, 8)
    plain = layer(h)
    adapter = lora(rank=2, alpha=6.0)
    attach(layer, adapter, ("0",), seed=0)
    a, b = torch.randn(2, 8), torch.randn(8, 2)
    write_weights(layer, {"0.lora_A.weight": a, "0.lora_B.weight": b})
    assert torch.allclose(layer(h), plain + 3.0 * h @ a.T @ b.T, atol=1e-5)
    assert adapter.scale == 3.0 and lora(rank=5).scale == 1.0


def test_dropout_acts_in_training_only(net, x) -> None:
    attach(net, lora(rank=2, dropout=0.5), ("conv_in",), seed=0)
    write_weights(net, {k: torch.ones_like(t) for k, t in read_weights(net).items()})
    net.train()
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_unknown_presets_and_bad_numbers_are_refused() -> None:
    for wrong in ({"targets": "atention"}, {"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}, {"rnk": 4}):
        with pytest.raises(ValidationError):
            lora(**wrong)
