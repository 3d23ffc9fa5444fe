"""Dry run of a base: its networks compute with shapes alone, so that memory is counted before it is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from dbrun.adapters.adapter_layers import matched_layers
from dbrun.adapters.attach import ADAPTER_NAMES, FROZEN_PREFIX, attach, direct_adapter
from dbrun.adapters.base import Adapter, Learnable
from dbrun.models.base import CleanBatch, Condition, Family
from dbrun.models.offload import BlockOffload
from dbrun.models.prompt_encoding import frozen_encoders, learning_encoders
from dbrun.models.quantisation import quantisations
from dbrun.options.precision import Precision
from dbrun.safetensors_header import tensor_shapes
from dbrun.training.batches import Batch
from dbrun.training.device import DTYPES
from dbrun.training.dry_quantised import stand_in
from dbrun.training.dry_step import DryTrainer, StepMemory, emulated_autocast, recompute_as_on
from dbrun.training.flat_weights import gradient_buffer_bytes
from dbrun.training.live_memory import LiveMemory
from dbrun.training.prompt_embeds import PromptEncoder, live_prompts
from dbrun.training.recompute import enable_gradient_checkpointing
from dbrun.training.settings import TrainParams

LIBRARY_BYTES, SMALL_LIBRARY_BYTES = 96 * 2**20, 32 * 2**20
"""What torch and its kernels take on a CPU from the loading of a base on, besides tensors: where the denoiser computes
(measured: 80 to 110 MiB), and where only other components do (27 to 38)."""
ANY_PROMPT = "a photo"
"""A prompt for the count: prompts are padded to one length, or are short beside the tokens of a picture."""


@dataclass(frozen=True)
class DryRun:
    """A base of which only the configs and the headers of the weights are read.

    folder, family, variant: of the base; files: the relative names of those that are read; device: cuda, mps or cpu,
    the device that is planned for; offload: whether the denoiser's blocks stay in CPU memory.
    """

    folder: Path
    family: Family
    variant: str | None
    files: tuple[str, ...]
    device: str
    offload: bool = False

    def weight_bytes(self, precision: Precision, *names: str) -> int:
        """Bytes of components in memory, from the headers of their files. names: as in model_index.json."""
        total = 0
        for name in names:
            dtype = self.family.component_dtype(name, DTYPES[precision])
            total += self._weight_count(name) * dtype.itemsize
        return total

    def open(self, precision: Precision, adapters: Mapping[str, Learnable] = MappingProxyType({}),
             quantise: str | None = None) -> DryBase:
        """The base in a precision. adapters: component -> what is attached to it; quantise: as `base.quantise`."""
        return DryBase(self, precision, adapters, quantise)

    def _weight_files(self, name: str) -> list[Path]:
        return [self.folder / file for file in self.files
                if file.startswith(f"{name}/") and file.endswith(".safetensors")]

    def _weight_count(self, name: str) -> int:
        count = 0
        for path in self._weight_files(name):
            count += sum(map(prod, tensor_shapes(path).values()))
        return count


class DryBase:
    """An opened base whose tensors have shapes, but no memory; each method computes once and counts bytes.

    precision: of the base; adapters: component -> what is attached to it; quantise: number format of the denoiser's
    linear layers, None for the base's own weights.
    """

    def __init__(self, dry_run: DryRun, precision: Precision, adapters: Mapping[str, Learnable],
                 quantise: str | None = None) -> None:
        self.dry_run, self.precision, self.adapters, self.quantise = dry_run, precision, adapters, quantise
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        family, folder = dry_run.family, dry_run.folder
        # on the CPU whatever the device: fake tensors of a device that is not here cannot be indexed
        self.model = model = family.load(folder, device=torch.device("cpu"), dtype=DTYPES[precision],
                                         variant=dry_run.variant)
        carriers: dict[str, nn.Module] = {}
        denoiser = family.components["denoiser"]

        def empty(name: str) -> nn.Module:
            # modules are made and cast without fake tensors, which cannot be replaced inside a module
            with unset_fake_temporarily():
                module = family.empty_component(folder, name).to(family.component_dtype(name, DTYPES[precision]))
                if quantise is not None and name == denoiser:
                    self.quantised_away = stand_in(module, quantisations()[quantise])
            carriers[name] = module
            # adapters are attached to shapes; what comes later is only computed with
            return module if attaching else self._fill(module)

        self.quantised_away = 0
        """Bytes that the denoiser's weights lose as they are quantised; known once the denoiser is there."""
        attaching = True
        model.weights.find_kept = empty
        for name, choice in adapters.items():
            _attach(family, model.module(name), name, choice)
        attaching = False
        for module in (*carriers.values(), *model.new_tokens.values()):
            self._fill(module)
        self._offloaded_bytes = 0
        if dry_run.offload:
            self._offload_denoiser()

    @property
    def components(self) -> tuple[str, ...]:
        """Components that carry an adapter, by their names in recipes."""
        return tuple(self.adapters)

    @property
    def learning_encoders(self) -> tuple[str, ...]:
        """Text encoders that run in every step, by their names in model_index.json."""
        return learning_encoders(self.dry_run.family, self.components)

    @property
    def frozen_encoders(self) -> tuple[str, ...]:
        """The other text encoders."""
        return frozen_encoders(self.dry_run.family, self.components)

    @property
    def trained(self) -> list[Tensor]:
        """Trainable parameters."""
        modules = [self.model.module(name) for name in self.components]
        return [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]

    @cached_property
    def trained_bytes(self) -> int:
        """Bytes of all trainable parameters."""
        return sum(parameter.nbytes for parameter in self.trained)

    @property
    def gradient_buffer_bytes(self) -> int:
        """Bytes of the gradient buffers of an element-wise optimizer."""
        return gradient_buffer_bytes(self.trained)

    def weight_bytes(self, *names: str) -> int:
        """Bytes of these components with their adapters."""
        total = self.dry_run.weight_bytes(self.precision, *names)
        denoiser = self.dry_run.family.components["denoiser"]
        if denoiser in names:
            if self.quantise is not None:
                self.model.component(denoiser)
            total -= self.quantised_away + self._offloaded_bytes
        for component in self.components:
            if self.dry_run.family.components.get(component) in names:
                # weights that learn in place are kept in their original values, too: they count twice
                module = self.model.module(component)
                total += sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)
                total += _frozen_adapter_bytes(module)
        return total

    def kernel_bytes(self, *names: str) -> int:
        """Bytes that computing takes besides tensors. names: components that compute.

        On a CPU: what the libraries take at their first use, and the largest convolution's weight once more, which
        oneDNN packs anew at every call.
        """
        if self.dry_run.device != "cpu":
            return 0
        packed, library = 0, SMALL_LIBRARY_BYTES
        if self.dry_run.family.components["denoiser"] in names:
            library = LIBRARY_BYTES
        for name in names:
            for module in self.model.component(name).modules():
                if isinstance(module, nn.Conv2d | nn.Conv3d):
                    packed = max(packed, module.weight.nbytes)
        return library + packed

    def encode_prompt(self, text_encoders: Sequence[str]) -> tuple[int, int]:
        """(peak bytes of activations while one prompt is encoded, bytes of the text encoders' outputs)."""
        def encode() -> Condition:
            outputs: dict[str, Tensor] = {}
            for text_encoder in text_encoders:
                (output,) = self.model.encode_with(text_encoder, [ANY_PROMPT])
                outputs |= {f"{text_encoder}.{name}": tensor for name, tensor in output.items()}
            return outputs

        return self._count_forward(encode, *text_encoders)

    def encode_image(self, side: int, rows: int = 1) -> tuple[int, int]:
        """(peak bytes of activations while pictures of side × side pixels are encoded, bytes of the result)."""
        autoencoder = self.dry_run.family.autoencoder
        names = (autoencoder,) if autoencoder else ()
        return self._count_forward(lambda: {"stored": self._stored(side, rows)}, *names)

    def predict(self, side: int, rows: int) -> int:
        """Peak bytes of the denoiser's activations without gradients, for this many pictures of side × side pixels."""
        family = self.dry_run.family
        with self._computing(), torch.no_grad():
            clean, condition = self._clean(side, rows), self._condition()

        def predict() -> Condition:
            inputs = {**self.model.collate_conditions([condition] * rows), **clean.extra_conditions}
            with emulated_autocast(self.dry_run.device, DTYPES[self.precision]):
                prediction = self.model.predict(clean.x0, torch.zeros(rows, dtype=torch.int64), inputs)
            return {"prediction": prediction}

        return self._count_forward(predict, family.components["denoiser"])[0]

    def sample(self, side: int, rows: int) -> int:
        """Peak bytes of activations while a picture is drawn: of the denoiser for these rows, or of decoding one."""
        family, most = self.dry_run.family, self.predict(side, rows)
        if family.autoencoder is None:
            return most
        with self._computing(), torch.no_grad():
            latents = self.model.denormalise(self._clean(side, 1).x0)
        decoder = self.model.component(family.autoencoder)
        decoding, _ = self._count_forward(
            lambda: {"picture": decoder.decode(latents.to(decoder.dtype)).sample}, family.autoencoder)
        return max(most, decoding)

    def train_step(self, params: TrainParams, side: int, rows: int, prompts: int, *,
                   checkpointing: bool) -> StepMemory:
        """Bytes of a forward and backward pass, in which the text encoders run that learn.

        rows: of a micro-batch, class rows included; prompts: distinct ones among them.
        """
        with self._computing():
            with torch.no_grad():
                clean, condition = self._clean(side, rows), self._condition()
            if checkpointing:
                enable_gradient_checkpointing(self.model)
                recompute_as_on(self.dry_run.device, DTYPES[self.precision], self.model)

            def stored(numbers: Any) -> Condition:
                return self.model.collate_conditions([condition] * len(numbers))

            texts = [f"{ANY_PROMPT} {number}" for number in range(prompts)]
            encoder: PromptEncoder = stored
            if self.learning_encoders:
                encoder = live_prompts(self.model, texts, known=self.model.encoder_outputs(texts, self.frozen_encoders))
            base_encoder = encoder if params.prior_target == "base" else None
            instances = params.batch_size
            batch = Batch(clean.x0, torch.empty_like(clean.x0), torch.zeros(rows, dtype=torch.int64),
                          tuple(row % prompts for row in range(rows)), instances, clean.extra_conditions)
            trainer = DryTrainer(self.model, self.components, encoder, params, base_encoder, self.dry_run.device,
                                 DTYPES[self.precision])
            return trainer.count(batch)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Context manager: compute with fake tensors."""
        with self._fake, _KnownScalars():  # type: ignore[no-untyped-call]
            yield

    def _offload_denoiser(self) -> None:
        """Count the copies of the denoiser's blocks, which come and go, as activations."""
        with self._fake:
            offload = BlockOffload(self.model.denoiser, self.model.device)
        self._offloaded_bytes = offload.block_bytes

    def _condition(self) -> Condition:
        return self.model.encode_prompts([ANY_PROMPT])[0]

    def _stored(self, side: int, rows: int) -> Tensor:
        return self.model.encode_images(torch.empty(rows, 3, side, side))

    def _clean(self, side: int, rows: int) -> CleanBatch:
        """Clean training targets of this many rows."""
        labels = self.dry_run.family.class_labels[0]
        return self.model.sample_x0(self._stored(side, rows), lambda _, shape: torch.empty(rows, *shape), labels)

    def _count_forward(self, compute: Callable[[], Mapping[str, Tensor]], *names: str) -> tuple[int, int]:
        """(most bytes alive, bytes of the result) of a computation without gradients. names: components it uses."""
        with self._computing(), torch.no_grad():
            for name in names:
                self.model.component(name)
            with LiveMemory() as live:
                result = compute()
        return live.peak, sum(tensor.nbytes for tensor in result.values())

    def _fill(self, module: nn.Module) -> nn.Module:
        """Replace the tensors of a module on the meta device by fake ones of the same dtype on the CPU."""
        with self._fake:
            for part in module.modules():
                for name, parameter in part._parameters.items():
                    if parameter is not None:
                        part._parameters[name] = nn.Parameter(_fake(parameter), parameter.requires_grad)
                for name, buffer in part._buffers.items():
                    if buffer is not None:
                        part._buffers[name] = _fake(buffer)
            direct = direct_adapter(module)
            if direct is not None:
                parameters = dict(module.named_parameters())
                direct.parameters = {name: parameters[name] for name in direct.parameters}
                direct.original = {name: _fake(tensor) for name, tensor in direct.original.items()}
        return module


class _KnownScalars(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context manager: numbers that are read from fake tensors are 1 or True, such as the chance of a dropout."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, or answer what no fake tensor knows."""
        if func is torch.ops.aten._local_scalar_dense.default:
            return args[0].dtype == torch.bool or 1
        return func(*args, **(kwargs or {}))


def _attach(family: Family, module: nn.Module, component: str, choice: Learnable) -> None:
    """Attach an adapter to a module on the meta device, or a new word to its vocabulary; nothing is drawn."""
    with torch.device("meta"):
        names: tuple[str, ...] = ()
        if isinstance(choice, Adapter):
            names = matched_layers(family, module, component, choice)
        attach(module, choice, names, seed=None)


def _frozen_adapter_bytes(module: nn.Module) -> int:
    """Bytes of a second adapter that stays frozen."""
    slot = ADAPTER_NAMES[FROZEN_PREFIX]
    return sum(parameter.nbytes for name, parameter in module.named_parameters() if slot in name.split("."))


def _fake(tensor: Tensor) -> Tensor:
    """A fake tensor like this one, on the CPU."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
