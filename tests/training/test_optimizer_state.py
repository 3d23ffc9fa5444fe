"""Does every optimizer go on to the same bits after its state has been in a file?"""

from pathlib import Path

import pytest
import torch

from dbrun.options.optimizers import OptimizerChoice, types
from dbrun.training.checkpoint import Checkpoint, newest, publish
from dbrun.training.optimizer_state import put_back, tensors_of, values_of

SHAPES = ((70, 80), (5, 6), (7,))


def start(choice: OptimizerChoice) -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
    """Three parameters in two groups, large and small, one of them zero as a LoRA's B is."""
    draw = torch.Generator().manual_seed(1)
    weights = [torch.nn.Parameter(torch.randn(shape, generator=draw)) for shape in SHAPES]
    weights[1].data.zero_()
    return weights, choice.build([{"params": weights[:2]}, {"params": weights[2:]}], 0.05)


def go(weights: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer, steps: range) -> None:
    """The first step has a rate of zero; from step 5 on the second group learns no more."""
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        for number, weight in enumerate(weights):
            weight.grad = None if number == 2 and step >= 5 else torch.randn(weight.shape, generator=draw)
        for number, group in enumerate(optimizer.param_groups):
            group["lr"] = 0.05 * min(step, 3) / 3 if number == 0 or step < 5 else 0.0
        optimizer.step()


@pytest.mark.parametrize("stop", [0, 1, 4, 6])
@pytest.mark.parametrize("kind", types(), ids=lambda k: k.NAME)
def test_it_goes_on_to_the_same_bits(kind: type[OptimizerChoice], stop: int, tmp_path: Path) -> None:
    if kind.PACKAGE and not kind.PACKAGE.installed:
        pytest.skip(kind.PACKAGE.command)
    choice = kind(type=kind.NAME)
    unbroken, through = start(choice)
    go(unbroken, through, range(9))
    first, optimizer = start(choice)
    go(first, optimizer, range(stop))
    publish(tmp_path, Checkpoint(stop, tensors_of(optimizer), {"optimizer": values_of(optimizer)}), keep=1)
    found, _ = newest(tmp_path, at_most=stop)
    assert found is not None
    second, anew = start(choice)
    for weight, as_it_was in zip(second, first, strict=True):
        weight.data.copy_(as_it_was)
    put_back(anew, found.tensors, found.values["optimizer"])
    go(second, anew, range(stop, 9))
    assert all(torch.equal(a, b) for a, b in zip(unbroken, second, strict=True))
    a, b = (tensors_of(o) for o in (through, anew))
    assert values_of(through) == values_of(anew)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)
    with choice.leaving(through), choice.leaving(anew):
        assert all(torch.equal(a, b) for a, b in zip(unbroken, second, strict=True))


def test_what_json_cannot_hold_is_refused() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    optimizer.state[weight]["odd"] = object()
    with pytest.raises(TypeError, match="object as odd"):
        values_of(optimizer)
