"""Do steps that replay a CUDA graph come to the same weights? On the CPU, by a stand-in that does what torch documents.

The stand-in keeps what matters of a graph: inputs, outputs and gradients lie in memory of its own, which the next
replay writes over.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from representatives import cases
from tiny_steps import batch, trainer, weights
from tiny_training import FAMILY
from torch import Tensor, nn

from dbrun.training.cuda_graph import GraphedDenoiser
from dbrun.training.loop import Trainer
from dbrun.training.speedups import Speedups

KEPT = ("inputs",)
"""What a replay takes anew each time, beside gradients."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("graph")
    FAMILY.write_tiny_base(place / "base")
    return place


def make_graphed(taken: Sequence[str] = tuple(KEPT)) -> Callable[..., object]:
    """`torch.cuda.make_graphed_callables` on a CPU. taken: of KEPT, else a graph that forgets to take it."""

    def graphed(module: nn.Module, samples: Sequence[Tensor], *, allow_unused_input: bool, pool: object) -> object:
        assert allow_unused_input and not torch.is_autocast_cache_enabled()
        learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
        static = [sample.detach().clone().requires_grad_(sample.requires_grad) for sample in samples]
        wanted = [tensor for tensor in (*static, *learning) if tensor.requires_grad]
        memory = [torch.zeros_like(tensor) for tensor in wanted]
        output = module(*static).detach().clone()

        class Replay(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *given: Tensor) -> Tensor:
                with torch.no_grad():
                    for mine, new in zip(static, given, strict=False):
                        if "inputs" in taken:
                            mine.copy_(new)
                with torch.enable_grad():
                    ctx.out = module(*static)
                output.copy_(ctx.out.detach())
                return output.detach()

            @staticmethod
            def backward(ctx: Any, *gradients: Tensor) -> Any:
                found = torch.autograd.grad(ctx.out, wanted, gradients[0], allow_unused=True)
                for place, new in zip(memory, found, strict=True):
                    if new is not None:
                        place.copy_(new)
                left = iter(memory)
                return tuple(next(left).detach() if tensor.requires_grad else None for tensor in (*static, *learning))

        return lambda *given: Replay.apply(*given, *learning)

    return graphed


def graphed_trainer(home: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., object],
                    **changes: Any) -> tuple[Trainer, GraphedDenoiser, list[str]]:
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    made, notes = trainer(home, **changes), list[str]()
    denoiser = GraphedDenoiser(made.model, "fp32", notes.append)
    assert not denoiser.is_on and "needs an NVIDIA GPU, and this runs on cpu" in notes.pop()
    denoiser.is_on = True
    made.speedups = Speedups(graphed=denoiser)
    return made, denoiser, notes


def steps(made: Trainer, accumulation: int) -> Trainer:
    for step in range(2):
        made.step([batch(accumulation * step + slot) for slot in range(accumulation)])
    return made


@pytest.mark.parametrize("accumulation", cases([1, 3], 1))
def test_replayed_steps_are_the_plain_steps(home: Path, monkeypatch: pytest.MonkeyPatch, accumulation: int) -> None:
    plain = steps(trainer(home), accumulation)
    replayed, denoiser, notes = graphed_trainer(home, monkeypatch, make_graphed())
    steps(replayed, accumulation)
    assert denoiser.is_on and len(denoiser._graphs) == 1 and not notes
    # what has no gradient is no part of the graph
    denoiser._graphs = dict.fromkeys(denoiser._graphs, lambda *given: pytest.fail("replayed"))
    with torch.no_grad():
        assert replayed.loss(batch()).total.isfinite()
    for name, weight in weights(plain).items():
        torch.testing.assert_close(weights(replayed)[name], weight, msg=name)


def test_a_graph_that_takes_old_inputs_is_found_and_turned_off(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = steps(trainer(home), 1)
    replayed, denoiser, notes = graphed_trainer(home, monkeypatch, make_graphed(("outputs", "gradients")))
    steps(replayed, 1)
    assert not denoiser.is_on and len(notes) == 1 and "a graph gives another gradient" in notes[0]
    assert all(weights(replayed)[name].equal(weight) for name, weight in weights(plain).items())


def test_where_no_graph_can_be_made_steps_are_plain(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object, **named: object) -> object:
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors …")

    plain = steps(trainer(home), 1)
    replayed, denoiser, notes = graphed_trainer(home, monkeypatch, refuse)
    steps(replayed, 1)
    assert notes == ["`train.graph`: no graph could be made (operation not permitted when stream is capturing); steps "
                     "run without one"] and not denoiser.is_on
    assert all(weights(replayed)[name].equal(weight) for name, weight in weights(plain).items())
