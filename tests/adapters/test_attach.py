"""Do patterns hit what they should, and do weights go in and out exactly?"""

import pytest
import torch

from dbrun.adapters.attach import attach, disable_adapter, match_layers, read_weights, write_weights
from dbrun.adapters.lora import Lora
from dbrun.errors import RecipeError, StageFailed

ALL = ("conv_in", "down.0.to_k", "down.0.to_q", "down.1.to_k", "down.1.to_q")


def lora(**settings: object) -> Lora:
    return Lora.model_validate({"type": "lora", "rank": 2, **settings})


@pytest.mark.parametrize(("patterns", "hit"), [
    (("to_q",), ("down.0.to_q", "down.1.to_q")),
    (("0.to_q",), ("down.0.to_q",)),
    (("down.1.*",), ("down.1.to_k", "down.1.to_q")),
    (("*",), ALL),
    (("to_*", "conv_in"), ALL),
    (("o_q", "to_k"), ("down.0.to_k", "down.1.to_k")),
])
def test_a_pattern_is_a_name_a_dotted_end_or_has_stars(net, patterns, hit) -> None:
    assert match_layers(net, patterns) == hit


@pytest.mark.parametrize(("pattern", "said"), [("to_qq", "`to_q`"), ("con_in", "`conv_in`"), ("norm", "GroupNorm")])
def test_a_pattern_without_a_hit_names_the_closest_modules(net, pattern, said) -> None:
    with pytest.raises(RecipeError) as caught:
        match_layers(net, (pattern,))
    assert said in caught.value.message and pattern in caught.value.message and caught.value.fix


def test_only_asked_for_layer_types_are_hit(net) -> None:
    assert match_layers(net, ("*",), ("Linear",)) == ALL[1:]


def test_dots_and_brackets_in_a_pattern_are_plain_letters(net) -> None:
    with pytest.raises(RecipeError):
        match_layers(net, ("down[0].to_q",))


def test_initial_weights_follow_from_the_seed_alone(net, x) -> None:
    import copy
    twins = [copy.deepcopy(net) for _ in range(3)]
    for twin, seed, noise in zip(twins, (7, 7, 8), (0, 1, 0), strict=True):
        torch.manual_seed(noise)
        attach(twin, lora(), ALL, seed=seed)
    one, same, other = (read_weights(twin) for twin in twins)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


def test_the_global_random_state_is_left_alone(net) -> None:
    before = torch.get_rng_state()
    attach(net, lora(), ALL, seed=3)
    assert torch.equal(before, torch.get_rng_state())


def test_only_the_adapter_trains_and_in_32_bits(net) -> None:
    net.half()
    attach(net, lora(), ALL, seed=3)
    trained = {n for n, p in net.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in n for n in trained)
    assert len(trained) == len(read_weights(net)) == 2 * len(ALL)
    assert all(p.dtype == torch.float32 for p in net.parameters() if p.requires_grad)


def test_written_weights_are_read_back_exactly(net) -> None:
    attach(net, lora(), ALL, seed=3)
    state = {k: torch.randn_like(t) for k, t in read_weights(net).items()}
    write_weights(net, state)
    back = read_weights(net)
    assert list(back) == sorted(state) and all(torch.equal(back[k], state[k]) for k in state)
    assert all(t.is_contiguous() and t.dtype == torch.float32 for t in back.values())


@pytest.mark.parametrize("spoil", ["missing", "unexpected", "shape"])
def test_weights_of_another_adapter_are_refused(net, spoil) -> None:
    attach(net, lora(), ALL, seed=3)
    state = read_weights(net)
    name = next(iter(state))
    if spoil == "missing":
        del state[name]
    elif spoil == "unexpected":
        state["down.9.to_q.lora_A.weight"] = torch.zeros(2, 8)
    else:
        state[name] = state[name][:1]
    with pytest.raises(StageFailed):
        write_weights(net, state)


def test_disabled_is_the_base_and_afterwards_the_adapter_is_back(net, x) -> None:
    plain = net(x)
    attach(net, lora(), ALL, seed=3)
    write_weights(net, {k: torch.ones_like(t) * 0.1 for k, t in read_weights(net).items()})
    adapted = net(x)
    assert not torch.allclose(plain, adapted)
    with disable_adapter(net):
        assert torch.equal(net(x), plain)
    assert torch.equal(net(x), adapted)
    assert any(p.requires_grad for p in net.parameters())


def test_reading_gives_a_copy(net) -> None:
    attach(net, lora(), ALL, seed=3)
    state = read_weights(net)
    name = next(iter(state))
    state[name].zero_()
    assert read_weights(net)[name].abs().sum() > 0


def test_a_list_that_peft_would_stretch_is_refused() -> None:
    """`to_q` as a full name also ends `inner.to_q`; adapting that one unasked must not happen silently."""
    net = torch.nn.Module()
    net.to_q = torch.nn.Linear(2, 2)
    net.inner = torch.nn.Module()
    net.inner.to_q = torch.nn.Linear(2, 2)
    with pytest.raises(StageFailed, match=r"inner\.to_q"):
        attach(net, lora(), ("to_q",), seed=0)


def test_dropout_drops_only_while_training(net, x) -> None:
    net.eval()
    attach(net, lora(dropout=0.5, targets=("to_q",)), ("down.0.to_q",), seed=1)
    write_weights(net, {name: t + 0.5 for name, t in read_weights(net).items()})
    assert torch.equal(net(x), net(x))
    net.train()
    assert not torch.equal(net(x), net(x))
