"""PiSSA: a LoRA that starts from a weight's principal directions (Meng et al. 2024, arXiv:2404.02948, eq. 2-4).

The paper trains B A beside the residual W - B0 A0. Here W is unchanged, and -B0 A0 is a second LoRA that stays
frozen. The sum is the same, but the base keeps its bytes, and with both LoRAs switched off it is the base.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dbrun.adapters.attach import FROZEN_PREFIX

if TYPE_CHECKING:
    from torch import Tensor, nn

A, B = ".lora_A.weight", ".lora_B.weight"


def initial_weights(layers: Mapping[str, nn.Module], state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Initial A [rank, in] and B [out, rank] of each layer, and the frozen pair A, -B under FROZEN_PREFIX.

    scale * B A is the best approximation of the weight at this rank. If a layer is smaller than the rank, the
    remaining directions keep their drawn values. layers: name -> layer with a weight [out, in]; state: drawn weights.
    """
    initial = dict(state)
    for name, layer in layers.items():
        rank = state[name + A].shape[0]
        left, right = principal_factors(layer.get_parameter("weight"), rank)
        a, b = state[name + A].clone(), state[name + B].clone()
        # Each is divided by the root of the scale: scale * B A is the approximation, and the factors stay balanced.
        a[: right.shape[0]] = right / scale**0.5
        b[:, : left.shape[1]] = left / scale**0.5
        initial[name + A], initial[name + B] = a, b
        # The frozen A is a copy: the trained one must not change it.
        initial[FROZEN_PREFIX + name + A], initial[FROZEN_PREFIX + name + B] = a.clone(), -b
    return initial


def principal_factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """U sqrt(S) [out, k] and sqrt(S) V^T [k, in], float32, of the k = min(rank, in, out) largest singular values.

    weight: [out, in]. The same weight gives the same bytes, whatever the number of threads.
    """
    import torch

    # In float64 and on one thread: LAPACK rounds differently when it splits the work over threads.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        u, s, vt = torch.linalg.svd(weight.detach().cpu().double(), full_matrices=False)
    finally:
        torch.set_num_threads(threads)
    u, s, vt = u[:, :rank], s[:rank], vt[:rank]
    # An SVD leaves the sign of each pair of vectors open: the largest entry of u is made positive.
    largest = u.abs().argmax(0, keepdim=True)
    sign = u.gather(0, largest).sign()
    left = u * sign * s.sqrt()
    right = (vt.T * sign * s.sqrt()).T
    return left.float(), right.float()


def to_plain_lora(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The trained and the frozen LoRA as one: A [2 rank, in] = [A; A0] and B [out, 2 rank] = [B, -B0]."""
    import torch

    plain = {}
    for name, tensor in state.items():
        if name.startswith(FROZEN_PREFIX):
            continue
        rank_axis = 1
        if name.endswith(A):
            rank_axis = 0
        plain[name] = torch.cat((tensor, state[FROZEN_PREFIX + name]), dim=rank_axis)
    return plain
