"""Does each optimizer learn, does each of its settings count, and is it the one of its package?"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from option_settings import other_options, smallest

from dbrun.options.optimizers import AdamW, OptimizerOptions, optimizer_types
from dbrun.options.packages import OptionalPackage

FACTORS = (0.5, 1.0, 1.0, 0.25)
"""Of the learning rate, a step each: a warm-up shows `safeguard_warmup`."""


def needing(kind: type[OptimizerOptions]) -> type[OptimizerOptions]:
    """kind, where its package is installed; else the test is skipped."""
    if kind.REQUIRED_PACKAGE and not kind.REQUIRED_PACKAGE.is_installed:
        pytest.skip(kind.REQUIRED_PACKAGE.install_command)
    return kind


def made(kind: type[OptimizerOptions], **settings: object) -> OptimizerOptions:
    return smallest(needing(kind), **settings)


def rate_of(kind: type[OptimizerOptions]) -> float:
    """A learning rate that suits it: the largest power of ten that people use with it, at most 1; 1 for a factor."""
    return 1.0 if kind.SINGLE_RATE_REASON else min(1.0, 10.0 ** math.floor(math.log10(kind.USUAL_RATES[1])))


def quadratic(weight: torch.Tensor) -> torch.Tensor:
    """A valley around 1, unequally steep, of gradients that no optimizer's epsilon swallows."""
    return (torch.linspace(0.5, 2.0, weight.numel()).view_as(weight) * (weight - 1.0).square()).mean() * 100


def trained(choice: OptimizerOptions, rate: float = 0.01, factors: Sequence[float] = FACTORS,
            shape: Sequence[int] = (64, 80)) -> torch.Tensor:
    weight = torch.nn.Parameter(torch.linspace(0.1, 0.3, shape[0] * shape[1]).view(*shape))
    optimizer = choice.build([{"params": [weight]}], rate)
    for step, factor in enumerate(factors):
        optimizer.param_groups[0]["lr"] = rate * factor
        optimizer.zero_grad()
        # a slope that turns round, so that also an update by signs depends on what is remembered
        slope = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step)) * 0.02
        (quadratic(weight) + (slope * weight).sum()).backward()
        optimizer.step()
    with choice.eval_weights(optimizer):
        return weight.detach().clone()


@pytest.mark.parametrize("kind", optimizer_types(), ids=lambda k: k.NAME)
def test_it_goes_down(kind: type[OptimizerOptions]) -> None:
    start = quadratic(torch.linspace(0.1, 0.3, 64 * 80).view(64, 80))
    assert quadratic(trained(made(kind), rate_of(kind), (1.0,) * 60)) < 0.8 * start


SETTINGS = [(kind, name) for kind in optimizer_types() for name in kind.model_fields if name != "type"]


@pytest.mark.parametrize(("kind", "setting"), SETTINGS,
                         ids=lambda v: v if isinstance(v, str) else v.NAME)
def test_every_setting_changes_the_updates(kind: type[OptimizerOptions], setting: str) -> None:
    rate, factors = rate_of(needing(kind)), FACTORS * 5
    usual = trained(made(kind), rate, factors)
    others = (trained(other, rate, factors) for other in other_options(kind, setting))
    assert any(not torch.equal(usual, other) and bool(other.isfinite().all()) for other in others)


def by_package(name: str) -> Callable[..., torch.optim.Optimizer]:
    """The package's own optimizer at its own defaults."""
    def lion(p: Any, lr: float) -> torch.optim.Optimizer:
        return pytest.importorskip("lion_pytorch").Lion(p, lr=lr)

    def prodigy(p: Any, lr: float) -> torch.optim.Optimizer:
        return pytest.importorskip("prodigyopt").Prodigy(p, lr=lr)

    def adafactor(p: Any, lr: float) -> torch.optim.Optimizer:
        from transformers.optimization import Adafactor

        return Adafactor(p, lr=lr, scale_parameter=False, relative_step=False)

    def adamw_8bit(p: Any, lr: float) -> torch.optim.Optimizer:
        return pytest.importorskip("bitsandbytes").optim.AdamW8bit(p, lr=lr)

    def adamw(p: Any, lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(p, lr=lr)

    return locals()[name]


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "adafactor", "lion", "prodigy"])
def test_left_alone_it_is_the_packages_own(name: str) -> None:
    class Theirs(OptimizerOptions):
        def build(self, groups: Any, learning_rate: float) -> torch.optim.Optimizer:
            return by_package(name)(groups, learning_rate)

    kind = {k.NAME: k for k in optimizer_types()}[name]
    assert torch.equal(trained(made(kind)), trained(Theirs()))


def test_schedule_free_gives_the_average_and_goes_on_from_where_it_was() -> None:
    """The weights that leave are those of the package's eval(); those trained on come back to the bit."""
    schedulefree = pytest.importorskip("schedulefree")
    kind = {k.NAME: k for k in optimizer_types()}["adamw_schedule_free"]

    def steps(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            quadratic(weight).backward()
            optimizer.step()

    ours, theirs, unasked = (torch.nn.Parameter(torch.full((3, 4), 0.2)) for _ in range(3))
    choice = kind(type=kind.NAME)
    optimizer, alone = (choice.build([{"params": [w]}], 0.01) for w in (ours, unasked))
    reference = schedulefree.AdamWScheduleFree([theirs], lr=0.01)
    reference.train()
    steps(ours, optimizer, 5)
    steps(theirs, reference, 5)
    before = ours.detach().clone()
    reference.eval()
    with choice.eval_weights(optimizer):
        assert torch.equal(ours, theirs) and not torch.equal(ours, before)
    assert torch.equal(ours, before)
    steps(ours, optimizer, 3)
    steps(unasked, alone, 8)
    assert torch.equal(ours, unasked)


@pytest.mark.parametrize(("device", "fused"), [("cuda", True), ("cpu", None)])
def test_adamw_is_fused_on_a_gpu_and_as_ever_on_a_cpu(device: str, fused: bool | None,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    class There:
        def __init__(self) -> None:
            self.device = torch.device(device)

    asked: list[dict[str, object]] = []
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, **settings: asked.append(settings))
    AdamW().build([{"params": [There()]}], 0.1)
    assert asked[0]["fused"] is fused


def test_prodigy_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    kind = {k.NAME: k for k in optimizer_types()}["prodigy"]
    trained(made(kind, weight_decay=0.1))
    assert capfd.readouterr().out == ""


def test_a_package_knows_whether_it_is_installed() -> None:
    assert OptionalPackage("torch", "torch", "x").is_installed
    missing = OptionalPackage("nowhere-to-be-found", "nowhere_to_be_found", "optimizers")
    assert not missing.is_installed and missing.install_command == "pip install 'dbrun[optimizers]'"
