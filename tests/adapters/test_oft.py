"""Does OFT turn, and nothing else, and does each of its settings show? In 64 bits, by hand."""

import pytest
import torch

from dbrun.adapters.oft import Oft

CLOSE = 1e-6
"""Largest difference between a weight of size 1 as turned in 32 bits and the formula in 64; measured 4.5e-8."""


def oft(**settings: object) -> Oft:
    return Oft.model_validate({"type": "oft", **settings})


def turns(state: dict[str, torch.Tensor], size: int) -> list[torch.Tensor]:
    """Cayley's (I - Q)(I + Q)^-1 of each block; Q's upper triangle is stored row by row."""
    found = []
    for row in state["oft_R.weight"]:
        upper = torch.zeros(size, size, dtype=torch.float64)
        upper[tuple(torch.triu_indices(size, size, 1))] = row
        skew, one = upper - upper.T, torch.eye(size, dtype=torch.float64)
        found.append((one - skew) @ torch.linalg.inv(one + skew))
    return found


@pytest.mark.parametrize(("settings", "blocks"), [
    ({"block_size": 4}, 3), ({"block_size": 2}, 6), ({"block_size": 4, "share": True}, 1)])
def test_a_weights_inputs_are_turned_in_blocks(worn, linear, settings, blocks) -> None:
    got = worn(oft(**settings), linear)
    size = settings["block_size"]
    assert got.shapes() == {"oft_R.weight": (blocks, size * (size - 1) // 2)}
    each = turns(got.state, size)
    whole = torch.block_diag(*(each * (12 // size) if len(each) == 1 else each))
    torch.testing.assert_close(got.weight(), got.bare.double() @ whole.T, rtol=0, atol=CLOSE)
    torch.testing.assert_close(whole @ whole.T, torch.eye(12, dtype=torch.float64))


def test_the_angles_between_outputs_stay(worn, linear) -> None:
    """What makes it orthogonal: W W^T is as it was, to rounding; a series in place of the inverse misses by 1e-2."""
    got = worn(oft(block_size=4), linear)
    bare, turned = got.bare.double(), got.weight()
    assert (turned - bare).abs().max() > 0.05
    torch.testing.assert_close(turned @ turned.T, bare @ bare.T, rtol=0, atol=2 * CLOSE)


def test_a_block_size_that_does_not_divide_is_refused_with_one_that_does(linear) -> None:
    shapes = {"down": linear.weight.shape, "up": (2, 16)}
    assert oft(block_size=8).layer_problem(shapes) == (
        "block_size", "found 8, which does not divide the 12 inputs of `down`", "write a divisor of 4")
    assert oft(block_size=4).layer_problem(shapes) is None
    field, message, fix = oft(block_size=4).layer_problem({"wide": (8, 4), "sum": (1, 12)})
    assert field == "targets" and "found `sum`, which has one output" in message and "blocks" in fix
    field, message, _ = oft(block_size=4).layer_problem({"conv": (8, 4, 3, 3)})
    assert field == "targets" and "found convolutions among its 1 layers, such as `conv`" in message
