"""How does a LoRA start from a weight's main directions (Meng et al. 2024, arXiv:2404.02948, eq. 2-4)?

The paper trains B A beside the residual W - B0 A0. Here W stays as it is, and -B0 A0 stands beside it as a second
LoRA that never trains: the same sum, but the base's bytes are nobody's to change, and switched off is the base.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dbrun.adapters.attach import FROZEN_PREFIX

if TYPE_CHECKING:
    from torch import Tensor, nn

A, B = ".lora_A.weight", ".lora_B.weight"


def initial_weights(layers: Mapping[str, nn.Module], state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The state with scale B A = the best approximation of each weight at this rank, and its opposite as the start.

    Where a layer is smaller than the rank, the directions that are left over stay as they were drawn.
    """
    first = dict(state)
    for name, layer in layers.items():
        left, right = principal_factors(layer.get_parameter("weight"), state[name + A].shape[0])
        a, b = state[name + A].clone(), state[name + B].clone()
        a[: right.shape[0]], b[:, : left.shape[1]] = right / scale**0.5, left / scale**0.5
        first |= {name + A: a, name + B: b, FROZEN_PREFIX + name + A: a.clone(), FROZEN_PREFIX + name + B: -b}
    return first


def principal_factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """U sqrt(S) [out, k] and sqrt(S) V^T [k, in] of the k = min(rank, in, out) largest singular values.

    Their signs are chosen, since a decomposition leaves them open; in 64 bits and on one thread, so that the same
    weight gives the same bytes whatever the thread count.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        u, s, vt = torch.linalg.svd(weight.detach().cpu().double(), full_matrices=False)
    finally:
        torch.set_num_threads(threads)
    u, s, vt = u[:, :rank], s[:rank], vt[:rank]
    sign = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()
    return (u * sign * s.sqrt()).float(), ((vt.T * sign * s.sqrt()).T).float()


def to_plain_lora(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One LoRA of twice the rank that is the sum of the trained one and the start: [B, -B0] [A; A0]."""
    import torch

    return {name: torch.cat((tensor, state[FROZEN_PREFIX + name]), dim=0 if name.endswith(A) else 1)
            for name, tensor in state.items() if not name.startswith(FROZEN_PREFIX)}
