"""Do the losses average what they say, and in which numbers?"""

import pytest
import torch

from dbrun.diffusion.losses import (
    per_sample_l1,
    per_sample_mean,
    per_sample_mse,
    per_sample_pseudo_huber,
    prior_preservation_loss,
)


def test_per_sample_mse_averages_all_but_the_batch() -> None:
    pred = torch.tensor([[[1.0, 2.0]], [[3.0, 5.0]]])
    target = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert per_sample_mse(pred, target).tolist() == [2.0, 12.5]


def test_per_sample_mse_is_computed_in_float32() -> None:
    half = per_sample_mse(torch.full((1, 2, 2), 300.0, dtype=torch.float16), torch.zeros(1, 2, 2))
    assert half.dtype == torch.float32 and half.item() == 90_000.0


def test_two_means_are_added() -> None:
    """As diffusers does it: three class pictures weigh as much as one instance picture."""
    loss = prior_preservation_loss(torch.tensor([2.0, 3.0, 4.0, 8.0]), instances=1, prior_weight=0.5)
    assert (loss.instance.item(), loss.total.item()) == (2.0, 4.5)
    assert loss.prior is not None and loss.prior.item() == 5.0


def test_without_class_pictures_there_is_no_prior() -> None:
    loss = prior_preservation_loss(torch.tensor([2.0, 4.0]), instances=2, prior_weight=1.0)
    assert loss.total.item() == loss.instance.item() == 3.0 and loss.prior is None


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_the_prior_weight_scales_the_gradient_of_the_class_half(weight: float) -> None:
    per_sample = torch.ones(4, requires_grad=True)
    prior_preservation_loss(per_sample, instances=2, prior_weight=weight).total.backward()
    assert per_sample.grad is not None
    assert per_sample.grad.tolist() == [0.5, 0.5, weight / 2, weight / 2]


def test_places_that_count_are_averaged_by_their_weight() -> None:
    """By hand, on one row of two channels and two places: (3 * (1 + 9) + 1 * (4 + 16)) / (2 * 3 + 2 * 1)."""
    errors = torch.tensor([[[[1.0, 4.0]], [[9.0, 16.0]]]])
    assert per_sample_mean(errors, torch.tensor([[[[3.0, 1.0]]]])).tolist() == [6.25]
    assert per_sample_mean(errors, torch.tensor([[[[0.0, 1.0]]]])).tolist() == [10.0]
    assert per_sample_mean(errors, torch.zeros(1, 1, 1, 2)).tolist() == [0.0]


@pytest.mark.parametrize("measure", [per_sample_mse, per_sample_l1,
                                     lambda *a: per_sample_pseudo_huber(*a[:2], torch.full((2,), 0.1), *a[2:])])
def test_every_distance_lets_only_what_counts_count(measure) -> None:
    draw = torch.Generator().manual_seed(0)
    pred, target = (torch.randn(2, 4, 3, 3, generator=draw) for _ in range(2))
    counts = torch.zeros(2, 1, 3, 3)
    counts[:, :, :2] = 1.0
    torch.testing.assert_close(measure(pred, target, counts), measure(pred[:, :, :2], target[:, :, :2]))
    assert torch.equal(measure(pred, target, None), measure(pred, target))
    target[:, :, 2] += 100.0
    torch.testing.assert_close(measure(pred, target, counts), measure(pred[:, :, :2], target[:, :, :2]))
