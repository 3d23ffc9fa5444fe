"""Does a step do to the adapters, and only to them, what it should?"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.training_utils import EMAModel
from tiny_steps import BOTH, SETTINGS, batch, gone, same, trainer, weights
from tiny_training import FAMILY, PROMPTS, load, lora
from torch import Tensor
from train_settings import changed

from dbrun.diffusion.losses import Loss
from dbrun.errors import StageFailed
from dbrun.models.base import Condition
from dbrun.options.adamw_schedule_free import AdamWScheduleFree
from dbrun.options.ema import Ema
from dbrun.options.optimizers import AdamW, OptimizerOptions
from dbrun.options.prodigy import Prodigy
from dbrun.options.schedules import Constant, Linear
from dbrun.training.batches import Batch
from dbrun.training.loop import Trainer
from dbrun.training.prompt_embeds import cached_prompts, live_prompts

CPU = torch.device("cpu")


class Sgd(OptimizerOptions):
    """Plain gradient descent, whose update is the gradient."""

    def build(self, parameters: Sequence[torch.nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=learning_rate)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("loop")
    FAMILY.write_tiny_base(place / "base")
    return place


def test_a_batch_seen_again_and_again_is_learnt(home: Path) -> None:
    trained = trainer(home, steps=30)
    losses = [trained.step([batch()]).loss for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]


def test_only_the_adapter_learns(home: Path) -> None:
    trained = trainer(home)
    unet = trained.model.module("denoiser")
    base = {n: p.detach().clone() for n, p in unet.named_parameters() if not p.requires_grad}
    before = weights(trained)
    trained.step([batch()])
    assert all(torch.equal(p, base[n]) for n, p in unet.named_parameters() if n in base)
    assert len(trained.parameters) == len(before) and not same(before, weights(trained))


def test_the_loss_is_instance_plus_weighted_prior(home: Path) -> None:
    for weight in (0.0, 0.5, 2.0):
        seen = trainer(home, prior_weight=weight).step([batch()])
        assert seen.prior_loss is not None
        assert seen.loss == pytest.approx(seen.instance_loss + weight * seen.prior_loss, rel=1e-6)
    alone = trainer(home).step([batch(rows=2)])
    assert alone.prior_loss is None and alone.loss == alone.instance_loss


def test_class_rows_of_another_shape_weigh_as_those_of_the_same(home: Path) -> None:
    """Apart, they go through the denoiser by themselves; the loss and the step are those of one forward pass."""
    whole = batch()
    parts = [Batch(whole.x0[rows], whole.noise[rows], whole.t[rows], whole.prompts[rows], instances)
             for rows, instances in ((slice(2), 2), (slice(2, 4), 0))]
    one, two = trainer(home), trainer(home)
    a, b = one.step([whole]), two.step([parts[0]._replace(class_batch=parts[1])])
    assert (a.loss, a.instance_loss, a.prior_loss, a.grad_norm) == pytest.approx(
        (b.loss, b.instance_loss, b.prior_loss, b.grad_norm), rel=1e-5)
    other = parts[1]._replace(x0=whole.x0[2:, :, :, :4], noise=whole.noise[2:, :, :, :4])
    wide = trainer(home).step([parts[0]._replace(class_batch=other)])
    assert wide.instance_loss == b.instance_loss and wide.prior_loss != b.prior_loss


def test_a_masked_batch_learns_nothing_from_what_does_not_count(home: Path) -> None:
    plain = batch(rows=2)
    left = torch.zeros(2, 1, 8, 8)
    left[..., :4] = 1.0
    masked = trainer(home).step([plain._replace(loss_mask=left)])
    assert masked.loss != trainer(home).step([plain]).loss
    nothing = trainer(home).step([plain._replace(loss_mask=torch.zeros(2, 1, 8, 8))])
    assert nothing.loss == nothing.grad_norm == 0.0


@pytest.mark.parametrize("apart", [False, True])
def test_each_row_is_predicted_with_its_own_hints(home: Path, apart: bool) -> None:
    """Both by the adapters and, for the class rows alone, by the base that they aim at."""
    whole, trained = batch(), trainer(home, of_base=True)
    asked: list[list[int]] = []

    predict = trained.model.predict

    def watched(x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        asked.append([whole.t.tolist().index(int(one)) for one in t])
        assert condition["row"].tolist() == asked[-1] and "hidden" in condition
        return predict(x_t, t, condition)

    trained.model.predict, rows = watched, torch.arange(4)
    one = whole._replace(extra_conditions={"row": rows})
    if apart:
        first, second = (Batch(whole.x0[at], whole.noise[at], whole.t[at], whole.prompts[at], n, {"row": rows[at]})
                         for at, n in ((slice(2), 2), (slice(2, 4), 0)))
        one = first._replace(class_batch=second)
    trained.step([one])
    assert sorted(asked) == ([[0, 1], [2, 3], [2, 3]] if apart else [[0, 1, 2, 3], [2, 3]])


def test_accumulated_micro_batches_make_one_larger_batch(home: Path) -> None:
    whole = batch(rows=4, instances=4)
    parts = [Batch(whole.x0[i:i + 2], whole.noise[i:i + 2], whole.t[i:i + 2], (1, 1), 2) for i in (0, 2)]
    one, two = (trainer(home, optimizer=Sgd(), max_grad_norm=None, learning_rate=1.0) for _ in range(2))
    a, b = one.step([whole]), two.step(parts)
    assert (a.loss, a.grad_norm) == pytest.approx((b.loss, b.grad_norm), rel=1e-5)
    for name, tensor in weights(one).items():
        torch.testing.assert_close(tensor, weights(two)[name], rtol=1e-5, atol=1e-7)


def test_every_micro_batch_of_every_step_is_the_next_one(home: Path) -> None:
    """Also after a stop."""
    asked: list[int] = []

    def numbered(number: int) -> Batch:
        asked.append(number)
        return batch(number)

    first, second = (trainer(home, steps=3, accumulation=2) for _ in range(2))
    steps = first.run(numbered)
    next(steps), next(steps)
    second.restore(first.checkpoint())
    for _ in second.run(numbered):
        pass
    assert asked == [0, 1, 2, 3, 4, 5]


def test_gradients_are_clipped_and_their_norm_is_told_unclipped(home: Path) -> None:
    """The class half weighs so much that every usual limit would clip."""
    moved, norms = {}, {}
    for limit in (None, 1.0, 1e-3):
        trained = trainer(home, optimizer=Sgd(), max_grad_norm=limit, learning_rate=1.0, prior_weight=1e4)
        before = weights(trained)
        norms[limit] = trained.step([batch()]).grad_norm
        moved[limit] = math.sqrt(sum(float((t - before[n]).square().sum()) for n, t in weights(trained).items()))
    assert norms[None] == norms[1.0] == norms[1e-3] > 100.0
    assert moved == pytest.approx({None: norms[None], 1.0: 1.0, 1e-3: 1e-3}, rel=1e-3)


def test_the_learning_rate_follows_the_schedule(home: Path) -> None:
    trained = trainer(home, steps=4, schedule=Linear(type="linear", warmup_steps=2))
    assert [trained.step([batch(n)]).learning_rate for n in range(4)] == [0.0, 0.005, 0.01, 0.005]


def test_a_rate_of_zero_moves_nothing(home: Path) -> None:
    trained = trainer(home, schedule=Constant(warmup_steps=1))
    before = weights(trained)
    trained.step([batch()])
    assert same(before, weights(trained))


def test_a_loss_that_is_not_finite_stops_with_advice(home: Path) -> None:
    bad = batch()
    bad.x0[0] = math.nan
    with pytest.raises(StageFailed, match="loss is nan at step 1 of 6") as failure:
        trainer(home).step([bad])
    assert failure.value.fix is not None and "learning_rate" in failure.value.fix


def test_a_reckless_learning_rate_never_gives_an_adapter(home: Path) -> None:
    with pytest.raises(StageFailed, match=r"not finite|is nan|is inf"):
        reckless = trainer(home, learning_rate=1e30, max_grad_norm=None)
        for number in range(6):
            reckless.step([batch(number)])
            reckless.adapter_states()


def test_training_leaves_the_global_random_state(home: Path) -> None:
    trained = trainer(home, adapter={"dropout": 0.5})
    before = torch.get_rng_state()
    trained.step([batch()])
    assert torch.equal(before, torch.get_rng_state())


def test_dropout_works_and_repeats(home: Path) -> None:
    losses = []
    for dropout in (0.0, 0.5, 0.5):
        trained = trainer(home, adapter={"dropout": dropout})
        torch.manual_seed(len(losses))
        losses.append([trained.step([batch()]).loss for _ in range(3)])
    assert losses[1] == losses[2] != losses[0]


@pytest.mark.parametrize(("dropout", "different"), [(0.0, 1), (0.5, 8)])
def test_every_pass_of_every_step_and_seed_draws_dropout_of_its_own(home: Path, dropout: float,
                                                                    different: int) -> None:
    """Two seeds, two steps, two passes over the same batch, at a rate of next to nothing."""
    seen: list[float] = []
    for seed in (0, 1):
        trained = trainer(home, adapter={"dropout": dropout}, seed=seed, learning_rate=1e-30)
        for parameter in trained.parameters:
            parameter.data += 0.1
        loss = trained.loss

        def watched(one: Batch, loss: Callable[[Batch], Loss] = loss) -> Loss:
            seen.append((found := loss(one)).total.item())
            return found

        trained.loss = watched
        for _ in range(2):
            trained.step([batch(), batch()])
    assert len(seen) == 8 and len(set(seen)) == different


def test_the_text_encoder_learns_where_it_is_adapted(home: Path) -> None:
    trained = trainer(home, BOTH)
    before = weights(trained)
    for _ in range(2):
        trained.step([batch()])
    moved = {name for name, tensor in weights(trained).items() if not torch.equal(tensor, before[name])}
    assert any(name.startswith("text_encoder.") for name in moved)
    assert any(name.startswith("denoiser.") for name in moved)


def test_live_conditions_are_those_of_the_cache(home: Path) -> None:
    model = load(home)
    there = cached_prompts(model, model.encode_prompts(PROMPTS))([1, 0, 1])
    now = live_prompts(model, PROMPTS)([1, 0, 1])
    assert there.keys() == now.keys()
    for name in there:
        torch.testing.assert_close(there[name], now[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("components", [("denoiser",), BOTH])
def test_a_checkpoint_goes_on_to_the_same_bits(home: Path, components: tuple[str, ...]) -> None:
    adapter = {"dropout": 0.2}
    unbroken, first = trainer(home, components, adapter), trainer(home, components, adapter)
    second = trainer(home, components, adapter)
    second.restore(gone(first, 3).checkpoint())
    gone(unbroken, 6), gone(second, 6)
    assert same(weights(unbroken), weights(second)) and unbroken.history == second.history
    a, b = unbroken.checkpoint(), second.checkpoint()
    assert a.values == b.values and same(a.tensors, b.tensors)


@pytest.mark.parametrize("changes", [
    pytest.param({"ema": Ema(decay=0.9)}, id="ema"),
    pytest.param({"optimizer": AdamWScheduleFree(type="adamw_schedule_free")}, id="schedule_free",
                 marks=pytest.mark.slow),
    pytest.param({"optimizer": Prodigy(type="prodigy"), "learning_rate": 1.0}, id="prodigy", marks=pytest.mark.slow)])
def test_what_leaves_training_goes_on_too_and_asking_changes_nothing(home: Path, changes: dict[str, Any]) -> None:
    if (package := changes.get("optimizer", AdamW()).REQUIRED_PACKAGE) and not package.is_installed:
        pytest.skip(package.install_command)
    unbroken, first, second = (trainer(home, **changes) for _ in range(3))
    for number in (1, 2):
        weights(gone(first, number))
    second.restore(first.checkpoint())
    gone(unbroken, 4), gone(second, 4)
    raw = {name.removeprefix("adapter/denoiser/"): t for name, t in unbroken.checkpoint().tensors.items()
           if name.startswith("adapter/")}
    assert same(weights(unbroken), weights(second))
    assert same(unbroken.checkpoint().tensors, second.checkpoint().tensors)
    averages = "ema" in changes or changes["optimizer"].HAS_EVAL_WEIGHTS
    assert same(raw, {n.removeprefix("denoiser."): t for n, t in weights(unbroken).items()}) is not averages


def test_the_average_after_each_step_is_that_of_diffusers(home: Path) -> None:
    trained = trainer(home, ema=Ema(decay=0.9))
    assert trained.ema is not None
    theirs = EMAModel(trained.ema.parameters, decay=0.9)
    for step in range(1, 7):
        gone(trained, step)
        theirs.step(trained.ema.parameters)
        assert all(torch.equal(a, b) for a, b in zip(trained.ema.shadow_params, theirs.shadow_params, strict=True))


def test_bf16_computes_in_16_bits_and_learns_in_32(home: Path) -> None:
    exact, rough = trainer(home), trainer(home, precision="bf16")
    a, b = (t.step([batch()]).loss for t in (exact, rough))
    assert a != b and a == pytest.approx(b, rel=0.02)
    assert {p.dtype for p in rough.parameters} == {torch.float32}


def test_fp16_without_a_gpu_is_refused_clearly(home: Path) -> None:
    with pytest.raises(StageFailed, match="fp16") as failure:
        trainer(home, precision="fp16")
    assert failure.value.fix is not None and "precision" in failure.value.fix


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_gives_the_loss_of_the_cpu_and_resumes(home: Path, precision: str) -> None:
    from dbrun.training.device import DTYPES

    def on_gpu() -> Trainer:
        model = FAMILY.load(home / "base", device=torch.device("cuda"), dtype=DTYPES[precision])
        conditions = cached_prompts(model, model.encode_prompts(PROMPTS))
        lora("denoiser", model)
        return Trainer(model, ("denoiser",), conditions, changed(SETTINGS, precision=precision))

    there, again = on_gpu(), on_gpu()
    expected = trainer(home).step([batch()]).loss
    assert there.step([batch()]).loss == pytest.approx(expected, rel=1e-3 if precision == "fp32" else 0.03)
    again.restore(there.checkpoint())
    assert [there.step([batch(n)]).step for n in (1, 2)] == [again.step([batch(n)]).step for n in (1, 2)] == [2, 3]
    assert there.checkpoint().values["scaler"] == again.checkpoint().values["scaler"]
    assert {p.dtype for p in there.parameters} == {torch.float32}
