"""Does each component learn at its own rate, and only as long as it is told to?"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from representatives import cases
from tiny_steps import BOTH, batch, gone, same
from tiny_training import FAMILY, PROMPTS, load, lora
from torch import Tensor
from train_settings import Own, changed, train_settings

from dbrun.adapters.attach import read_weights, write_weights
from dbrun.errors import StageFailed
from dbrun.models.prompt_encoding import KnownOutputs
from dbrun.options.optimizers import AdamW
from dbrun.options.schedules import Linear
from dbrun.training.checkpoint import Checkpoint
from dbrun.training.loop import Trainer
from dbrun.training.prompt_embeds import PromptEncoder, cached_prompts, live_prompts

CPU = torch.device("cpu")
DROPOUT = {"dropout": 0.2}
SETTINGS = train_settings(steps=8, learning_rate=1e-2, accumulation=1, max_grad_norm=1.0,
                          optimizer=AdamW(weight_decay=0.1),
                    schedule=Linear(type="linear", warmup_steps=2), precision="fp32", prior_weight=1.0, seed=0)
STOP = 4
STOPPING = Own({"text_encoder": 3e-3}, {"text_encoder": STOP})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("learners")
    FAMILY.write_tiny_base(place / "base")
    return place


def trainer(home: Path, own: Own, *, conditions: PromptEncoder | None = None,
            **changes: object) -> Trainer:
    model = load(home)
    for component in BOTH:
        lora(component, model, **DROPOUT)
    return Trainer(model, BOTH, conditions or live_prompts(model, PROMPTS),
                   changed(SETTINGS, own=own, **changes))


def equal(a: Checkpoint, b: Checkpoint) -> bool:
    return (a.step, a.values) == (b.step, b.values) and same(a.tensors, b.tensors)


class ByHand:
    """AdamW as its paper writes it (Loshchilov and Hutter 2017, algorithm 2), in float64."""

    def __init__(self, parameters: Sequence[Tensor], choice: AdamW) -> None:
        self.theta = [p.detach().double() for p in parameters]
        self.m, self.v = ([torch.zeros_like(p) for p in self.theta] for _ in range(2))
        self.choice, self.t = choice, 0

    def step(self, gradients: Sequence[Tensor], rate: float) -> None:
        c, self.t = self.choice, self.t + 1
        for i, g in enumerate(gradients):
            self.m[i] = c.beta1 * self.m[i] + (1 - c.beta1) * g.double()
            self.v[i] = c.beta2 * self.v[i] + (1 - c.beta2) * g.double() ** 2
            m_hat, v_hat = self.m[i] / (1 - c.beta1**self.t), self.v[i] / (1 - c.beta2**self.t)
            self.theta[i] = self.theta[i] - rate * (m_hat / (v_hat.sqrt() + c.epsilon)
                                                    + c.weight_decay * self.theta[i])


def test_each_component_takes_adamws_steps_at_its_own_rate(home: Path) -> None:
    trained = trainer(home, Own({"denoiser": 2e-2, "text_encoder": 3e-3}))
    weights = {one.component: flat.weights
               for one, flat in zip(trained.param_groups, trained.flat_weights, strict=True)}
    by_hand = {component: ByHand(own, trained.settings.optimizer) for component, own in weights.items()}
    peaks = {"denoiser": 2e-2, "text_encoder": 3e-3}
    step = trained.optimizer.step
    # warm-up over two steps, then linearly to zero at the eighth
    factors = [0.0, 0.5, 1.0, 5 / 6, 4 / 6]

    def watched() -> None:
        for component, own in weights.items():
            rate = peaks[component] * factors[len(trained.history)]
            by_hand[component].step([p.grad for p in own], rate)
        step()

    trained.optimizer.step = watched
    gone(trained, 5)
    for component, own in weights.items():
        for ours, theirs in zip(own, by_hand[component].theta, strict=True):
            torch.testing.assert_close(ours.detach().double(), theirs, rtol=1e-5, atol=1e-7)
    for row, factor in zip(trained.history, factors, strict=True):
        assert row.learning_rates == pytest.approx({name: peak * factor for name, peak in peaks.items()}, rel=1e-12)


def test_one_common_rate_is_what_it_was_without_groups(home: Path) -> None:
    plain, named = (gone(trainer(home, own), 3)
                    for own in (Own(), Own({"text_encoder": 1e-2})))
    assert same(plain.adapter_states()["text_encoder"], named.adapter_states()["text_encoder"])
    assert plain.history[-1].learning_rates == {} and named.history[-1].learning_rates.keys() == set(BOTH)


def test_after_its_stop_a_component_and_its_moments_stay_to_the_byte(home: Path) -> None:
    trained = gone(trainer(home, STOPPING), STOP)
    there = trained.checkpoint()
    gone(trained, 8)
    after = trained.checkpoint()
    first = len(trained.flat_weights[0].weights)
    for name, tensor in there.tensors.items():
        kind, place = name.split("/")[:2]
        of_text_encoder = place == "text_encoder" or (kind == "optimizer" and int(place) >= first)
        if of_text_encoder:
            assert torch.equal(after.tensors[name], tensor), name
    assert not same(there_of(there, "denoiser"), there_of(after, "denoiser"))
    assert [row.learning_rates["text_encoder"] > 0 for row in trained.history] == [False, *[True] * 3, *[False] * 4]


def there_of(checkpoint: Checkpoint, component: str) -> dict[str, Tensor]:
    return {name: t for name, t in checkpoint.tensors.items() if name.startswith(f"adapter/{component}/")}


def test_before_the_stop_nothing_differs(home: Path) -> None:
    a, b = (gone(trainer(home, own), STOP) for own in (STOPPING, Own(STOPPING.rates)))
    assert all(same(a.adapter_states()[c], b.adapter_states()[c]) for c in BOTH)
    gone(a, STOP + 1), gone(b, STOP + 1)
    assert not any(same(a.adapter_states()[c], b.adapter_states()[c]) for c in BOTH[1:])


def test_the_denoiser_goes_on_as_if_the_text_encoder_had_been_frozen_by_hand(home: Path) -> None:
    """From the stop on, a trainer of the denoiser alone, on prompts that the stopped text encoder encoded once."""
    trained = gone(trainer(home, STOPPING), STOP)
    there, states = trained.checkpoint(), trained.adapter_states()
    model = load(home)
    lora("text_encoder", model, **DROPOUT)
    frozen = model.module("text_encoder").requires_grad_(False).eval()
    write_weights(frozen, states["text_encoder"])
    with torch.no_grad():
        encoded = [model.encode_prompts([prompt])[0] for prompt in PROMPTS]
    lora("denoiser", model, **DROPOUT)
    alone = Trainer(model, ("denoiser",), cached_prompts(model, encoded),
                    changed(SETTINGS, own=Own()))
    count = len(alone.flat_weights[0].weights)
    optimizer = {**there.values["optimizer"], "groups": there.values["optimizer"]["groups"][:1]}
    alone.restore(replace(there, values={**there.values, "optimizer": optimizer}, tensors={
        name: t for name, t in there.tensors.items() if name.startswith("adapter/denoiser/")
        or (name.startswith("optimizer/") and int(name.split("/")[1]) < count)}))
    gone(alone, 8), gone(trained, 8)
    assert same(alone.adapter_states()["denoiser"], trained.adapter_states()["denoiser"])
    assert [m.loss for m in alone.history] == [m.loss for m in trained.history]
    assert same(read_weights(frozen), trained.adapter_states()["text_encoder"])


@pytest.mark.parametrize("at", cases([STOP - 1, STOP, STOP + 1], 1))
def test_resumed_before_at_or_after_the_stop_ends_in_the_same_bits(home: Path, at: int) -> None:
    unbroken, first = (trainer(home, STOPPING) for _ in range(2))
    second = trainer(home, STOPPING)
    second.restore(gone(first, at).checkpoint())
    assert equal(gone(unbroken, 8).checkpoint(), gone(second, 8).checkpoint())


@pytest.mark.parametrize(("own", "encodings"), [
    (Own(), [(2, True)] * 8), (STOPPING, [(2, True)] * STOP + [(1, False)] * 2),
    (Own(stops={"denoiser": STOP}), [(2, True)] * 8)])
def test_prompts_are_encoded_with_gradients_as_long_as_the_text_encoder_learns(
        home: Path, monkeypatch: pytest.MonkeyPatch, own: Own,
        encodings: list[tuple[int, bool]]) -> None:
    """How many prompts each call encodes, and whether with gradients."""
    calls: list[tuple[int, bool]] = []
    encode = FAMILY.model.encode_prompts

    def watched(self: object, prompts: Sequence[str], known: KnownOutputs) -> object:
        calls.append((len(prompts), torch.is_grad_enabled()))
        return encode(self, prompts, known)

    monkeypatch.setattr(FAMILY.model, "encode_prompts", watched)
    gone(trainer(home, own), 8)
    assert calls == encodings


def test_a_text_encoder_that_learns_from_cached_prompts_is_refused(home: Path) -> None:
    model = load(home)
    conditions = cached_prompts(model, model.encode_prompts(PROMPTS))
    with pytest.raises(StageFailed, match="text_encoder learns, but the prediction does not depend on it"):
        gone(trainer(home, Own(), conditions=conditions), 1)


def test_the_norm_after_the_stop_is_the_denoisers(home: Path) -> None:
    trained = gone(trainer(home, STOPPING, max_grad_norm=None), STOP)
    seen: list[float] = []
    step = trained.optimizer.step

    def watched() -> None:
        seen.append(math.sqrt(sum(float(p.grad.square().sum()) for p in trained.flat_weights[0].weights)))
        step()

    trained.optimizer.step = watched
    assert trained.step([batch(9)]).grad_norm == pytest.approx(seen[0], rel=1e-5)
