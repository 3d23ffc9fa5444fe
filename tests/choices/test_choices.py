"""Does each choice of optimizer and schedule do what its words say?"""

import math

import pytest
import torch
from diffusers.optimization import get_scheduler

from dbrun.choices.optimizers import AdamW
from dbrun.choices.schedules import Constant, Cosine, Linear, types

NAMES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("kind", types(), ids=lambda k: k.NAME)
def test_a_schedule_is_that_of_diffusers_step_by_step(kind, warmup) -> None:
    schedule = kind(type=kind.NAME, warmup_steps=warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler(NAMES[kind.NAME], optimizer, num_warmup_steps=warmup, num_training_steps=12)
    for step in range(12):
        assert schedule.factor(step, 12) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_only_schedules_without_a_horizon_may_be_lengthened() -> None:
    for kind in types():
        schedule = kind(type=kind.NAME, warmup_steps=2)
        same = all(schedule.factor(step, 10) == schedule.factor(step, 20) for step in range(10))
        assert same is not kind.horizon


def test_the_shapes_end_where_they_should() -> None:
    assert Constant().factor(99, 100) == 1.0
    assert Linear(type="linear").factor(50, 100) == 0.5
    assert Cosine(type="cosine").factor(25, 100) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


@pytest.mark.parametrize("change", [{"beta1": 0.5}, {"beta2": 0.9}, {"weight_decay": 0.5}, {"epsilon": 1.0}])
def test_every_setting_of_adamw_changes_the_updates(change) -> None:
    def trained(**settings: float) -> float:
        weight = torch.nn.Parameter(torch.tensor(1.0))
        optimizer = AdamW(**settings).build([weight], 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            (weight ** 3).backward()
            optimizer.step()
        return weight.item()

    assert trained(**change) != pytest.approx(trained(), rel=1e-6)
