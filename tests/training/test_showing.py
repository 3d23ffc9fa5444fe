"""Does a model in training show what would be exported, and go on as if it had not?"""

from pathlib import Path

import torch
from tiny_steps import gone, trainer
from tiny_training import FAMILY

from dbrun.options.ema import Ema


def test_it_wears_the_averages_at_rest_in_the_precision_of_training_and_puts_all_back(tmp_path: Path) -> None:
    FAMILY.write_tiny_base(tmp_path / "base")
    trained = gone(trainer(tmp_path, adapter={"dropout": 0.5}, ema=Ema(decay=0.9), precision="bf16"), 2)
    assert trained.ema is not None
    unet, drawn = trained.modules["denoiser"], torch.get_rng_state()
    weights = [p.detach().clone() for p in trained.parameters]
    with trained.sampling_mode():
        assert all(torch.equal(p, average) for p, average in zip(trained.ema.parameters, trained.ema.shadow_params))
        assert not any(torch.equal(p, w) for p, w in zip(trained.parameters, weights))
        assert not any(m.training for m in unet.modules()) and not torch.is_grad_enabled()
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16 and torch.is_autocast_enabled("cpu")
        torch.rand(3)
    assert all(torch.equal(p, w) for p, w in zip(trained.parameters, weights, strict=True))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert unet.training and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
