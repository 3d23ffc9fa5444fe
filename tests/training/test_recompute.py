"""Are activations really computed twice, and are the gradients the same?"""

from pathlib import Path

import pytest
import torch
from tiny_training import FAMILY, PROMPTS, load, lora

from dbrun.training.recompute import enable_gradient_checkpointing


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("memory")
    FAMILY.write_tiny_base(place / "base")
    return place


def gone_through(home: Path, twice: bool) -> tuple[dict[str, int], list[torch.Tensor]]:
    """How often a block of each component was computed in one step, and the gradients."""
    model = load(home)
    modules = {component: model.module(component) for component in FAMILY.components}
    if twice:
        enable_gradient_checkpointing(model)
    calls = dict.fromkeys(modules, 0)
    for component, module in modules.items():
        lora(component, model, dropout=0.3)
        module.train()
        # within the block, since transformers keeps the block's own hooks out of the second time
        kind = {"denoiser": "FeedForward", "text_encoder": "CLIPMLP"}[component]
        block = next(m for m in module.modules() if type(m).__name__ == kind)

        def counted(*_: object, component: str = component) -> None:
            calls[component] += 1

        block.register_forward_pre_hook(counted)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        condition = model.collate_conditions(model.encode_prompts(PROMPTS))
        pred = model.predict(torch.ones(2, 4, 8, 8), torch.tensor([3, 700]), condition)
    pred.square().mean().backward()
    return calls, [p.grad for m in modules.values() for p in m.parameters() if p.grad is not None]


def test_blocks_run_twice_and_give_the_same_gradients_to_the_bit(home: Path) -> None:
    once, kept = gone_through(home, twice=False)
    twice, again = gone_through(home, twice=True)
    assert once == {"denoiser": 1, "text_encoder": 1} and twice == {"denoiser": 2, "text_encoder": 2}
    assert len(kept) == len(again) > 0 and all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))
    assert any(bool(g.abs().sum() > 0) for g in kept)
