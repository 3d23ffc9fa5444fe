"""A linear layer with its LoRA as one operation of autograd, in place of the seven that peft's layer records.

A step of few rows is bound by the number of its operations, not by their arithmetic, and adapted layers have most of
them. The formulas are those of y = W x + b + s B A x (arXiv:2106.09685, eq. 3) and its derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


class FusedLora(torch.autograd.Function):
    """y [..., out] = x W^T + b + s (x A^T) B^T, in the dtype of the frozen W.

    x [..., in], W [out, in], b [out] or None, A [rank, in], B [out, rank]; x, A and B of any floating dtype. It has
    first derivatives only: to refuse others would take longer than a product of these matrices.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        """The layer's output; keeps x and s A x for the backward pass."""
        rows, dtype = x.reshape(-1, x.shape[-1]), weight.dtype
        # even a cast that changes nothing takes a microsecond
        if not rows.dtype == a.dtype == b.dtype == dtype:
            rows, a, b = rows.to(dtype), a.to(dtype), b.to(dtype)
        y = linear(rows, weight, bias)
        hidden = linear(rows, a)
        if scale != 1.0:
            hidden.mul_(scale)
        y.addmm_(hidden, b.t())
        ctx.save_for_backward(rows, hidden, weight, a, b)
        ctx.shape, ctx.scale = x.shape, scale
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, A and B in the dtype of W, which autograd casts; None where none is needed."""
        rows, hidden, weight, a, b = ctx.saved_tensors
        needs_x, _, _, needs_a, needs_b, _ = ctx.needs_input_grad
        grad_x = grad_a = grad_b = None
        grad_y = grad.reshape(-1, grad.shape[-1])
        grad_hidden = grad_y.mm(b)
        if ctx.scale != 1.0:
            grad_hidden.mul_(ctx.scale)
        if needs_x:
            grad_x = grad_y.mm(weight).addmm_(grad_hidden, a).view(ctx.shape)
        if needs_a:
            grad_a = grad_hidden.t().mm(rows)
        if needs_b:
            grad_b = grad_y.t().mm(hidden)
        return grad_x, None, None, grad_a, grad_b, None


@contextmanager
def fused_lora(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Context manager: layers of these modules with one plain LoRA compute as `FusedLora` where gradients are wanted.

    All else computes as ever: other layers, and any layer without gradients or with its adapter switched off. Call it
    once all adapters are attached.
    """
    layers: list[Any] = []
    for module in modules:
        layers += [layer for layer in module.modules() if _can_fuse(layer)]
    for layer in layers:
        layer.forward = partial(_forward, layer, layer.forward, *layer.active_adapters)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer: Any, as_peft: Callable[..., Tensor], name: str, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The output [..., out] of a layer for x [..., in]. name: of its adapter."""
    device, dtype = x.device.type, x.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    # read at each call: an offloaded layer has another weight each time
    base = layer.base_layer
    weight = base.weight
    is_other = args or kwargs or layer.disable_adapters or layer.merged or weight.dtype != dtype
    if is_other or not torch.is_grad_enabled():
        return as_peft(x, *args, **kwargs)
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    y: Tensor = FusedLora.apply(x, weight, base.bias, a, b, layer.scaling[name])  # type: ignore[no-untyped-call]
    return y


def _can_fuse(layer: Any) -> bool:
    """Whether the layer is a linear one of plain weights with one plain LoRA, and nothing else acts on its parts."""
    # the exact classes: a layer of quantised weights is of a subclass, or its weight is
    if type(layer) is not LoraLinear or "forward" in vars(layer) or type(layer.base_layer) is not nn.Linear:
        return False
    names = layer.active_adapters
    # a variant, such as DoRA, has another formula
    if len(names) != 1 or names[0] not in layer.lora_A or names[0] in layer.lora_variant:
        return False
    base, a, b = layer.base_layer, layer.lora_A[names[0]], layer.lora_B[names[0]]
    if is_traceable_wrapper_subclass(base.weight) or base.weight.requires_grad or a.bias is not None:
        return False
    is_plain = type(layer.lora_dropout[names[0]]) is nn.Identity and b.bias is None
    return is_plain and not any(_is_hooked(part) for part in (base, a, b))


def _is_hooked(module: nn.Module) -> bool:
    """Whether something is to happen when the module computes, which it would not if only its weight is read."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)
