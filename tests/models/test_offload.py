"""Do offloaded blocks give the numbers of resident ones, bit for bit, with one block on the device at a time?"""

import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dbrun.adapters.attach import attach, match_layers
from dbrun.adapters.lora import Lora
from dbrun.errors import RecipeError
from dbrun.models.base import Model, families
from dbrun.models.offload import BlockOffload, find_offload

CPU, ELSEWHERE = torch.device("cpu"), torch.device("meta")
LORAS = {"lora": {}, "dora": {"dora": True}, "pissa": {"start": "pissa"}}


def family_cases() -> list[object]:
    """A UNet and a transformer; the other families are slow."""
    return [pytest.param(name, marks=() if name in ("sd", "flux") else pytest.mark.slow) for name in families()]


@pytest.fixture(scope="module", params=family_cases())
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    families()[request.param].write_tiny_base(folder)
    return request.param, folder


def load(home: tuple[str, Path]) -> Model:
    name, folder = home
    return families()[name].load(folder, device=CPU, dtype=torch.float32)


def offloaded(model: Model) -> BlockOffload:
    """The offload of its denoiser, from now on."""
    model.weights.offloaded = model.family.components["denoiser"]
    offload = find_offload(model.denoiser)
    assert offload is not None
    return offload


def put(model: Model, seed: int | None = 1, **changes: object) -> None:
    """A LoRA on every attention layer of the denoiser, with an effect if it has a seed."""
    module = model.denoiser
    names = match_layers(module, model.family.target_presets["denoiser"]["attention"])
    attach(module, Lora.model_validate({"type": "lora", "rank": 2, "targets": "attention", **changes}), names,
           seed=seed)
    draw = torch.Generator().manual_seed(2)
    for parameter in module.parameters():
        if seed is not None and parameter.requires_grad:
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=draw))


def step(model: Model) -> list[Tensor]:
    """The prediction of two rows, and the gradients of its square."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        condition = model.collate_conditions(model.encode_prompts(["a dog", "a cat"]))
        stored = model.encode_images(torch.randn(2, 3, 32, 32, generator=draw))
        clean = model.sample_x0(stored, lambda _, shape: torch.randn(2, *shape, generator=draw),
                                model.family.class_labels[0])
    model.denoiser.train()
    prediction = model.predict(clean.x0, torch.tensor([3, 700]), {**condition, **clean.extra_conditions})
    prediction.square().mean().backward()
    # the last block's text may be read by nothing
    return [prediction.detach(), *(p.grad for p in model.denoiser.parameters() if p.grad is not None)]


class Copies:
    """The copies that an offload has on the device. most: the most bytes that were alive at once."""

    def __init__(self, offload: BlockOffload) -> None:
        self.most, self._make, self._alive = 0, offload.copy, dict[int, tuple[weakref.ref[object], int]]()
        offload.copy = self._copy  # type: ignore[method-assign]

    @property
    def now(self) -> int:
        return sum(size for _, size in self._alive.values())

    def _copy(self, tensor: Tensor) -> Tensor:
        made = self._make(tensor)
        storage = made.untyped_storage()
        self._alive[id(storage)] = (weakref.ref(storage, lambda _, key=id(storage): self._alive.pop(key)),
                                    storage.nbytes())
        self.most = max(self.most, self.now)
        return made


@pytest.mark.parametrize(("kind", "checkpointing"), [("lora", False), ("pissa", True),
                                                     pytest.param("dora", True, marks=pytest.mark.slow)])
def test_a_step_has_the_same_bits_with_one_block_on_the_device(home: tuple[str, Path], kind: str,
                                                               checkpointing: bool) -> None:
    results = []
    for is_offloaded in (False, True):
        model = load(home)
        if is_offloaded:
            offload = offloaded(model)
            copies = Copies(offload)
        put(model, **LORAS[kind])
        if checkpointing:
            model.denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
        results.append(step(model))
    expected, found = results
    assert len(expected) == len(found) > 1
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert any(bool(gradient.abs().sum() > 0) for gradient in found[1:])
    largest = max(sum(p.nbytes for p in block.parameters() if not p.requires_grad) for block in offload.blocks)
    assert copies.now == 0 and 0 < copies.most <= largest < offload.block_bytes


def test_nothing_computes_on_two_devices(home: tuple[str, Path]) -> None:
    """On torch's `meta` device, where an operation that meets a tensor of the CPU raises."""
    name, folder = home
    model = families()[name].load(folder, device=ELSEWHERE, dtype=torch.float32)
    condition, clean = _inputs(load(home))
    offload, module = offloaded(model), model.denoiser
    put(model, seed=None)
    assert {p.device for p in offload.blocks[0].parameters()} == {CPU}
    for part in module.modules():
        # what `place_adapters` does; no parameter becomes a meta tensor by itself
        for key, parameter in part._parameters.items():
            if parameter is not None and parameter.requires_grad:
                part._parameters[key] = nn.Parameter(parameter.to(ELSEWHERE))
    for checkpointing in (False, True):
        if checkpointing:
            module.enable_gradient_checkpointing()  # type: ignore[operator]
        module.train()
        prediction = model.predict(clean, torch.tensor([3, 700]), condition)
        prediction.square().mean().backward()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    assert gradients and all(gradient.device == ELSEWHERE for gradient in gradients)


def _inputs(model: Model) -> tuple[dict[str, Tensor], Tensor]:
    with torch.no_grad():
        condition = model.collate_conditions(model.encode_prompts(["a dog", "a cat"]))
        stored = model.encode_images(torch.zeros(2, 3, 32, 32))
        clean = model.sample_x0(stored, lambda _, shape: torch.zeros(2, *shape), model.family.class_labels[0])
    return {**condition, **clean.extra_conditions}, clean.x0


def test_what_is_attached_is_on_the_device_and_the_base_comes_back(home: tuple[str, Path]) -> None:
    model = load(home)
    offloaded(model)
    denoiser = model.family.components["denoiser"]
    before = {name: p.data_ptr() for name, p in model.denoiser.named_parameters()}
    with torch.no_grad():
        step_before = model.predict(_inputs(model)[1], torch.tensor([1, 2]), _inputs(model)[0])
    assert {name: p.data_ptr() for name, p in model.denoiser.named_parameters()} == before
    assert model.weights.is_untouched(denoiser)
    module = model.weights.take_untouched(denoiser)
    assert module is not None and find_offload(module) is None
    # without hooks nothing is copied, and the numbers are the same
    model.weights.offloaded = None
    model.weights.find_kept = lambda name: module if name == denoiser else None
    with torch.no_grad():
        assert torch.equal(model.predict(_inputs(model)[1], torch.tensor([1, 2]), _inputs(model)[0]), step_before)


def test_an_error_inside_a_block_leaves_no_copy(home: tuple[str, Path]) -> None:
    model = load(home)
    offload = offloaded(model)
    copies = Copies(offload)
    handle = offload.blocks[-1].register_forward_hook(lambda *_: (_ for _ in ()).throw(ValueError("stop")))
    condition, x0 = _inputs(model)
    with pytest.raises(ValueError, match="stop"):
        model.predict(x0, torch.tensor([1, 2]), condition)
    handle.remove()
    assert copies.now == 0
    model.predict(x0, torch.tensor([1, 2]), condition)


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(RecipeError, match="finds no blocks in this base's Linear"):
        BlockOffload(nn.Linear(2, 2), CPU)
