"""Is the base's own prediction, where it is the target, really the base's?"""

from pathlib import Path
from typing import Any

import pytest
import tiny_steps
import torch
from tiny_steps import BOTH, batch, gone, same, weights
from tiny_training import FAMILY, PROMPTS, load, lora
from train_settings import Own

from dbrun.training.contexts import frozen_base
from dbrun.training.loop import Trainer
from dbrun.training.prompt_embeds import cached_prompts, live_prompts

CPU = torch.device("cpu")
EITHER = pytest.mark.parametrize("components", [("denoiser",), BOTH], ids=["cached", "live"])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("priors")
    FAMILY.write_tiny_base(place / "base")
    return place


def trainer(home: Path, components: tuple[str, ...], **changes: Any) -> Trainer:
    return tiny_steps.trainer(home, components, of_base=True, **changes)


def far_from_its_start(home, components, **changes) -> Trainer:
    """A trainer towards the base whose adapters are no longer zero."""
    made = trainer(home, components, **changes)
    draw = torch.Generator().manual_seed(0)
    for parameter in made.parameters:
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    return made


@EITHER
def test_an_untrained_adapter_predicts_what_the_base_does(home, components) -> None:
    """To rounding: class rows alone and beside instance rows may differ in their last bits."""
    seen = trainer(home, components).step([batch()])
    assert seen.prior_loss == pytest.approx(0.0, abs=1e-12)
    assert seen.instance_loss == tiny_steps.trainer(home, components).step([batch()]).instance_loss > 0.1


@EITHER
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_the_gradient_is_that_of_two_passes_by_hand(home, components, weight) -> None:
    """The second pass is a fresh base that has never seen an adapter."""
    trained, one = far_from_its_start(home, components, prior_weight=weight), batch()
    base = load(home)
    with torch.no_grad():
        x_t = trained.process.add_noise(one.x0, one.noise, one.t)
        condition = base.collate_conditions(base.encode_prompts([PROMPTS[0]]) * 2)
        target = base.predict(x_t[2:], one.t[2:], condition)
    pred = trained.model.predict(x_t, one.t, trained.prompt_encoder(one.prompts))
    loss = (pred[:2] - one.noise[:2]).square().mean() + weight * (pred[2:] - target).square().mean()
    expected = torch.autograd.grad(loss, trained.parameters)

    ours = trained.loss(one)
    assert ours.total.item() == pytest.approx(loss.item(), rel=1e-6)
    ours.total.backward()
    for parameter, gradient in zip(trained.parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)


def test_the_text_encoders_adapter_is_off_for_the_target_too(home) -> None:
    """Only the text encoder's adapter is far from zero: the base's answer must not move with it."""
    trained = trainer(home, BOTH)
    for parameter in trained.modules["text_encoder"].parameters():
        if parameter.requires_grad:
            parameter.data += 0.3
    one = batch()
    x_t = trained.process.add_noise(one.x0, one.noise, one.t)
    with torch.no_grad():
        base = load(home)
        condition = base.collate_conditions(base.encode_prompts([PROMPTS[0]]) * 2)
        target = base.predict(x_t[2:], one.t[2:], condition)
        moved = trained.model.predict(x_t[2:], one.t[2:], trained.prompt_encoder(one.prompts[2:]))
    assert not torch.allclose(moved, target, atol=1e-4)
    assert trained.loss(one).prior.item() == pytest.approx(float((moved - target).square().mean()), rel=1e-4)


def test_a_pass_of_the_base_leaves_everything_as_it_was(home) -> None:
    trained, one = far_from_its_start(home, BOTH), batch()
    noise, before = one.noise.clone(), weights(trained)
    trained.loss(one).total.backward()
    assert torch.equal(one.noise, noise) and all(torch.equal(t, before[n]) for n, t in weights(trained).items())
    assert all(p.requires_grad and p.grad is not None for p in trained.parameters)
    assert all(m.training for m in trained.modules.values())


def test_the_target_has_no_dropout_and_no_gradient(home) -> None:
    model = load(home)
    lora("denoiser", model, dropout=0.9)
    conditions = cached_prompts(model, model.encode_prompts(PROMPTS))
    unet = model.module("denoiser").train()
    dropping = [m for m in unet.modules() if isinstance(m, torch.nn.Dropout)]
    for module in dropping:
        module.p = 0.5
    with frozen_base([unet]):
        assert dropping and not any(m.training for m in dropping)
        a, b = (model.predict(one.x0, one.t, conditions(one.prompts)) for one in (batch(), batch()))
    assert torch.equal(a, b) and not a.requires_grad and all(m.training for m in dropping)


def test_live_prompts_are_encoded_by_the_base_and_only_for_the_target(home) -> None:
    trained = far_from_its_start(home, BOTH)
    own = live_prompts(load(home), PROMPTS)([0, 1])
    assert trained.base_prompt_encoder is not None
    with frozen_base(trained.modules.values()):
        there = trained.base_prompt_encoder([0, 1])
    assert all(torch.equal(own[name], there[name]) for name in own)
    assert not torch.equal(own["hidden"], trained.prompt_encoder([0, 1])["hidden"])


def test_a_text_encoder_that_stopped_stays_at_rest_and_keeps_what_it_learnt(home) -> None:
    trained = trainer(home, BOTH, own=Own(stops={"text_encoder": 2}))
    gone(trained, 2)
    text, learnt = trained.modules["text_encoder"], weights(trained)
    for number in (3, 4):
        gone(trained, number)
        assert not text.training and not any(p.requires_grad for p in text.parameters())
    assert all(torch.equal(t, learnt[n]) == n.startswith("text_encoder") for n, t in weights(trained).items()
               if "lora_B" in n)
    own = live_prompts(load(home), PROMPTS)([0])
    now = trained.prompt_encoder([0])["hidden"]
    assert not torch.equal(own["hidden"], now), "the class prompt, as it is learnt now"


@EITHER
def test_a_checkpoint_goes_on_to_the_same_bits(home, components) -> None:
    unbroken, first = (trainer(home, components) for _ in range(2))
    second = trainer(home, components)
    second.restore(gone(first, 2).checkpoint())
    gone(unbroken, 4), gone(second, 4)
    assert unbroken.history == second.history and same(weights(unbroken), weights(second))
