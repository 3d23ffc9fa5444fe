"""Do compiled blocks compute the same steps, and run uncompiled where the compiler fails?"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from projects import lay_out
from tiny_training import FAMILY, load, lora
from torch import Tensor, nn

from dbrun.diffusion.losses import Loss
from dbrun.models.base import families
from dbrun.training.compiled_blocks import _repeated_blocks, compiled_blocks


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("compiled")
    FAMILY.write_tiny_base(place / "base")
    return place


class Answers:
    """What a denoiser with a LoRA predicts, and its gradient, for latents of some shape."""

    def __init__(self, home: Path) -> None:
        model = load(home)
        lora("denoiser", model)
        self.denoiser: Any = model.denoiser
        with torch.no_grad():
            self.hidden = model.encode_prompts(["a photo of sks dog"])[0]["hidden"][None]

    def __call__(self, height: int) -> tuple[Tensor, Tensor]:
        x_t = torch.randn(1, 4, height, 8, generator=torch.Generator().manual_seed(0))
        out = self.denoiser(x_t, torch.tensor([3]), self.hidden).sample
        weights = [weight for weight in self.denoiser.parameters() if weight.requires_grad]
        gradients = torch.autograd.grad(out.square().mean(), weights)
        return out.detach(), torch.cat([gradient.reshape(-1) for gradient in gradients])


def test_where_the_compiler_fails_blocks_run_as_they_are_and_it_is_told_once(
        home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[object] = []

    def broken(name: str) -> Callable[..., object]:
        def compile_graph(graph: object, inputs: list[object]) -> object:
            assert all(isinstance(one, Tensor) for one in inputs), "no size is left open"
            graphs.append(graph)
            raise OSError("no compiler here\nand more")

        return compile_graph

    monkeypatch.setattr("torch._dynamo.lookup_backend", broken)
    answers, notes = Answers(home), list[str]()
    plain = answers(8)
    with compiled_blocks(answers.denoiser, "fp32", notes.append):
        found = answers(8)
        first = len(graphs)
        assert first, "the blocks were handed to the compiler"
        answers(8)
        assert len(graphs) == first, "a shape is compiled once"
        answers(16)
        assert len(graphs) > first, "and another shape by itself"
    assert all(one.equal(other) for one, other in zip(found, plain, strict=True))
    assert notes == ["`train.compile`: torch's compiler failed (no compiler here); blocks run uncompiled"]
    compiled = len(graphs)
    answers(24)
    assert len(graphs) == compiled, "nothing is compiled any more"


def test_a_denoiser_without_repeated_blocks_is_told() -> None:
    notes: list[str] = []
    with compiled_blocks(nn.Linear(2, 2), "fp32", notes.append):
        pass
    assert notes == ["`train.compile`: Linear has no repeated blocks; it runs uncompiled"]


@pytest.mark.parametrize("name", sorted(families()))
def test_every_family_names_blocks(name: str, tmp_path: Path) -> None:
    family = families()[name]
    family.write_tiny_base(tmp_path / "base")
    denoiser = family.load(tmp_path / "base", device=torch.device("cpu"), dtype=torch.float32).denoiser
    assert _repeated_blocks(denoiser)


class Block(nn.Module):
    """A linear layer whose class name stands in `Denoiser._repeated_blocks`."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape, with 4 numbers in the last place."""
        return self.linear(x)


class Denoiser(nn.Module):
    _repeated_blocks = ("Block",)

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.scale = nn.Parameter(torch.ones(()))

    def loss(self) -> Loss:
        """The same each time."""
        total = self.block(torch.arange(12.0).view(3, 4)).mul(self.scale).square().mean()
        return Loss(total, total, None)


@pytest.mark.parametrize(("wrong", "notes"), [
    (1.0, []), (1.01, ["`train.compile`: compiled blocks give another gradient (by 2.0% of its norm); they run "
                       "uncompiled"])])
def test_what_the_compiler_does_wrong_runs_uncompiled(monkeypatch: pytest.MonkeyPatch, wrong: float,
                                                      notes: list[str]) -> None:
    def scaled(name: str) -> Callable[..., object]:
        def compile_graph(graph: Any, inputs: object) -> object:
            return lambda *words: [out * wrong for out in graph.forward(*words)]

        return compile_graph

    monkeypatch.setattr("torch._dynamo.lookup_backend", scaled)
    denoiser, told = Denoiser(), list[str]()
    with compiled_blocks(denoiser, "fp32", told.append) as compiled:
        for _ in range(2):
            compiled.check(torch.Size([3, 4]), denoiser.loss, list(denoiser.parameters()))
        assert told == notes and bool(compiled.blocks) != bool(notes)


@pytest.mark.slow
def test_compiled_blocks_compute_the_same_but_for_rounding(home: Path) -> None:
    """The prediction; of the gradient see `CompiledBlocks.check`."""
    answers, notes = Answers(home), list[str]()
    plain = answers(8)[0]
    with compiled_blocks(answers.denoiser, "fp32", notes.append):
        found, again = answers(8)[0], answers(8)[0]
    assert not notes and again.equal(found)
    assert not found.equal(plain), "the compiler's own kernels"
    assert (found - plain).abs().max() < 1e-5 * plain.abs().max()


@pytest.mark.slow
def test_a_compiled_training_that_goes_on_later_gives_the_same_bytes(tmp_path: Path) -> None:
    straight, paused = lay_out(tmp_path / "straight"), lay_out(tmp_path / "paused")
    # of the tiny base's blocks torch 2.13 computes another gradient on a CPU, and they would run uncompiled
    words = ("run", "tiny.yaml", "base.path=embedded", "train.compile=true")
    said = straight.dbrun(*words, "train.steps=8").stderr
    assert "uncompiled" not in said
    paused.dbrun(*words, "train.steps=4")
    assert "going on after step 4 of 8" in paused.dbrun(*words, "train.steps=8").stderr
    assert paused.exported() == straight.exported()
