"""Does a layer have other weights only while it computes?"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from dbrun.formats.layer_updates import remove_updates, update_while_computing

ROWS = torch.tensor([[1.0, 2.0]])


def updated_module() -> tuple[nn.Sequential, Tensor]:
    """A module whose only layer computes with twice its weights, and its own weights [1, 2]."""
    module = nn.Sequential(nn.Linear(2, 1, bias=False))
    layer = module[0]

    def twice() -> Mapping[str, Tensor]:
        return {"weight": 2.0 * layer.weight.detach()}

    update_while_computing(module, layer, twice)
    return module, layer.weight.detach().clone()


def test_it_computes_with_the_update_and_has_its_own_tensor_before_and_after() -> None:
    module, own = updated_module()
    tensor = module[0].weight.data
    for _ in range(2):
        assert torch.equal(module(ROWS), ROWS @ (2.0 * own).T)
        assert module[0].weight.data.data_ptr() == tensor.data_ptr() and torch.equal(module[0].weight, own)
    remove_updates(module)
    assert torch.equal(module(ROWS), ROWS @ own.T)


def test_a_layer_that_fails_has_its_own_weights_again() -> None:
    module, own = updated_module()
    with pytest.raises(RuntimeError):
        module(torch.ones(1, 3))
    assert torch.equal(module[0].weight, own)
