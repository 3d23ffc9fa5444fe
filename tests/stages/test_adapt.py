"""Does `adapt` match what is asked for, and draw weights that only the seed and the component decide?"""

import pytest
import torch

from dbrun.adapters.adapter_io import read_adapters
from dbrun.errors import RecipeError
from dbrun.models.base import families


def adapted(bench, **changes: object):
    bench.run("load", bench.recipe())
    return read_adapters(bench.run("adapt", bench.recipe(**changes)).path)


def denoiser(targets: object) -> dict[str, object]:
    return {"adapt": {"denoiser": {"type": "lora", "rank": 2, "targets": targets}}}


def test_presets_grow(bench) -> None:
    presets = families()["sd"].target_presets["denoiser"]
    counts = [len(adapted(bench, **denoiser(preset))["denoiser"].modules) for preset in presets]
    assert counts == sorted(counts) and len(set(counts)) == 4


def test_own_patterns_are_matched(bench) -> None:
    found = adapted(bench, **denoiser(("mid_block.*.to_q", "conv_in")))["denoiser"].modules
    assert "conv_in" in found and len(found) > 1 and all(n == "conv_in" or n.endswith("to_q") for n in found)


def test_each_own_pattern_must_hit(bench) -> None:
    with pytest.raises(RecipeError, match="`to_qq`") as caught:
        adapted(bench, **denoiser(("to_q", "to_qq")))
    assert "`to_q`" in caught.value.message


@pytest.mark.parametrize(("adapter", "told"), [
    ({"type": "lora", "rank": 4096}, "adapt.denoiser.rank: found 4096, but none of the "),
    ({"type": "oft", "targets": ("conv1",)}, "adapt.denoiser.targets: found convolutions among its "),
    ({"type": "oft", "block_size": 7}, "adapt.denoiser.block_size: found 7, which does not divide the ")])
def test_what_does_not_fit_a_base_that_was_not_here_before_is_refused_too(bench, adapter, told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        adapted(bench, adapt={"denoiser": adapter})
    assert caught.value.message.startswith(told)


def test_the_same_seed_is_the_same_bytes_and_another_is_not(bench, content, recipe) -> None:
    bench.run("load", recipe())
    one, same, other = (content(bench.run("adapt", recipe(seed=s)).path) for s in (0, 0, 1))
    assert one == same and one["denoiser.safetensors"] != other["denoiser.safetensors"]


def test_components_get_their_own_adapters_and_seeds(bench) -> None:
    both = adapted(bench, adapt={"text_encoder": {"type": "lora", "rank": 1, "targets": "attention"}})
    alone = adapted(bench)
    assert set(both) == {"denoiser", "text_encoder"} and set(alone) == {"denoiser"}
    assert both["text_encoder"].adapter.rank == 1 and both["denoiser"].adapter.rank == 2
    same = both["denoiser"].state
    assert all(torch.equal(same[k], t) for k, t in alone["denoiser"].state.items())


def test_the_update_starts_at_zero(bench) -> None:
    state = adapted(bench)["denoiser"].state
    assert all(not t.any() for k, t in state.items() if "lora_B" in k)
    assert all(t.any() for k, t in state.items() if "lora_A" in k)
