"""A layer with its LoRA as one operation of autograd, in place of the seven that peft's layer records.

A step of few rows is bound by the number of its operations, not by their arithmetic, and adapted layers have most of
them. The formulas are those of y = W x + b + s B A x (arXiv:2106.09685, eq. 3) and its derivatives. On a CPU a step of
many rows is bound by arithmetic: there W + s B A is summed up first, and the input's gradient needs one product. A
convolution is fused for that alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any

import torch
from peft.tuners.lora.layer import Conv2d as LoraConv2d
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear
from torch.nn.grad import conv2d_input, conv2d_weight
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_MERGED_FROM = 4
"""Rows, or positions, for each channel from which on merged weights are used. Measured on a CPU core: at 20 a step of a
convolution takes 0.8 to 0.9 of the time, of a linear layer 0.94; at 2 both take as long, for the weights are summed up
in each step."""


class FusedLora(torch.autograd.Function):
    """y [..., out] = x W^T + b + s (x A^T) B^T, in the dtype of the frozen W.

    x [..., in], W [out, in], b [out] or None, A [rank, in], B [out, rank]; x, A and B of any floating dtype.
    is_merged: sum up W + s B A first; see `MergedConvLora`. It has first derivatives only: to refuse others would take
    longer than a product of these matrices.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float,
                is_merged: bool) -> Tensor:
        """The layer's output; keeps x and s A x for the backward pass."""
        rows, dtype = x.reshape(-1, x.shape[-1]), weight.dtype
        # even a cast that changes nothing takes a microsecond
        if not rows.dtype == a.dtype == b.dtype == dtype:
            rows, a, b = rows.to(dtype), a.to(dtype), b.to(dtype)
        if is_merged:
            weight = torch.addmm(weight, b, a, alpha=scale)
        y = linear(rows, weight, bias)
        hidden = linear(rows, a)
        if scale != 1.0:
            hidden.mul_(scale)
        if not is_merged:
            y.addmm_(hidden, b.t())
        ctx.save_for_backward(rows, hidden, weight, a, b)
        ctx.shape, ctx.scale, ctx.is_merged = x.shape, scale, is_merged
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, A and B in the dtype of W, which autograd casts; None where none is needed."""
        rows, hidden, weight, a, b = ctx.saved_tensors
        needs_x, _, _, needs_a, needs_b, *_ = ctx.needs_input_grad
        grad_x = grad_a = grad_b = None
        grad_y = grad.reshape(-1, grad.shape[-1])
        grad_hidden = grad_y.mm(b)
        if ctx.scale != 1.0:
            grad_hidden.mul_(ctx.scale)
        if needs_x:
            grad_x = grad_y.mm(weight)
            if not ctx.is_merged:
                grad_x.addmm_(grad_hidden, a)
            grad_x = grad_x.view(ctx.shape)
        if needs_a:
            grad_a = grad_hidden.t().mm(rows)
        if needs_b:
            grad_b = grad_y.t().mm(hidden)
        return grad_x, None, None, grad_a, grad_b, None, None


class MergedConvLora(torch.autograd.Function):
    """y [N, out, h', w'] = (W + s B A) * x + b, for all in float32: fewer bits would round a small s B A away.

    x [N, in, h, w], W [out, in, kh, kw], b [out] or None, A [rank, in, kh, kw], B [out, rank, 1, 1]; stride and padding
    are those of W and A. It has first derivatives only.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float,
                stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        """The layer's output; keeps x, s A * x and the sum of the weights for the backward pass."""
        merged = torch.addmm(weight.flatten(1), b.flatten(1), a.flatten(1), alpha=scale).view_as(weight)
        hidden = conv2d(x, a, None, stride, padding)
        if scale != 1.0:
            hidden.mul_(scale)
        ctx.save_for_backward(x, hidden, merged, a, b)
        ctx.scale, ctx.geometry = scale, (stride, padding)
        return conv2d(x, merged, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, A and B; None where none is needed."""
        x, hidden, merged, a, b = ctx.saved_tensors
        needs_x, _, _, needs_a, needs_b, *_ = ctx.needs_input_grad
        grad_x = grad_a = grad_b = None
        # [N, out, h' w']
        grad_y = grad.flatten(2)
        if needs_x:
            grad_x = conv2d_input(x.shape, merged, grad, *ctx.geometry)  # type: ignore[no-untyped-call]
        if needs_a:
            grad_hidden = torch.matmul(b.flatten(1).t(), grad_y).view_as(hidden)
            if ctx.scale != 1.0:
                grad_hidden.mul_(ctx.scale)
            grad_a = conv2d_weight(x, a.shape, grad_hidden, *ctx.geometry)  # type: ignore[no-untyped-call]
        if needs_b:
            grad_b = torch.matmul(grad_y, hidden.flatten(2).transpose(1, 2)).sum(0).view_as(b)
        return grad_x, None, None, grad_a, grad_b, None, None, None


@contextmanager
def fused_lora(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Context manager: layers of these modules with one plain LoRA compute as above where gradients are wanted.

    All else computes as ever: other layers, and any layer without gradients or with its adapter switched off. Call it
    once all adapters are attached.
    """
    layers: list[Any] = []
    for module in modules:
        layers += [layer for layer in module.modules() if _can_fuse(layer)]
    for layer in layers:
        layer.forward = partial(_forwards[type(layer)], layer, layer.forward, *layer.active_adapters)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _linear(layer: Any, as_peft: Callable[..., Tensor], name: str, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The output [..., out] of a linear layer for x [..., in]. name: of its adapter."""
    # read at each call: an offloaded layer has another weight each time
    base = layer.base_layer
    weight = base.weight
    if args or kwargs or not _learns(layer) or weight.dtype != _dtype_of_products(x):
        return as_peft(x, *args, **kwargs)
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    is_merged = x.numel() >= _MERGED_FROM * min(weight.shape) * x.shape[-1] and _is_exact(x, weight, a, b)
    y: Tensor = FusedLora.apply(  # type: ignore[no-untyped-call]
        x, weight, base.bias, a, b, layer.scaling[name], is_merged)
    return y


def _convolution(layer: Any, as_peft: Callable[..., Tensor], name: str, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The output [N, out, h', w'] of a convolution for x [N, in, h, w]. name: of its adapter."""
    base = layer.base_layer
    weight, a, b = base.weight, layer.lora_A[name].weight, layer.lora_B[name].weight
    pays = x.dim() == 4 and _count_positions(x, base.stride) >= _MERGED_FROM * len(weight)
    if args or kwargs or not pays or not _learns(layer) or not _is_exact(x, weight, a, b):
        return as_peft(x, *args, **kwargs)
    y: Tensor = MergedConvLora.apply(x, weight, base.bias, a, b, layer.scaling[name],  # type: ignore[no-untyped-call]
                                     base.stride, base.padding)
    return y


_forwards: Mapping[type, Callable[..., Tensor]] = {LoraLinear: _linear, LoraConv2d: _convolution}
"""Class of a layer of peft -> how it computes while it is fused."""


def _count_positions(x: Tensor, stride: tuple[int, int]) -> int:
    """Number of positions in a convolution's output for x [N, in, h, w], nearly."""
    return len(x) * prod(x.shape[2:]) // prod(stride)


def _is_exact(x: Tensor, *weights: Tensor) -> bool:
    """Whether a layer multiplies x by these weights in 32 bits on a CPU; a GPU may round float32 to fewer."""
    dtypes = {_dtype_of_products(x), x.dtype, *(weight.dtype for weight in weights)}
    return x.device.type == "cpu" and dtypes == {torch.float32}


def _learns(layer: Any) -> bool:
    """Whether gradients of the layer's adapter are wanted."""
    return torch.is_grad_enabled() and not layer.disable_adapters and not layer.merged


def _dtype_of_products(x: Tensor) -> torch.dtype:
    """The dtype in which a layer multiplies x."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _can_fuse(layer: Any) -> bool:
    """Whether the layer has plain weights and one plain LoRA, and nothing else acts on its parts."""
    # the exact classes: a layer of quantised weights is of a subclass, or its weight is
    if type(layer) not in _forwards or "forward" in vars(layer) or not _is_plain(layer.base_layer):
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


def _is_plain(base: nn.Module) -> bool:
    """Whether the layer is a linear one, or a convolution as its LoRA in peft is."""
    if type(base) is not nn.Conv2d:
        return type(base) is nn.Linear
    is_usual = base.groups == 1 and base.dilation == (1, 1) and base.padding_mode == "zeros"
    return is_usual and not isinstance(base.padding, str)


def _is_hooked(module: nn.Module) -> bool:
    """Whether something is to happen when the module computes, which it would not if only its weight is read."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)
