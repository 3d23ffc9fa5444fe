"""Flat weights: many small parameters in one buffer, which an element-wise optimizer updates by one operation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

MAX_SIZE = 2**20
"""Most numbers of a parameter that goes into a buffer. A larger one is no faster there, and its gradient, which is
copied for the step, takes more memory: full fine-tuning would hold its gradients twice."""
ROW = 4096
"""Numbers that are summed up one after the other for a norm."""


class Piece:
    """Parameters that the optimizer takes for one, since they lie side by side in a buffer.

    weights: their numbers in float32, [sum of sizes]; of a parameter that stands alone, the parameter itself.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], weights: nn.Parameter) -> None:
        self.parameters, self.weights = parameters, weights

    def split(self, lengths: Sequence[int]) -> Iterator[Piece]:
        """Pieces of so many parameters each, in order, over the same memory."""
        first = start = 0
        for length in lengths:
            parameters = self.parameters[first : first + length]
            size = sum(parameter.numel() for parameter in parameters)
            if len(parameters) == len(self.parameters):
                yield self
            elif len(parameters) == 1:
                yield Piece(parameters, parameters[0])
            else:
                yield Piece(parameters, nn.Parameter(self.weights.detach()[start : start + size]))
            first += length
            start += size

    @cached_property
    def _grad(self) -> tuple[Tensor, list[Tensor]]:
        """A buffer for the gradient of `weights`, and its views, shaped as the parameters."""
        # kept from step to step: to make it anew took longer than to fill it
        buffer = torch.empty_like(self.weights, requires_grad=False)
        sizes = [parameter.numel() for parameter in self.parameters]
        parts = zip(self.parameters, torch.split(buffer, sizes), strict=True)
        return buffer, [part.view_as(parameter) for parameter, part in parts]

    def gradients(self) -> list[Tensor]:
        """The gradients of the parameters that have one, in order and shaped as the parameters."""
        found = [parameter.grad for parameter in self.parameters]
        return [gradient for gradient in found if gradient is not None]

    def gather(self, gradients: list[Tensor]) -> None:
        """Move the gradients of the parameters into that of `weights`.

        gradients: as `gradients` found them: of all parameters, or none, which changes nothing.
        """
        if self.weights is self.parameters[0] or not gradients:
            return
        self.weights.grad, views = self._grad
        # autograd hands over the tensors that the backward pass made; to add them into views of the buffer would take
        # an operation for each
        torch._foreach_copy_(views, gradients)
        for parameter in self.parameters:
            parameter.grad = None

    def reached(self) -> Sequence[int]:
        """How many neighbours in turn have a gradient, or have none: [3, 1, 2] if only the fourth of six differs."""
        has_grad = [parameter.grad is not None for parameter in self.parameters]
        return [len(list(run)) for _, run in groupby(has_grad)]


class FlatWeights:
    """The parameters of a parameter group, in pieces. Splitting a piece moves no number.

    pieces: those that the optimizer has now.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, flatten: bool) -> None:
        small: list[nn.Parameter] = []
        large: list[nn.Parameter] = []
        for parameter in parameters:
            if flatten and _is_small(parameter):
                small.append(parameter)
            else:
                large.append(parameter)
        pieces = [Piece([parameter], parameter) for parameter in large]
        if len(small) > 1:
            pieces.insert(0, Piece(small, _flattened(small)))
        elif small:
            pieces.insert(0, Piece(small, small[0]))
        self.pieces: Sequence[Piece] = pieces

    @property
    def weights(self) -> list[nn.Parameter]:
        """The weights of all pieces, each [its size], or shaped as the parameter that stands alone."""
        return [piece.weights for piece in self.pieces]

    @property
    def lengths(self) -> list[int]:
        """The number of parameters of each piece."""
        return [len(piece.parameters) for piece in self.pieces]

    def gather_grads(self, optimizer: Optimizer, group: int) -> None:
        """Give each piece the gradients of its parameters, before a step. group: its number in the optimizer.

        A piece of which only some parameters have a gradient is split: an optimizer skips a weight without one, decay
        and moments included, and counts the steps of each.
        """
        # found once for all: with a thousand parameters each look at their gradients takes a tenth of a millisecond
        found = [piece.gradients() for piece in self.pieces]
        if any(0 < len(gradients) < len(piece.parameters)
               for piece, gradients in zip(self.pieces, found, strict=True)):
            lengths: list[int] = []
            for piece in self.pieces:
                lengths += piece.reached()
            self.split(lengths, optimizer, group)
            found = [piece.gradients() for piece in self.pieces]
        for piece, gradients in zip(self.pieces, found, strict=True):
            piece.gather(gradients)

    def split(self, lengths: Sequence[int], optimizer: Optimizer, group: int) -> None:
        """Split the pieces into pieces of so many parameters each, and their state in the optimizer with them."""
        remaining = list(lengths)
        pieces: list[Piece] = []
        for piece in self.pieces:
            parts = list(piece.split(_take(remaining, len(piece.parameters))))
            if len(parts) > 1:
                _split_state(optimizer, piece, parts)
            pieces += parts
        self.pieces = pieces
        optimizer.param_groups[group]["params"] = self.weights


def gradient_buffer_bytes(parameters: Iterable[Tensor]) -> int:
    """Bytes of the buffers for the gradients of these parameters, which stay from the first step on."""
    # the weights' own buffers take the place of the parameters' memory
    return sum(parameter.nbytes for parameter in parameters if _is_small(parameter))


def _is_small(parameter: Tensor) -> bool:
    """Whether the parameter goes into a buffer."""
    return parameter.is_contiguous() and parameter.numel() <= MAX_SIZE


def _flattened(parameters: Sequence[nn.Parameter]) -> nn.Parameter:
    """A buffer [sum of sizes] with the numbers of the parameters, which become views of it."""
    with torch.no_grad():
        buffer = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
        sizes = [parameter.numel() for parameter in parameters]
        for parameter, part in zip(parameters, torch.split(buffer, sizes), strict=True):
            parameter.data = part.view_as(parameter)
    return nn.Parameter(buffer)


def _take(lengths: list[int], count: int) -> list[int]:
    """Remove the first lengths, which make up `count`, and return them."""
    taken: list[int] = []
    while sum(taken) < count:
        taken.append(lengths.pop(0))
    return taken


def _split_state(optimizer: Optimizer, whole: Piece, parts: Sequence[Piece]) -> None:
    """Replace the optimizer's state of a piece by that of its parts."""
    state: dict[str, Any] = optimizer.state.pop(whole.weights, {})
    for name, value in state.items():
        # moments have a number for each weight, a step counter does not
        is_flat = isinstance(value, Tensor) and value.shape == whole.weights.shape
        start = 0
        for part in parts:
            size = part.weights.numel()
            own = value
            if is_flat:
                own = value[start : start + size].clone().view_as(part.weights)
            elif isinstance(value, Tensor):
                own = value.clone()
            optimizer.state[part.weights][name] = own
            start += size


def global_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The 2-norm of all numbers of these tensors, of any shapes; a scalar."""
    norms: list[Tensor] = []
    for gradient in gradients:
        flat = gradient.reshape(-1)
        # by rows: a sum of millions of squares in float32 loses digits (measured: 1e-3 of 23 million), and is split
        # among as many threads as there are
        whole_rows = flat.numel() // ROW * ROW
        norms.append(torch.linalg.vector_norm(flat[:whole_rows].view(-1, ROW), dim=1))
        norms.append(torch.linalg.vector_norm(flat[whole_rows:]).reshape(1))
    total: Tensor = torch.linalg.vector_norm(torch.cat(norms))
    return total
