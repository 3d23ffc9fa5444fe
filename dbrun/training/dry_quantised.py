"""Stand-ins for quantised linear layers in a dry run: they take the memory that such a layer takes as it computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dbrun.models.quantisation import Quantisation


def stand_in(module: nn.Module, quantisation: Quantisation) -> int:
    """Replace every linear layer of a module on the meta device; returns the bytes that quantised weights save.

    The weights stay as large as they were: the layers' shapes are those that adapters see.
    """
    saved = 0
    for name, layer in list(module.named_modules()):
        if isinstance(layer, nn.Linear):
            parent, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(parent), attribute, DryQuantisedLinear(layer, quantisation))
            saved += layer.weight.nbytes - quantisation.weight_bytes(layer.out_features, layer.in_features)
    return saved


class DryQuantisedLinear(nn.Linear):
    """A linear layer whose weight [out, in] is dequantised for every product, and dropped after it."""

    def __init__(self, layer: nn.Linear, quantisation: Quantisation) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.keeps_input = quantisation.KEEPS_INPUT

    def forward(self, input: Tensor) -> Tensor:
        """The product of input [..., in] and the weight, [..., out]."""
        result: Tensor = _Product.apply(input, self.weight, self.bias, self.keeps_input)  # type: ignore[no-untyped-call]
        return result


class _Product(torch.autograd.Function):
    """The memory of bitsandbytes' products, MatMul4Bit and MatMul8bitFp."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, keeps_input: bool) -> Tensor:
        """Multiply input [..., in] with a dequantised copy of the weight [out, in]; returns [..., out]."""
        ctx.weight = weight
        # not by save_for_backward: gradient checkpointing cannot drop it, as it cannot drop that of MatMul8bitFp
        ctx.input = input if keeps_input else None
        return torch.nn.functional.linear(input, weight.clone(), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Multiply the gradient with another dequantised copy."""
        return torch.matmul(grads[0], ctx.weight.clone()), None, None, None
