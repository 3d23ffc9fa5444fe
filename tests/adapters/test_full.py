"""Does `type: full` teach the component's own weights, those and no others, and give the base back when asked?"""

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_steps import gone
from tiny_training import FAMILY, PROMPTS, digests, load
from torch import Tensor
from train_settings import changed, train_settings
from transformers import CLIPTextModel

from dbrun.adapters.adapter_io import ComponentAdapter, read_adapters, write_adapters
from dbrun.adapters.attach import attach, cast_for_inference, disable_adapter, match_layers, read_weights, write_weights
from dbrun.adapters.base import any_adapter
from dbrun.adapters.full import Full
from dbrun.errors import StageFailed
from dbrun.formats.base import formats
from dbrun.formats.roundtrip import Probe, ReferencePredictions
from dbrun.models.base import Model
from dbrun.options.optimizers import AdamW
from dbrun.options.schedules import Constant
from dbrun.training.loop import Trainer
from dbrun.training.prompt_embeds import live_prompts

PROBE = Probe("a photo of sks dog", 32)
SETTINGS = train_settings(steps=6, learning_rate=1e-3, accumulation=1, max_grad_norm=1.0, optimizer=AdamW(),
                    schedule=Constant(), precision="fp32", prior_weight=1.0, seed=0)
BOTH = ("denoiser", "text_encoder")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("full")
    FAMILY.write_tiny_base(place / "base")
    return place


def put(model: Model, component: str, **changes: object) -> ComponentAdapter:
    adapter, module = Full.model_validate({"type": "full", **changes}), model.module(component)
    modules = match_layers(module, adapter.targets, adapter.layer_classes)
    attach(module, adapter, modules, seed=0)
    return ComponentAdapter(adapter.resolved_for(modules), modules, read_weights(module))


def trainer(model: Model, components: tuple[str, ...], **changes: object) -> Trainer:
    return Trainer(model, components, live_prompts(model, PROMPTS), changed(SETTINGS, **changes))


def ask(model: Model) -> Tensor:
    for component in BOTH:
        model.module(component).eval()
    return PROBE.predict(model)


@pytest.mark.parametrize("component", BOTH)
def test_it_starts_as_the_base_and_only_the_named_component_changes(home: Path, component: str) -> None:
    model = load(home)
    base, before = ask(model), digests(model)
    attached = put(model, component)
    assert torch.equal(ask(model), base)
    gone(trainer(model, (component,)), 2)
    after, place = digests(model), FAMILY.components[component]
    changed = {name for name in before if before[name] != after[name]}
    learning = {name for name, _ in model.module(component).named_parameters()}
    assert set(attached.state) == learning
    assert changed and changed <= {f"{place}.{name}" for name in learning}
    assert len(changed) > 0.95 * len(learning)
    assert not torch.allclose(ask(model), base, atol=1e-3)


def test_targets_name_the_modules_that_learn_with_all_within_them(home: Path) -> None:
    model = load(home)
    attached = put(model, "denoiser", targets=("mid_block", "to_k"))
    assert attached.state and all(name.startswith("mid_block.") or ".to_k." in name for name in attached.state)
    assert any(".norm" in name for name in attached.state)
    before = digests(model)
    gone(trainer(model, ("denoiser",)), 1)
    changed = {name for name, digest in digests(model).items() if digest != before[name]}
    assert changed and {name.removeprefix("unet.") for name in changed} <= set(attached.state)


def test_switched_off_it_is_the_base_to_the_bit(home: Path) -> None:
    model = load(home)
    base, before = ask(model), digests(model)
    put(model, "denoiser")
    gone(trainer(model, ("denoiser",)), 2)
    trained, learnt = ask(model), digests(model)
    with disable_adapter(model.module("denoiser")):
        assert torch.equal(ask(model), base) and digests(model) == before
    assert torch.equal(ask(model), trained) and digests(model) == learnt


def test_a_prediction_of_the_base_between_forward_and_backward_changes_no_gradient(home: Path) -> None:
    gradients = []
    for between in (False, True):
        model = load(home)
        put(model, "denoiser")
        gone(trainer(model, ("denoiser",)), 1)
        unet = model.module("denoiser")
        x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        loss = unet(x, torch.tensor([5]), torch.ones(1, 3, 32)).sample.square().mean()
        if between:
            with disable_adapter(unet), torch.no_grad():
                unet(x, torch.tensor([5]), torch.ones(1, 3, 32))
        loss.backward()
        gradients.append([p.grad.clone() for p in unet.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("at", [1, 3])
def test_a_resumed_training_ends_in_the_same_bits(home: Path, at: int) -> None:
    unbroken, first, second = (load(home) for _ in range(3))
    for loaded in (unbroken, first, second):
        for component in BOTH:
            put(loaded, component)
    there = gone(trainer(first, BOTH), at).checkpoint()
    resumed = trainer(second, BOTH)
    resumed.restore(there)
    a, b = gone(trainer(unbroken, BOTH), 5).checkpoint(), gone(resumed, 5).checkpoint()
    assert a.values == b.values and a.tensors.keys() == b.tensors.keys()
    assert all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)


def test_it_is_saved_and_read_exactly(home: Path, tmp_path: Path) -> None:
    model, fresh = load(home), load(home)
    first = put(model, "text_encoder")
    states = gone(trainer(model, ("text_encoder",)), 2).adapter_states()
    write_adapters(tmp_path, {"text_encoder": ComponentAdapter(first.adapter, first.modules, states["text_encoder"])})
    back = read_adapters(tmp_path)["text_encoder"]
    assert back.adapter == first.adapter
    back.attach_to(fresh.module("text_encoder"))
    assert torch.equal(ask(fresh), ask(model))
    with pytest.raises(StageFailed, match="stored weights differ in name or shape"):
        write_weights(fresh.module("text_encoder"), dict(list(back.state.items())[1:]))


@pytest.mark.parametrize("component", BOTH)
def test_its_own_class_reads_what_is_exported(home: Path, tmp_path: Path, component: str) -> None:
    model, fresh, form = load(home), load(home), formats()["component"]
    base, first = ask(model), put(model, component)
    state = gone(trainer(model, (component,)), 2).adapter_states()[component]
    trained = {component: ComponentAdapter(first.adapter, first.modules, state)}
    files = form.write(tmp_path, FAMILY, trained, lambda: load(home))
    kind, place = {"denoiser": (UNet2DConditionModel, "unet"), "text_encoder": (CLIPTextModel, "text_encoder")}[
        component]
    theirs = kind.from_pretrained(tmp_path / "component" / place)
    assert all(torch.equal(theirs.get_parameter(name), tensor) for name, tensor in state.items())
    assert files and str(home) not in (tmp_path / "component" / place / "config.json").read_text()
    assert "_name_or_path" not in json.loads((tmp_path / "component" / place / "config.json").read_text())
    expected = ReferencePredictions(base, ask(model), trained)
    form.read(tmp_path, fresh, (component,))
    assert expected.compare(ask(fresh), fresh, form) == 0.0
    with pytest.raises(StageFailed, match="ignored or changed"):
        expected.compare(ask(model), load(home), form)


def test_in_16_bits_it_learns_in_32_and_is_drawn_in_16(home: Path) -> None:
    model = FAMILY.load(home / "base", device=torch.device("cpu"), dtype=torch.bfloat16)
    put(model, "denoiser", targets=("to_q", "mid_block"))
    trained = gone(trainer(model, ("denoiser",), precision="bf16"), 1)
    assert {p.dtype for p in trained.parameters} == {torch.float32}
    unet = model.module("denoiser").eval()
    cast_for_inference(unet, torch.bfloat16)
    assert {p.dtype for p in unet.parameters()} == {torch.bfloat16}
    model.generate("a dog", seed=0, steps=1, guidance=1.0, resolution=32)


def test_a_recipe_can_say_it() -> None:
    from pydantic import TypeAdapter

    adapter = TypeAdapter(any_adapter()).validate_python({"type": "full"})
    assert isinstance(adapter, Full) and adapter.targets == ("*",)
    assert [fault[0] for fault in adapter.model_copy(update={"init": "x"}).field_problems()] == ["init"]
