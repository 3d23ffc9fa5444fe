"""Does training learn the objective that it was given, for each half, and the same after a stop?"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_steps
import torch
from picture_sets import picture_set
from tiny_training import content, job, write_inputs

from dbrun.errors import Interrupted, RecipeError
from dbrun.models.base import CleanBatch
from dbrun.options.loss_functions import AbsoluteError, Huber
from dbrun.options.noise import Pyramid
from dbrun.options.objective import DEFAULT_OBJECTIVE, Objective
from dbrun.options.timesteps import Window
from dbrun.options.weightings import Debiased, MinSnr
from dbrun.stages.train import Train
from dbrun.training.batches import Batch, Batches
from dbrun.training.loop import Trainer
from dbrun.training.noise import Noise

PYRAMID = {"discount": 0.5, "levels": 3}
OPTIONS: list[dict[str, Any]] = [
    {"prediction": "v_prediction"}, {"prediction": "sample"},
    {"prediction": "v_prediction", "zero_terminal_snr": True},
    {"weighting": {"type": "min_snr"}}, {"weighting": {"type": "min_snr", "gamma": 1.0}},
    {"weighting": {"type": "soft_min_snr"}}, {"weighting": {"type": "soft_min_snr", "gamma": 1.0}},
    {"weighting": {"type": "debiased"}},
    {"distance": {"type": "l1"}}, {"distance": {"type": "huber"}}, {"distance": {"type": "huber", "delta": 0.5}},
    {"distance": {"type": "huber", "schedule": "constant"}}, {"distance": {"type": "huber", "schedule": "exponential"}},
    {"timesteps": {"type": "window", "low": 0, "high": 200}}, {"timesteps": {"type": "window", "low": 9, "high": 200}},
    {"timesteps": {"type": "early"}}, {"timesteps": {"type": "early", "strength": 4.0}},
    {"timesteps": {"type": "late"}}, {"timesteps": {"type": "logit_normal"}},
    {"timesteps": {"type": "logit_normal", "mean": 0.5}}, {"timesteps": {"type": "logit_normal", "std": 2.0}},
    {"noise_offset": 0.1}, {"input_perturbation": 0.1}, {"pyramid_noise": PYRAMID},
    {"pyramid_noise": {**PYRAMID, "discount": 0.6}}, {"pyramid_noise": {**PYRAMID, "levels": 1}}]
ALL = Objective.model_validate({
    "prediction": "v_prediction", "zero_terminal_snr": True, "weighting": {"type": "min_snr"},
    "distance": {"type": "huber"}, "timesteps": {"type": "late"}, "noise_offset": 0.1, "input_perturbation": 0.1,
    "pyramid_noise": PYRAMID})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("objective")
    write_inputs(place)
    return place


def trained(home: Path, place: Path, name: str, **changes: object) -> dict[str, bytes]:
    out = place / name
    Train().run(job(home, out, place / f"{name}.work", **changes))
    return content(out)


@pytest.fixture(scope="module")
def seen(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Objective], str]:
    """The digest of what four steps under an objective lead to."""
    place = tmp_path_factory.mktemp("outs")

    def result(objective: Objective) -> str:
        name = hashlib.sha256(objective.model_dump_json().encode()).hexdigest()
        files = (content(place / name) if (place / name).exists()
                 else trained(home, place, name, objective=objective, steps=4))
        return hashlib.sha256(files["denoiser.safetensors"]).hexdigest()

    return result


@pytest.mark.slow
def test_every_option_shows_in_the_bytes_and_no_two_alike(seen: Callable[[Objective], str]) -> None:
    objectives = [DEFAULT_OBJECTIVE, *(Objective.model_validate(option) for option in OPTIONS)]
    assert len({seen(objective) for objective in objectives}) == len(objectives)


def test_the_scripts_rule_shows_under_v(seen: Callable[[Objective], str]) -> None:
    found = {rule: seen(Objective.model_validate({"prediction": "v_prediction", "weighting": {
        "type": "min_snr", "rule": rule}})) for rule in ("paper", "dreambooth")}
    assert found["paper"] != found["dreambooth"]


def test_saying_what_the_base_says_changes_nothing(seen: Callable[[Objective], str]) -> None:
    assert seen(Objective(prediction="epsilon")) == seen(DEFAULT_OBJECTIVE)


def test_stopped_and_resumed_with_every_option_it_ends_in_the_same_bytes(home: Path, tmp_path: Path) -> None:
    asked: list[object] = []
    with pytest.raises(Interrupted):
        trained(home, tmp_path, "out", objective=ALL, emit=asked.append, stop_signal=lambda: 15 * (len(asked) >= 3))
    assert trained(home, tmp_path, "out", objective=ALL) == trained(home, tmp_path, "unbroken", objective=ALL)


def test_metrics_keep_the_halves_apart_under_a_weighting(home: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in trained(home, tmp_path, "out", objective=ALL)["metrics.jsonl"].splitlines()]
    for row in rows:
        assert row["loss"] == pytest.approx(row["instance_loss"] + row["prior_loss"], rel=1e-6)


def test_an_objective_that_the_base_cannot_have_is_refused_before_training(home: Path, tmp_path: Path) -> None:
    """The tiny base predicts epsilon, which is seen only here where it was fetched after planning."""
    for option, key in (({"zero_terminal_snr": True}, "zero_terminal_snr"),
                        ({"timesteps": {"type": "window", "low": 0, "high": 1001}}, "timesteps.high")):
        with pytest.raises(RecipeError, match=rf"objective\.{key}"):
            trained(home, tmp_path, key, objective=Objective.model_validate(option))


def trainer(home: Path, **changes: Any) -> Trainer:
    return tiny_steps.trainer(home, prior_weight=0.5, **changes)


def batch() -> Batch:
    return tiny_steps.batch(3)._replace(t=torch.tensor([5, 300, 640, 990]))


@pytest.mark.parametrize("choice", [{"weighting": MinSnr(type="min_snr")}, {"weighting": Debiased(type="debiased")},
                                    {"distance": Huber(type="huber")}, {"distance": AbsoluteError(type="l1")}])
def test_each_half_has_the_loss_that_it_has_alone(home: Path, choice: dict[str, Any]) -> None:
    """Each row is weighed by its own timestep: the two halves together are what they are one by one."""
    whole, own = batch(), trainer(home, **choice)
    with torch.no_grad():
        both = own.loss(whole)
        alone = [own.loss(Batch(whole.x0[i:i + 1], whole.noise[i:i + 1], whole.t[i:i + 1], whole.prompts[i:i + 1], 1))
                 for i in range(4)]
    instance, prior = (sum(float(alone[i].total) for i in rows) / 2 for rows in ((0, 1), (2, 3)))
    assert both.prior is not None
    assert (float(both.instance), float(both.prior)) == pytest.approx((instance, prior), rel=1e-5)
    assert float(both.total) == pytest.approx(instance + 0.5 * prior, rel=1e-5)


def test_added_noise_enters_the_input_and_not_the_target(home: Path) -> None:
    own, plain = trainer(home), batch()
    asked: list[torch.Tensor] = []

    def zeros(x_t, t, condition):
        asked.append(x_t)
        return torch.zeros_like(x_t)

    own.model.predict = zeros
    added = plain.noise + 1.0
    losses = [float(own.loss(b).total) for b in (plain, plain._replace(input_noise=added))]
    assert losses[0] == losses[1], "a prediction of zeros is as far from the target as before"
    assert torch.equal(asked[1], own.process.add_noise(plain.x0, added, plain.t))


def batches(size: int = 4, **changes: Any) -> Batches:
    half = picture_set("instance", [torch.zeros(8, 4, 4) for _ in range(5)], [0] * 5)
    return Batches([half], 0, size, 1000, lambda rows, randn: CleanBatch(rows[:, :4], {}), **changes)


NOISES = {"offset": Noise(offset=0.1), "perturbation": Noise(perturbation=0.1), "pyramid": Noise(pyramid=Pyramid())}


@pytest.mark.parametrize("name", NOISES)
def test_no_kind_of_noise_moves_another_draw(name: str) -> None:
    plain, other = batches(50)(2), batches(50, noise=NOISES[name])(2)
    assert torch.equal(plain.t, other.t) and plain.prompts == other.prompts and plain.input_noise is None
    if name == "perturbation":
        assert other.input_noise is not None and torch.equal(plain.noise, other.noise)
        assert 0.08 < float((other.input_noise - other.noise).std()) < 0.12
    else:
        assert other.input_noise is None and not torch.equal(plain.noise, other.noise)
    if name == "offset":
        moved = other.noise - plain.noise
        assert float(moved.std(dim=[2, 3]).max()) < 1e-6
        assert 0.08 < float(moved.std()) < 0.12 and len(moved.mean(dim=[2, 3]).unique()) == 50 * 4


def test_with_every_option_accumulated_pictures_are_those_of_one_larger_batch() -> None:
    """2 x 3 = 6: the rows of small micro-batches are those of the large one."""
    options = {"noise": Noise(0.1, 0.1, Pyramid()), "timestep_sampling": Window(type="window", low=100, high=200)}
    large = batches(6, **options)(1)
    small = [batches(2, **options)(n) for n in (3, 4, 5)]
    for field in ("noise", "input_noise", "t"):
        assert torch.equal(getattr(large, field), torch.cat([getattr(b, field) for b in small]))
    assert large.t.min() >= 100 and large.t.max() < 200
