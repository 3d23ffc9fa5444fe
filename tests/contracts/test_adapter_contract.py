"""What every adapter type must do; a new file in dbrun/adapters is held to it by itself."""

import copy

import pytest
import torch

from dbrun.adapters.artifact import Attached, read_artifact, write_artifact
from dbrun.adapters.attach import attach, disabled, match, read, write
from dbrun.adapters.base import PRESETS, Adapter, types
from dbrun.families.base import families

EVERY = pytest.mark.parametrize("adapter_type", types(), ids=lambda t: t.NAME)


def make(adapter_type: type[Adapter], **settings: object) -> Adapter:
    return adapter_type.model_validate({"type": adapter_type.NAME, **settings})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny base in memory, and noisy samples with a condition to ask it about."""
    family = families()["sd"]
    folder = tmp_path_factory.mktemp("base") / "base"
    family.tiny(folder)
    return family, folder


def ask(family, loaded) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    moments = family.encode_images(loaded, torch.rand(2, 3, 32, 32, generator=draw))
    x_t = torch.randn(moments.shape[0], moments.shape[1] // 2, *moments.shape[2:], generator=draw)
    condition = family.collate(family.encode_prompts(loaded, ["a dog", "a cat"]))
    return family.predict(loaded, x_t, torch.tensor([3, 500]), condition)


@pytest.fixture
def fresh(tiny):
    family, folder = tiny
    return family, family.load(folder, device=torch.device("cpu"), dtype=torch.float32)


@EVERY
@pytest.mark.parametrize("preset", PRESETS)
def test_it_changes_nothing_at_first_and_something_after_a_step(fresh, adapter_type, preset) -> None:
    family, loaded = fresh
    module = family.module(loaded, "denoiser")
    plain = ask(family, loaded).detach()
    modules = match(module, family.presets["denoiser"][preset], adapter_type.layers)
    attach(module, make(adapter_type), modules, seed=1)
    started = ask(family, loaded)
    assert torch.allclose(started, plain, atol=1e-6)
    parameters = [p for p in module.parameters() if p.requires_grad]
    loss = (started - torch.randn(started.shape, generator=torch.Generator().manual_seed(2))).square().mean()
    loss.backward()
    assert all(p.grad is not None for p in parameters)
    torch.optim.SGD(parameters, lr=10.0).step()
    assert not torch.allclose(ask(family, loaded), plain, atol=1e-4)
    with disabled(module):
        assert torch.equal(ask(family, loaded), plain)


@EVERY
@pytest.mark.parametrize("component", ["denoiser", "text_encoder"])
def test_its_state_survives_a_folder_and_a_fresh_base(tiny, adapter_type, component, tmp_path) -> None:
    family, folder = tiny
    loads = [family.load(folder, device=torch.device("cpu"), dtype=torch.float32) for _ in range(2)]
    module = family.module(loads[0], component)
    modules = match(module, family.presets[component]["attention"], adapter_type.layers)
    adapter = make(adapter_type).decided(modules)
    attach(module, adapter, modules, seed=1)
    draw = torch.Generator().manual_seed(3)
    write(module, {k: t + 0.05 * torch.randn(t.shape, generator=draw) for k, t in read(module).items()})
    write_artifact(tmp_path, {component: Attached(adapter, modules, read(module))})
    back = read_artifact(tmp_path)[component]
    assert back.adapter == adapter
    back.onto(family.module(loads[1], component))
    assert torch.equal(ask(family, loads[0]), ask(family, loads[1]))


@EVERY
def test_its_first_weights_have_an_address(fresh, adapter_type) -> None:
    family, loaded = fresh
    module = family.module(loaded, "denoiser")
    modules = match(module, family.presets["denoiser"]["attention"], adapter_type.layers)
    states = []
    for seed in (4, 4, 5):
        twin = copy.deepcopy(module)
        before = torch.get_rng_state()
        attach(twin, make(adapter_type), modules, seed=seed)
        assert torch.equal(before, torch.get_rng_state())
        states.append(read(twin))
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert any(not torch.equal(states[0][k], states[2][k]) for k in states[0])


@EVERY
def test_its_key_names_its_type(adapter_type) -> None:
    assert make(adapter_type).model_dump()["type"] == adapter_type.NAME
