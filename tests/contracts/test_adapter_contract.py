"""What every adapter type must do on every component; a new file in dbrun/adapters is held to it by itself.

Each is trained for two real steps on the tiny base, whose predictions reach 1.0; that moves them by 0.01 to 0.5.
Measured in 32 bits on a CPU, the largest over all kinds and both components:

- at the start: 0 exactly; PiSSA, whose two halves cancel: 8.9e-7
- saved and put on a fresh base: 0 exactly
- merged by peft, against attached: 1.5e-6
- read by `PeftModel.from_pretrained`: 0 exactly; PiSSA, which is a LoRA of twice the rank there: 9.2e-7
"""

import copy
import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_kinds import KINDS, make, moved, put, widest
from peft import PeftModel, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from representatives import cases
from train_settings import changed, train_settings

from dbrun.adapters.adapter_io import ComponentAdapter, read_adapters, write_adapters
from dbrun.adapters.attach import attach, disable_adapter, match_layers, read_weights, write_weights
from dbrun.adapters.base import TARGET_PRESETS, Adapter
from dbrun.formats.base import formats
from dbrun.formats.roundtrip import Probe
from dbrun.models.base import Model, families
from dbrun.options.optimizers import AdamW
from dbrun.options.schedules import Constant
from dbrun.training.batches import Batch
from dbrun.training.loop import Trainer
from dbrun.training.prompt_embeds import live_prompts

FAMILY = families()["sd"]
CPU = torch.device("cpu")
EVERY = pytest.mark.parametrize("kind", KINDS)
REPRESENTATIVE = "lora"
"""The kind that the default set tries on every component; it tries the others on the denoiser, `slow` the rest."""
PAIRS = list(itertools.product(("lora", "loha", "lokr"), repeat=2))
USUAL_PAIRS = [("lokr", "lora"), ("lora", "loha"), ("loha", "lokr")]
"""Each type once on either component."""
AT_START, ROUNDED_AT_START = 0.0, 5e-6
"""Largest change of a prediction by an adapter that has learnt nothing; by one whose start cancels but for rounding."""
MERGED = 5e-6
"""Largest difference between weights that peft merged and the adapter beside them."""
REREAD, PISSA_REREAD = 0.0, 5e-6
"""Largest difference between what was trained and what peft reads."""
SETTINGS = train_settings(steps=2, learning_rate=1e-2, accumulation=1, max_grad_norm=1.0, optimizer=AdamW(),
                    schedule=Constant(), precision="fp32", prior_weight=1.0, seed=0)
PROMPTS = ("a photo of a dog", "a photo of sks dog")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("base") / "base"
    FAMILY.write_tiny_base(place)
    return place


def load(folder: Path) -> Model:
    return FAMILY.load(folder, device=CPU, dtype=torch.float32)


def ask(model: Model) -> torch.Tensor:
    return Probe("a photo of sks dog", 32).predict(model)


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def learn(model: Model, components: tuple[str, ...], steps: int,
          precision: str = "fp32") -> dict[str, dict[str, torch.Tensor]]:
    """Train what is attached for so many steps of the one loop, with live prompts."""
    trainer = Trainer(model, components, live_prompts(model, PROMPTS),
                      changed(SETTINGS, precision=precision))
    for step in range(steps):
        draw = torch.Generator().manual_seed(step)
        x0, noise = (torch.randn(2, 4, 8, 8, generator=draw) for _ in range(2))
        trainer.step([Batch(x0, noise, torch.tensor([100, 900]), (1, 0), 1)])
    for component in components:
        model.module(component).eval()
    return trainer.adapter_states()


def digests(model: Model) -> dict[str, str]:
    """Of everything that no adapter owns, by its name in the bare base."""
    found = {}
    for component in FAMILY.components:
        for name, tensor in model.module(component).state_dict().items():
            bare = name.replace(".base_layer.", ".")
            if not {"default", "start"} & set(name.split(".")):
                found[f"{component}.{bare}"] = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
    return found


@dataclass(frozen=True)
class Run:
    """before, after: digests of the base around the training; base, started, trained: predictions."""

    attached: ComponentAdapter
    component: str
    model: Model
    before: dict[str, str]
    after: dict[str, str]
    base: torch.Tensor
    started: torch.Tensor
    trained: torch.Tensor


def slow_unless(usual: bool, *values: Any, name: str) -> Any:
    """A case of the default set, or one that is marked slow."""
    return pytest.param(*values, marks=() if usual else pytest.mark.slow, id=name)


@pytest.fixture(scope="module", params=[
    slow_unless(c == "denoiser" or k == REPRESENTATIVE, (k, c), name=f"{k}-{c}")
    for k in KINDS for c in FAMILY.components])
def run(request: pytest.FixtureRequest, folder: Path) -> Run:
    """A kind on a component, as wide as it can go, after two steps."""
    kind, component = request.param
    model = load(folder)
    base, before = ask(model), digests(model)
    adapter = make(kind)
    first = put(model, component, adapter, widest(adapter))
    started = ask(model)
    state = learn(model, (component,), 2)[component]
    return Run(ComponentAdapter(first.adapter, first.modules, state), component, model, before, digests(model), base,
               started, ask(model))


def pissa(run: Run) -> bool:
    return run.attached.adapter.frozen_peft_config(run.attached.modules) is not None


def test_it_starts_as_the_base(run: Run) -> None:
    assert apart(run.started, run.base) <= (AT_START if run.attached.adapter.starts_exactly else ROUNDED_AT_START)


def test_training_changes_its_own_weights_and_no_others(run: Run, folder: Path) -> None:
    assert run.before == run.after and len(run.before) > 100
    assert apart(run.trained, run.base) > 1e-3
    first = put(load(folder), run.component, run.attached.adapter, widest(run.attached.adapter)).state
    assert first.keys() == run.attached.state.keys()
    stays = {name for name, tensor in first.items() if torch.equal(tensor, run.attached.state[name])}
    assert stays == {name for name in first if name.startswith("start/")}


def test_it_is_saved_and_read_exactly(run: Run, folder: Path, tmp_path: Path) -> None:
    write_adapters(tmp_path, {run.component: run.attached})
    back, fresh = read_adapters(tmp_path)[run.component], load(folder)
    assert back.adapter == run.attached.adapter
    back.attach_to(fresh.module(run.component))
    assert torch.equal(ask(fresh), run.trained)
    assert all(torch.equal(t, run.attached.state[n])
               for n, t in read_weights(fresh.module(run.component)).items())


def test_merged_is_attached(run: Run, folder: Path) -> None:
    fresh = load(folder)
    run.attached.attach_to(fresh.module(run.component))
    for layer in fresh.module(run.component).modules():
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
    assert apart(ask(fresh), run.trained) <= MERGED


def test_peft_itself_reads_it(run: Run, folder: Path, tmp_path: Path) -> None:
    formats()["peft"].write(tmp_path, FAMILY, {run.component: run.attached}, lambda: load(folder))
    answer = by_peft(load(folder), tmp_path, run.component)
    assert apart(answer, run.trained) <= (PISSA_REREAD if pissa(run) else REREAD)


def by_peft(model: Model, folder: Path, *components: str) -> torch.Tensor:
    for component in components:
        place = FAMILY.components[component]
        wrapped = PeftModel.from_pretrained(getattr(model.pipeline, place), folder / "peft" / component)
        model.replace_components({place: wrapped})
    return ask(model)


def test_switched_off_it_is_the_base_and_switched_on_it_trains_as_before(run: Run) -> None:
    module = run.model.module(run.component)
    trains = [p.requires_grad for p in module.parameters()]
    with disable_adapter(module):
        assert torch.equal(ask(run.model), run.base)
    assert torch.equal(ask(run.model), run.trained)
    assert [p.requires_grad for p in module.parameters()] == trains


@pytest.mark.parametrize(("on_denoiser", "on_text"), [
    slow_unless(pair in USUAL_PAIRS, *pair, name="-".join(pair)) for pair in PAIRS])
def test_every_pair_of_types_trains_together_and_is_read_exactly(folder: Path, tmp_path: Path, on_denoiser: str,
                                                                 on_text: str) -> None:
    model = load(folder)
    base = ask(model)
    first = {"denoiser": put(model, "denoiser", make(on_denoiser), "all"),
             "text_encoder": put(model, "text_encoder", make(on_text), "attention+ff")}
    states = learn(model, tuple(first), 3)
    trained = {name: ComponentAdapter(a.adapter, a.modules, states[name]) for name, a in first.items()}
    formats()["peft"].write(tmp_path, FAMILY, trained, lambda: load(folder))
    assert torch.equal(by_peft(load(folder), tmp_path, *first), ask(model))
    assert apart(by_peft(load(folder), tmp_path, "denoiser"), ask(model)) > 1e-4
    assert apart(by_peft(load(folder), tmp_path, "text_encoder"), ask(model)) > 1e-4
    assert apart(ask(model), base) > 1e-3


@pytest.mark.parametrize("kind", cases(KINDS, *map(list(KINDS).index, (REPRESENTATIVE, "lokr"))))
def test_every_preset_that_it_can_carry_learns(folder: Path, kind: str) -> None:
    adapter, bare = make(kind), load(folder)
    base, denoiser = ask(bare), bare.pipeline.unet
    for preset in FAMILY.target_presets["denoiser"]:
        if TARGET_PRESETS.index(preset) > TARGET_PRESETS.index(widest(adapter)):
            continue
        bare.replace_components({"unet": copy.deepcopy(denoiser)})
        write_weights(bare.pipeline.unet, moved(put(bare, "denoiser", adapter, preset), by=0.1).state)
        assert apart(ask(bare), base) > 1e-2


@EVERY
def test_its_first_weights_have_an_address(folder: Path, kind: str) -> None:
    module = load(folder).module("denoiser")
    modules = match_layers(module, FAMILY.target_presets["denoiser"]["attention"])
    states = []
    for seed in (4, 4, 5):
        twin = copy.deepcopy(module)
        before = torch.get_rng_state()
        attach(twin, make(kind), modules, seed=seed)
        assert torch.equal(before, torch.get_rng_state())
        states.append(read_weights(twin))
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    differs = any(not torch.equal(states[0][k], states[2][k]) for k in states[0])
    assert differs == draws_its_start(module, modules, make(kind))


def draws_its_start(module: torch.nn.Module, modules: tuple[str, ...], adapter: Adapter) -> bool:
    """Whether peft and the adapter itself, without dbrun, begin elsewhere under another global seed."""
    starts = []
    for seed in (1, 2):
        twin = copy.deepcopy(module)
        layers = {name: twin.get_submodule(name) for name in modules}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(adapter.peft_config(modules), twin)
        drawn = {name: tensor.clone() for name, tensor in get_peft_model_state_dict(twin).items()}
        starts.append(adapter.initial_weights(layers, drawn))
    return any(not torch.equal(starts[0][k], starts[1][k]) for k in starts[0])


@EVERY
def test_its_document_names_its_type_and_is_read_back(kind: str) -> None:
    adapter: Any = make(kind)
    assert type(adapter).model_validate({**adapter.to_json(), "targets": adapter.targets}) == adapter
    assert adapter.to_json()["type"] == adapter.NAME


@EVERY
def test_it_trains_in_bfloat16(folder: Path, kind: str) -> None:
    model = FAMILY.load(folder, device=CPU, dtype=torch.bfloat16)
    first = put(model, "denoiser", make(kind), "attention").state
    last = learn(model, ("denoiser",), 1, precision="bf16")["denoiser"]
    assert all(p.dtype == torch.float32 for p in model.pipeline.unet.parameters() if p.requires_grad)
    assert any(not torch.equal(first[n], t) for n, t in last.items())
