"""Does every optimizer go on to the same bits after its state has been in a file?"""

from pathlib import Path

import pytest
import torch

from dbrun.options.optimizers import OptimizerOptions, optimizer_types
from dbrun.training.checkpoint import Checkpoint, load_newest, save_checkpoint
from dbrun.training.optimizer_state import load_state, state_tensors, state_values

SHAPES = ((70, 80), (5, 6), (7,))


def start(choice: OptimizerOptions) -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
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
@pytest.mark.parametrize("kind", optimizer_types(), ids=lambda k: k.NAME)
def test_it_goes_on_to_the_same_bits(kind: type[OptimizerOptions], stop: int, tmp_path: Path) -> None:
    if kind.REQUIRED_PACKAGE and not kind.REQUIRED_PACKAGE.is_installed:
        pytest.skip(kind.REQUIRED_PACKAGE.install_command)
    choice = kind(type=kind.NAME)
    unbroken, through = start(choice)
    go(unbroken, through, range(9))
    first, optimizer = start(choice)
    go(first, optimizer, range(stop))
    save_checkpoint(tmp_path, Checkpoint(stop, state_tensors(optimizer), {"optimizer": state_values(optimizer)}),
                    keep=1)
    found, _ = load_newest(tmp_path, at_most=stop)
    assert found is not None
    second, anew = start(choice)
    for weight, as_it_was in zip(second, first, strict=True):
        weight.data.copy_(as_it_was)
    load_state(anew, found.tensors, found.values["optimizer"])
    go(second, anew, range(stop, 9))
    assert all(torch.equal(a, b) for a, b in zip(unbroken, second, strict=True))
    a, b = (state_tensors(o) for o in (through, anew))
    assert state_values(through) == state_values(anew)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)
    with choice.eval_weights(through), choice.eval_weights(anew):
        assert all(torch.equal(a, b) for a, b in zip(unbroken, second, strict=True))


def test_what_json_cannot_hold_is_refused() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    optimizer.state[weight]["odd"] = object()
    with pytest.raises(TypeError, match="`odd` is of type object"):
        state_values(optimizer)
