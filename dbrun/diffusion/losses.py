"""How far is a prediction from its target, and how do instance and class pictures share the loss?"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Loss(NamedTuple):
    """The loss of a batch, float32 scalars. total: what is minimised; prior: None without class pictures."""

    total: Tensor
    instance: Tensor
    prior: Tensor | None


def per_sample_mse(pred: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
    """[B, …] and [B, …] -> [B]: the squared error's mean over all but the batch axis, in float32.

    Ho et al. 2020 (arXiv:2006.11239), eq. 14, divided by the number of elements. Weights of timesteps go between
    this and `prior_preservation_loss`. counts: as in `per_sample_mean`.
    """
    return per_sample_mean((pred.float() - target.float()).square(), counts)


def per_sample_l1(pred: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
    """[B, …] and [B, …] -> [B]: the absolute error's mean over all but the batch axis, in float32."""
    return per_sample_mean((pred.float() - target.float()).abs(), counts)


def per_sample_pseudo_huber(pred: Tensor, target: Tensor, delta: Tensor, counts: Tensor | None = None) -> Tensor:
    """[B, …], [B, …] and delta [B] -> [B]: the mean of 2 delta (sqrt(d^2 + delta^2) - delta), in float32.

    Charbonnier et al. 1997, scaled by 2 delta so that it is d^2 for small d, as Khrapov et al. 2024
    (arXiv:2403.16728) scale it.
    """
    d = pred.float() - target.float()
    c = delta.float().to(d.device).view(-1, *[1] * (d.ndim - 1))
    # the difference of the root and delta would lose its digits where d is small
    return per_sample_mean(2.0 * c * d.square() / ((d.square() + c.square()).sqrt() + c), counts)


def per_sample_mean(errors: Tensor, counts: Tensor | None) -> Tensor:
    """[B, C, h, w] -> [B]: the mean over all but the batch axis; counts: how much each place counts, [B, 1, h, w].

    A weighted mean, so that a small subject is learnt as fast as one that fills its picture; 0 where nothing counts.
    """
    if counts is None:
        return errors.flatten(1).mean(1)
    counts = counts.to(errors.device, errors.dtype).expand_as(errors)
    return (errors * counts).flatten(1).sum(1) / counts.flatten(1).sum(1).clamp(min=1e-6)


def prior_preservation_loss(per_sample: Tensor, instances: int, prior_weight: float) -> Loss:
    """mean(instance) + prior_weight * mean(class) over per_sample [B], whose first `instances` are instance pictures.

    Prior preservation (Ruiz et al. 2022, arXiv:2208.12242, eq. 2). Two means are added, as diffusers does it, so
    that the instance half weighs the same whatever the number of class pictures; kohya takes one mean over both.
    """
    instance = per_sample[:instances].mean()
    if instances == len(per_sample):
        return Loss(instance, instance, None)
    prior = per_sample[instances:].mean()
    return Loss(instance + prior_weight * prior, instance, prior)
