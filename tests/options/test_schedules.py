"""Does each schedule do what its words say?"""

import math

import pytest
import torch
from diffusers.optimization import get_polynomial_decay_schedule_with_warmup, get_scheduler
from option_settings import in_file_of, smallest

from dbrun.options.schedules import (
    Constant,
    Cosine,
    CosineWithRestarts,
    LearningRateSchedule,
    Linear,
    Polynomial,
    schedule_types,
)

NAMES = {"constant": "constant_with_warmup"}
THEIRS = {"num_cycles": "cycles", "power": "power", "lr_end": "end"}
CASES = [(Constant, {}), (Linear, {}), (Cosine, {}), (CosineWithRestarts, {"num_cycles": 1}),
         (CosineWithRestarts, {"num_cycles": 3}), (Polynomial, {"power": 1.0, "lr_end": 1e-7}),
         (Polynomial, {"power": 3.0, "lr_end": 0.25})]


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize(("kind", "settings"), CASES, ids=lambda case: getattr(case, "NAME", str(case)))
def test_a_schedule_is_that_of_diffusers_step_by_step(kind, settings, warmup) -> None:
    schedule = kind(type=kind.NAME, warmup_steps=warmup, **{THEIRS[name]: value for name, value in settings.items()})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    if kind is Polynomial:
        theirs = get_polynomial_decay_schedule_with_warmup(optimizer, warmup, 12, **settings)
    else:
        theirs = get_scheduler(NAMES.get(kind.NAME, kind.NAME), optimizer, num_warmup_steps=warmup,
                               num_training_steps=12, **settings)
    for step in range(12):
        assert schedule.factor(step, 12) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_every_schedule_of_the_file_is_compared() -> None:
    assert {kind for kind, _ in CASES} == {kind for kind in schedule_types() if in_file_of(kind, LearningRateSchedule)}


@pytest.mark.parametrize("kind", schedule_types(), ids=lambda kind: kind.NAME)
def test_every_schedule_rises_in_a_line_and_stays_between_none_and_all(kind: type[LearningRateSchedule]) -> None:
    schedule = smallest(kind, warmup_steps=4)
    factors = [schedule.factor(step, 24) for step in range(25)]
    assert factors[:4] == [0.0, 0.25, 0.5, 0.75]
    assert factors[4] == pytest.approx(1.0)
    assert all(0.0 <= factor <= 1.0 for factor in factors)


def test_only_schedules_without_a_horizon_may_be_lengthened() -> None:
    for kind in schedule_types():
        schedule = smallest(kind, warmup_steps=2)
        same = all(schedule.factor(step, 10) == schedule.factor(step, 20) for step in range(10))
        assert same is not kind.depends_on_steps


def test_the_shapes_end_where_they_should() -> None:
    assert Constant().factor(99, 100) == 1.0
    assert Linear(type="linear").factor(50, 100) == 0.5
    assert Cosine(type="cosine").factor(25, 100) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert CosineWithRestarts(type="cosine_with_restarts", cycles=2).factor(50, 100) == 1.0
    assert CosineWithRestarts(type="cosine_with_restarts").factor(100, 100) == 0.0
    assert Polynomial(type="polynomial", end=0.5).factor(100, 100) == 0.5
