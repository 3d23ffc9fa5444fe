"""Quantisation of the denoiser: its linear layers hold 4 or 8 bits a weight, and adapters learn on top of them.

The layers are those of diffusers' `BitsAndBytesConfig` and `TorchAoConfig`, made here: diffusers' own loader refuses a
CPU for bitsandbytes, and on a CPU named in its device map it leaves out torchao's quantisation without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.adapters.base import LayerNeed
from dbrun.options.packages import OptionalPackage

if TYPE_CHECKING:
    import torch
    from torch import nn

BITSANDBYTES = OptionalPackage("bitsandbytes", "bitsandbytes", "quantise")
TORCHAO = OptionalPackage("torchao", "torchao", "fp8")
OUTLIER_THRESHOLD = 6.0
"""Size of an input from which int8 multiplies its column in 16 bits (Dettmers et al. 2022, arXiv:2208.07339)."""


class Quantisation:
    """A number format of the weights of linear layers. Weights are quantised as they are loaded, and never learn."""

    NAME: ClassVar[str]
    REQUIRED_PACKAGE: ClassVar[OptionalPackage]
    INPUT_ROUNDING: ClassVar[float] = 0.0
    """Share of a prediction's size by which two computations that differ in the last bit may differ; 0 where only
    weights are quantised."""
    BITS: ClassVar[int]
    """Bits of a weight."""
    SCALED_TOGETHER: ClassVar[int | None] = None
    """Weights that share a scale in float32; None for those of one output."""
    KEEPS_INPUT: ClassVar[bool] = False
    """Whether a layer keeps its inputs for the backward pass, even where gradient checkpointing drops all else."""
    LACKS: ClassVar[frozenset[LayerNeed]]
    """What an adapter may need of a layer and does not find on one of these."""
    DIFFUSERS_CONFIG: ClassVar[str]
    """Python source of diffusers' config that makes the same layers; `DTYPE` stands for the dtype of the others."""

    def quantise(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Quantise every linear layer of a module on the CPU, one by one on their way to the device; returns it."""
        from torch import nn

        for name, layer in list(module.named_modules()):
            if isinstance(layer, nn.Linear):
                parent, _, attribute = name.rpartition(".")
                setattr(module.get_submodule(parent), attribute, self.quantise_layer(layer, device))
        self.mark(module)
        # the layers above are there already; norms and convolutions follow
        return module.to(device).requires_grad_(False).eval()

    def quantise_layer(self, layer: nn.Linear, device: torch.device) -> nn.Linear:
        """The layer with its weight [out, in] quantised, on the device."""
        raise NotImplementedError

    def weight_bytes(self, outputs: int, inputs: int) -> int:
        """Bytes of a layer's weight [outputs, inputs] in memory, with its scales."""
        count = outputs * inputs
        scales = count // self.SCALED_TOGETHER if self.SCALED_TOGETHER else outputs
        return count * self.BITS // 8 + 4 * scales

    def mark(self, module: nn.Module) -> None:
        """Set the attributes of module by which peft knows its layers, as diffusers does."""


class Nf4(Quantisation):
    """NormalFloat of 4 bits in blocks of 64 weights (QLoRA, Dettmers et al. 2023, arXiv:2305.14314)."""

    NAME: ClassVar[str] = "nf4"
    REQUIRED_PACKAGE: ClassVar[OptionalPackage] = BITSANDBYTES
    BITS: ClassVar[int] = 4
    SCALED_TOGETHER: ClassVar[int | None] = 64
    LACKS: ClassVar[frozenset[LayerNeed]] = frozenset({"own weights", "weight shape"})
    DIFFUSERS_CONFIG: ClassVar[str] = (
        'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=DTYPE)')

    def quantise_layer(self, layer: nn.Linear, device: torch.device) -> nn.Linear:
        """bitsandbytes' Linear4bit, which computes in the dtype that the weight [out, in] had."""
        from bitsandbytes.nn import Linear4bit, Params4bit

        made = Linear4bit(layer.in_features, layer.out_features, layer.bias is not None, device="meta",
                          compute_dtype=layer.weight.dtype, compress_statistics=False, quant_type=self.NAME)
        # moving it quantises it
        made.weight = Params4bit(layer.weight.data, requires_grad=False, compress_statistics=False,
                                 quant_type=self.NAME, module=made).to(device)
        made.bias = layer.bias
        # on some CPUs it would repack the weight in place at its first use outside training: the base would change
        # under `Model.restore`, and results would depend on the CPU
        made.support_avx512bf16_for_cpu = False
        quantised: nn.Linear = made
        return quantised

    def mark(self, module: nn.Module) -> None:
        """Set diffusers' mark of 4-bit layers."""
        marked: Any = module
        marked.is_loaded_in_4bit = True


class Int8(Quantisation):
    """Integers of 8 bits with a scale for each output (LLM.int8, Dettmers et al. 2022, arXiv:2208.07339)."""

    NAME: ClassVar[str] = "int8"
    REQUIRED_PACKAGE: ClassVar[OptionalPackage] = BITSANDBYTES
    # inputs are rounded to 127 steps, and one between two may go either way; measured with the scale of a LoRA
    # in its weights or beside them: up to 0.0026 on the tiny and the embedded base, where nf4 stays below 1.1e-6
    INPUT_ROUNDING: ClassVar[float] = 1 / 127
    BITS: ClassVar[int] = 8
    KEEPS_INPUT: ClassVar[bool] = True
    LACKS: ClassVar[frozenset[LayerNeed]] = frozenset({"own weights", "readable weights"})
    DIFFUSERS_CONFIG: ClassVar[str] = "BitsAndBytesConfig(load_in_8bit=True)"

    def quantise_layer(self, layer: nn.Linear, device: torch.device) -> nn.Linear:
        """bitsandbytes' Linear8bitLt; it quantises inputs, too, except on a CPU in training."""
        from bitsandbytes.nn import Int8Params, Linear8bitLt

        made = Linear8bitLt(layer.in_features, layer.out_features, layer.bias is not None, device="meta",
                            has_fp16_weights=False, threshold=OUTLIER_THRESHOLD)
        # moving it quantises it
        made.weight = Int8Params(layer.weight.data, requires_grad=False).to(device)
        made.bias = layer.bias
        quantised: nn.Linear = made
        return quantised

    def mark(self, module: nn.Module) -> None:
        """Set diffusers' mark of 8-bit layers."""
        marked: Any = module
        marked.is_loaded_in_8bit = True


class Fp8(Quantisation):
    """Floats of 8 bits (e4m3) with a scale for each output; products are computed in the dtype of the inputs."""

    NAME: ClassVar[str] = "fp8"
    REQUIRED_PACKAGE: ClassVar[OptionalPackage] = TORCHAO
    BITS: ClassVar[int] = 8
    LACKS: ClassVar[frozenset[LayerNeed]] = frozenset({"own weights", "plain weights"})
    DIFFUSERS_CONFIG: ClassVar[str] = "TorchAoConfig(Float8WeightOnlyConfig())"

    def quantise_layer(self, layer: nn.Linear, device: torch.device) -> nn.Linear:
        """The same layer with torchao's Float8Tensor as its weight."""
        from torchao.quantization import Float8WeightOnlyConfig, quantize_

        quantize_(layer.to(device), Float8WeightOnlyConfig())
        return layer


def quantisations() -> Mapping[str, Quantisation]:
    """Name → quantisation: the values that `base.quantise` can have."""
    return {kind.NAME: kind() for kind in (Nf4, Int8, Fp8)}
