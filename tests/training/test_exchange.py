"""Is a step that several processes make together, to the bit, the step that one makes?"""

import multiprocessing
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import FAMILY, PARAMS, PROMPTS, load, lora
from torch import distributed

from dbrun.adapters.attach import attach, match
from dbrun.adapters.full import Full
from dbrun.errors import StageFailed
from dbrun.training.batches import Batches, Pictures
from dbrun.training.conditions import cached, live
from dbrun.training.exchange import ALONE, Exchange
from dbrun.training.learners import Own
from dbrun.training.loop import Settings, Trainer

SETTINGS: dict[str, Any] = {
    "steps": 2, "learning_rate": 5e-3, "accumulation": 4, "max_grad_norm": 1.0, "optimizer": PARAMS.optimizer,
    "schedule": PARAMS.schedule, "precision": "fp32", "prior_weight": 0.5, "seed": 0}
State = tuple[dict[str, torch.Tensor], dict[str, Any]]
BOTH = ("denoiser", "text_encoder")
CASES: Mapping[str, dict[str, Any]] = {
    "adapter": {},
    "dropout": {"adapter": {"dropout": 0.5}},
    "two components, one of which stops": {"components": BOTH, "own": Own({"text_encoder": 1e-3}, {"text_encoder": 1})},
    "the base as target": {"of_base": True},
    "bf16": {"precision": "bf16"},
    "the whole component": {"whole": True},
    "without class pictures": {"halves": ("instance",)},
}


def train(home: Path, exchange: Exchange, *, size: int = 1, components: tuple[str, ...] = ("denoiser",),
          adapter: Mapping[str, Any] = {}, whole: bool = False, of_base: bool = False,
          halves: tuple[str, ...] = ("instance", "class"), **changes: Any) -> State:
    """The state after some steps. size: pictures of each half in a micro-batch."""
    loaded = load(home)
    conditions = cached(FAMILY, FAMILY.encode_prompts(loaded, PROMPTS), loaded.device)
    for component in components:
        if whole:
            module = FAMILY.module(loaded, component)
            attach(module, Full(type="full"), match(module, ("*",), Full.layers), seed=1)
        else:
            lora(component, loaded, **adapter)
    if components == BOTH:
        conditions = live(FAMILY, loaded, PROMPTS)
    trainer = Trainer(FAMILY, loaded, components, conditions, Settings(**{**SETTINGS, **changes}),
                      conditions if of_base else None, exchange)
    source = torch.Generator().manual_seed(0)
    pictures = [Pictures(half, [torch.randn(8, 8, 8, generator=source) for _ in range(5)], [n] * 5)
                for n, half in enumerate(halves)]
    batches = Batches(pictures, 0, size, 1000, lambda rows, randn: FAMILY.draw(loaded, rows, randn, "none"))
    for _ in trainer.run(batches):
        pass
    checkpoint = trainer.checkpoint()
    return dict(checkpoint.tensors), dict(checkpoint.values)


def member(home: Path, rank: int, size: int, names: tuple[str, ...]) -> None:
    """One of several processes; each writes down where it stood in the end."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{home}/meeting", rank=rank, world_size=size,
                                   timeout=timedelta(seconds=60))
    torch.save({name: train(home, Exchange(rank, size), **CASES[name]) for name in names}, home / f"{rank}.pt")


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A folder with what each of so many processes ended with, case by case."""
    home, size = tmp_path_factory.mktemp("together"), request.param
    FAMILY.tiny(home / "base")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tiny_training", "dbrun.training.loop", "diffusers", "transformers", "peft"])
    members = [processes.Process(target=member, args=(home, rank, size, tuple(CASES))) for rank in range(size)]
    for one in members:
        one.start()
    for one in members:
        one.join(120)
    assert [one.exitcode for one in members] == [0] * size
    return home, size


@pytest.mark.parametrize("name", CASES)
def test_how_many_processes_share_a_step_changes_no_bit(together: tuple[Path, int], name: str) -> None:
    home, size = together
    tensors, values = train(home, ALONE, **CASES[name])
    for rank in range(size):
        theirs, told = torch.load(home / f"{rank}.pt", weights_only=False)[name]
        assert told == values, "the same losses, norms and rates, averaged over all micro-batches"
        assert theirs.keys() == tensors.keys() and all(theirs[key].equal(t) for key, t in tensors.items())


def test_processes_make_the_step_of_one_larger_batch_but_for_rounding(together: tuple[Path, int]) -> None:
    """Four batches of 1 against one of 4, over steps of 5e-3: measured, 1e-7 of the losses, 6e-5 in the weights.

    The weights are further apart than the losses, since AdamW divides the smallest gradients by themselves.
    """
    home, _ = together
    larger, told = train(home, ALONE, size=4, accumulation=1)
    shared, values = torch.load(home / "0.pt", weights_only=False)["adapter"]
    for one, other in zip(told["history"], values["history"], strict=True):
        assert one[1:4] == pytest.approx(other[1:4], rel=1e-6)
    apart = [(tensor - shared[name]).abs().max().item() for name, tensor in larger.items() if "adapter/" in name]
    assert 0 < max(apart) < 5e-4


def test_micro_batches_that_cannot_be_dealt_evenly_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="3 micro-batches cannot be dealt evenly to 2"):
        Exchange(0, 2).slots(3)
    assert [list(Exchange(rank, 2).slots(4)) for rank in (0, 1)] == [[0, 2], [1, 3]]
