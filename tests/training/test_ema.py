"""Are the averages those of diffusers, and do the weights come back from under them?"""

import pytest
import torch
from diffusers.training_utils import EMAModel

from dbrun.options.ema import Ema
from dbrun.training.ema import EmaWeights


@pytest.mark.parametrize("settings", [{}, {"decay": 0.3}, {"decay": 0.9, "update_after_step": 4}, {"decay": 0.0}])
def test_the_averages_are_those_of_diffusers_to_the_bit(settings: dict[str, float]) -> None:
    weights = [torch.nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(1))) for _ in range(2)]
    choice = Ema(**settings)
    ours = EmaWeights(choice, weights)
    theirs = EMAModel(weights, decay=choice.decay, update_after_step=choice.update_after_step)
    for step in range(1, 30):
        with torch.no_grad():
            for weight in weights:
                weight += torch.randn(3, 4, generator=torch.Generator().manual_seed(step))
        ours.update(step)
        theirs.step(weights)
        assert choice.decay_at(step) == theirs.cur_decay_value
        assert all(torch.equal(a, b) for a, b in zip(ours.shadow_params, theirs.shadow_params, strict=True))


def test_weights_wear_the_averages_only_for_a_while_and_averages_come_back_from_a_file() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    averages = EmaWeights(Ema(decay=0.5), [weight])
    for step in range(1, 4):
        weight.data.mul_(3.0)
        averages.update(step)
    before = weight.detach().clone()
    with averages.swapped_in():
        assert torch.equal(weight, averages.shadow_params[0]) and not torch.equal(weight, before)
    assert torch.equal(weight, before)
    again = EmaWeights(Ema(decay=0.5), [torch.nn.Parameter(torch.zeros(2))])
    again.load_tensors(averages.tensors())
    assert torch.equal(again.shadow_params[0], averages.shadow_params[0])
