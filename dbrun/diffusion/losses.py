"""Losses: the error of each sample of a batch, and the sum of the instance loss and the prior loss."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from dbrun.diffusion.device_copy import one_to_device


class Loss(NamedTuple):
    """The loss of a batch, as float32 scalars.

    total: the number that is minimised; instance: the mean over instance rows; prior: the mean over class rows, None
    without class rows.
    """

    total: Tensor
    instance: Tensor
    prior: Tensor | None


def per_sample_mse(pred: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
    """Mean squared error of each sample: pred and target [B, …] -> float32 [B].

    Ho et al. 2020 (arXiv:2006.11239), eq. 14, divided by the number of elements. Timestep weights are applied to the
    result, before `prior_preservation_loss`. counts: pixel weights, as in `per_sample_mean`.
    """
    squared = (pred.float() - target.float()).square()
    return per_sample_mean(squared, counts)


def per_sample_l1(pred: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
    """Mean absolute error of each sample: pred and target [B, …] -> float32 [B].

    counts: pixel weights, as in `per_sample_mean`.
    """
    absolute = (pred.float() - target.float()).abs()
    return per_sample_mean(absolute, counts)


def per_sample_pseudo_huber(pred: Tensor, target: Tensor, delta: Tensor, counts: Tensor | None = None) -> Tensor:
    """Pseudo-Huber loss of each sample: pred and target [B, …], delta [B] -> float32 [B].

    The mean of 2 delta (sqrt(d^2 + delta^2) - delta) with d = pred - target: Charbonnier et al. 1997, scaled by
    2 delta so that it is d^2 for small d, as in Khrapov et al. 2024 (arXiv:2403.16728).
    counts: pixel weights, as in `per_sample_mean`.
    """
    d = pred.float() - target.float()
    # one delta per sample, with as many axes as d: [B, 1, …, 1]
    c = one_to_device(delta.float(), d.device).view(-1, *[1] * (d.ndim - 1))
    # sqrt(d^2 + c^2) - c cancels where d is small; multiplied by its conjugate it keeps all digits
    root = (d.square() + c.square()).sqrt()
    return per_sample_mean(2.0 * c * d.square() / (root + c), counts)


def per_sample_mean(errors: Tensor, counts: Tensor | None) -> Tensor:
    """Weighted mean of each sample over all axes but the batch: errors [B, C, h, w] -> [B].

    counts: the weight of each latent pixel, [B, 1, h, w], at least 0; None for a plain mean. The sum of the weights is
    divided out, so a small subject is learnt as fast as one that fills its picture. 0 where all weights are 0.
    """
    if counts is None:
        return errors.flatten(1).mean(1)
    counts = counts.to(errors.device, errors.dtype).expand_as(errors)
    weighted_sum = (errors * counts).flatten(1).sum(1)
    # a mask may hide a whole crop: without the lower bound its loss would be 0 / 0
    return weighted_sum / counts.flatten(1).sum(1).clamp(min=1e-6)


def prior_preservation_loss(per_sample: Tensor, instances: int, prior_weight: float) -> Loss:
    """Prior-preservation loss: mean(instance) + prior_weight * mean(class).

    per_sample: float32 [B], instance rows first; instances: the number of instance rows.
    Ruiz et al. 2022 (arXiv:2208.12242), eq. 2.
    """
    # two means are added, as in diffusers, so that the instance half weighs the same whatever the number of class
    # pictures; kohya takes one mean over both
    instance = per_sample[:instances].mean()
    if instances == len(per_sample):
        return Loss(instance, instance, None)
    prior = per_sample[instances:].mean()
    return Loss(instance + prior_weight * prior, instance, prior)
