"""Does fp16's gradient scale skip what overflows, and go on after a stop? On the CPU, by its own scaler."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from representatives import cases
from tiny_steps import gone, same, trainer, weights
from tiny_training import FAMILY

from dbrun.errors import StageFailed
from dbrun.training import loop
from dbrun.training.loop import Trainer

GROWTH = 3
"""Steps without an overflow after which the scale doubles."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("scaling")
    FAMILY.write_tiny_base(place / "base")
    return place


@pytest.fixture
def scaled(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Trainer]:
    """A trainer whose gradients are scaled; accelerate itself does that on GPUs alone."""
    plain = loop._accelerator

    def made(scale: float) -> Trainer:
        def accelerator(precision: str, device: torch.device) -> Accelerator:
            one = plain(precision, device)
            one.state._mixed_precision, one.native_amp = "fp16", True
            one.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=GROWTH)
            return one

        monkeypatch.setattr(loop, "_accelerator", accelerator)
        return trainer(home)

    return made


def scale(trained: Trainer) -> float:
    return float(trained.accelerator.scaler.get_scale())


def test_the_scale_grows_and_changes_neither_norms_nor_steps_but_for_rounding(scaled: Callable[[float], Trainer],
                                                                              home: Path) -> None:
    exact = gone(trainer(home), GROWTH + 1)
    small, large = gone(scaled(1.0), GROWTH + 1), gone(scaled(256.0), GROWTH + 1)
    assert (scale(small), scale(large)) == (2.0, 512.0)
    for one, other, third in zip(small.history, large.history, exact.history, strict=True):
        assert one.loss != third.loss, "the forward pass is in 16 bits"
        assert (one.grad_norm, other.grad_norm) == pytest.approx((third.grad_norm,) * 2, rel=5e-3)


@pytest.mark.parametrize("begun", [pytest.param(256.0, id="grows", marks=pytest.mark.slow),
                                   pytest.param(2.0**24, id="overflows")])
@pytest.mark.parametrize("at", cases([1, 2, 4], 1))
def test_after_a_stop_it_goes_on_with_the_scale_that_it_had(scaled: Callable[[float], Trainer], begun: float,
                                                            at: int) -> None:
    """Also how many steps ago it last overflowed counts: the scale doubles by that."""
    unbroken, first, second = (scaled(begun) for _ in range(3))
    second.restore(gone(first, at).checkpoint())
    gone(unbroken, 6), gone(second, 6)
    a, b = (json.dumps(one.checkpoint().values) for one in (unbroken, second))
    assert a == b and same(weights(unbroken), weights(second)) and scale(unbroken) == scale(second) != begun


def test_a_step_that_overflows_is_left_out_and_the_next_one_has_half_the_scale(
        scaled: Callable[[float], Trainer]) -> None:
    trained = scaled(2.0**60)
    before = weights(trained)
    assert not math.isfinite(gone(trained, 1).history[0].grad_norm)
    assert same(before, weights(trained)) and scale(trained) == 2.0**59


def test_gradients_that_overflow_at_every_scale_stop_training(scaled: Callable[[float], Trainer]) -> None:
    trained = scaled(2.0)
    trained.parameters[0].register_hook(lambda gradient: gradient * math.inf)
    gone(trained, 2)
    with pytest.raises(StageFailed, match=r"gradient norm is (nan|inf) at step 3 of 6"):
        gone(trained, 3)
