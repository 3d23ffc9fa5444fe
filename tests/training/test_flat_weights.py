"""Do flat weights learn what the parameters by themselves would, and do those without a gradient stay as they are?"""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from dbrun.options.optimizers import AdamW
from dbrun.training.flat_weights import MAX_SIZE, FlatWeights, global_norm
from dbrun.training.optimizer_state import load_state, state_tensors, state_values

SHAPES = ((3, 5), (7,), (2, 2, 2), (1,), (9, 3))
CHOICE = AdamW(weight_decay=0.3)


def start(*, flatten: bool = True) -> tuple[list[nn.Parameter], FlatWeights, torch.optim.Optimizer]:
    draw = torch.Generator().manual_seed(1)
    parameters = [nn.Parameter(torch.randn(shape, generator=draw)) for shape in SHAPES]
    flat = FlatWeights(parameters, flatten=flatten)
    return parameters, flat, CHOICE.build([{"params": flat.weights}], 0.05)


def go(parameters: Sequence[nn.Parameter], flat: FlatWeights, optimizer: torch.optim.Optimizer,
       unreached: Sequence[set[int]], first: int = 0) -> None:
    """A step for each entry of `unreached`: the numbers of the parameters that get no gradient in it."""
    for step, missing in enumerate(unreached, first):
        draw = torch.Generator().manual_seed(step)
        for number, parameter in enumerate(parameters):
            gradient = torch.randn(parameter.shape, generator=draw)
            parameter.grad = None if number in missing else gradient
        flat.gather_grads(optimizer, 0)
        optimizer.step()
        optimizer.zero_grad()
        assert all(parameter.grad is None for parameter in parameters)


ALL: set[int] = set()
STEPS = pytest.mark.parametrize("unreached", [
    [ALL] * 6, [{4}] * 6, [{2}] * 6, [{0, 1}] * 3 + [{1}] * 3, [ALL, ALL, {3}, ALL, {0, 1, 2, 3, 4}, {1}]])


@STEPS
def test_they_learn_what_each_parameter_would_by_itself(unreached: list[set[int]]) -> None:
    ours, theirs = start(), start(flatten=False)
    assert len(ours[1].weights) == 1 and theirs[1].weights == theirs[0]
    go(*ours, unreached), go(*theirs, unreached)
    for one, other in zip(ours[0], theirs[0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    untouched = start()[0]
    for number in set.intersection(*unreached):
        assert torch.equal(ours[0][number], untouched[number]), "weight decay must not reach it either"


@STEPS
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_resumed_they_end_in_the_same_bits(unreached: list[set[int]], stop: int) -> None:
    through, first, second = start(), start(), start()
    go(*through, unreached), go(*first, unreached[:stop])
    for one, as_it_was in zip(second[0], first[0], strict=True):
        one.data.copy_(as_it_was)
    second[1].split(first[1].lengths, second[2], 0)
    load_state(second[2], state_tensors(first[2]), state_values(first[2]))
    go(*second, unreached[stop:], stop)
    assert all(torch.equal(one, other) for one, other in zip(through[0], second[0], strict=True))
    a, b = state_tensors(through[2]), state_tensors(second[2])
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_large_parameter_stands_alone_and_keeps_its_memory() -> None:
    parameters = [nn.Parameter(torch.zeros(size)) for size in (4, MAX_SIZE + 1, 5)]
    there = parameters[1].data_ptr()
    flat = FlatWeights(parameters, flatten=True)
    assert flat.lengths == [2, 1] and flat.weights[1] is parameters[1] and parameters[1].data_ptr() == there
    with torch.no_grad():
        flat.weights[0] += torch.arange(9)
    assert parameters[0].tolist() == [0, 1, 2, 3] and parameters[2].tolist() == [4, 5, 6, 7, 8]


def test_the_norm_of_millions_of_numbers_is_right_to_six_digits() -> None:
    gradients: list[Tensor] = [torch.randn(3_000_001), torch.randn(3, 5), torch.randn(4096), torch.zeros(0)]
    norm = torch.cat([gradient.double().reshape(-1) for gradient in gradients]).norm()
    torch.testing.assert_close(global_norm(gradients).double(), norm, rtol=1e-6, atol=0.0)
