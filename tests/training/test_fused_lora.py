"""Do fused layers compute what peft's compute, and are all others left alone?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import FAMILY, load, lora
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dbrun.adapters.attach import ADAPTER_NAME, attach, disable_adapter
from dbrun.adapters.lora import Lora
from dbrun.training.fused_lora import FusedLora, MergedConvLora, fused_lora

IN, OUT = 6, 10


class Layers(nn.Module):
    """A linear layer with bias, one without, and a convolution, each with an adapter; B is not zero."""

    def __init__(self, dtype: torch.dtype = torch.float32, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(IN, OUT, dtype=dtype), nn.Linear(OUT, OUT, bias=False, dtype=dtype)
        self.conv = nn.Conv1d(OUT, OUT, 1, dtype=dtype)
        adapter = Lora.model_validate({"type": "lora", "rank": 2, "alpha": 3, **settings})
        names = ("first", "second") if adapter.linear_only_reason else ("first", "second", "conv")
        attach(self, adapter, names, seed=0)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(torch.randn_like(parameter))

    def forward(self, x: Tensor) -> Tensor:
        """Function of x [..., in] with values [rows, out, 1]."""
        hidden = self.second(self.first(x).tanh())
        out: Tensor = self.conv(hidden.reshape(-1, OUT, 1))
        return out


class Convolutions(nn.Module):
    """Convolutions of 3 × 3, with a stride and without, and one of 1 × 1, each with an adapter; B is not zero."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.plain, self.strided = nn.Conv2d(IN, OUT, 3, padding=1), nn.Conv2d(OUT, IN, 3, stride=2, padding=1)
        self.point = nn.Conv2d(IN, OUT, 1, bias=False)
        attach(self, Lora.model_validate({"type": "lora", "rank": 2, "alpha": 3, **settings}),
               ("plain", "strided", "point"), seed=0)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(torch.randn_like(parameter))

    def forward(self, x: Tensor) -> Tensor:
        """Function of x [N, in, h, w] with values [N, out, h / 2, w / 2]."""
        out: Tensor = self.point(self.strided(self.plain(x).tanh()).tanh())
        return out


def answers(layers: nn.Module, x: Tensor, **autocast: Any) -> Sequence[Tensor]:
    """The output, then the gradients of x and of all weights that learn."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", **{"enabled": False, **autocast}):
        out = layers(x)
    weights = [parameter for parameter in layers.parameters() if parameter.requires_grad]
    return out, *torch.autograd.grad(out.float().square().mean(), [x, *weights])


def fused_names(layers: nn.Module) -> set[str]:
    return {name for name, layer in layers.named_modules() if "forward" in vars(layer)}


def largest_difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """As a share of the norm of the wanted tensor."""
    return max(((one - other).norm() / other.norm()).item() for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("shape", [(5, IN), (2, 3, IN), (1, IN), (90, IN), (3, 40, IN)])
@pytest.mark.parametrize("alpha", [2, 3], ids=["scale 1", "scale 1.5"])
def test_outputs_and_gradients_are_pefts(shape: Sequence[int], alpha: int) -> None:
    layers, x = Layers(alpha=alpha), torch.randn(shape)
    wanted = answers(layers, x)
    with fused_lora([layers]):
        assert fused_names(layers) == {"first", "second"}
        found = answers(layers, x)
    assert [one.shape for one in found] == [other.shape for other in wanted]
    assert [one.dtype for one in found] == [other.dtype for other in wanted]
    assert largest_difference(found, wanted) < 1e-6
    assert not fused_names(layers)
    assert all(one.equal(other) for one, other in zip(answers(layers, x), wanted, strict=True))


def test_under_autocast_a_fused_layer_is_nearer_to_the_exact_answer_than_pefts() -> None:
    x = torch.randn(200, IN)
    exact = answers(Layers(), x)
    layers, autocast = Layers(torch.bfloat16), {"enabled": True, "dtype": torch.bfloat16}
    peft = answers(layers, x, **autocast)
    with fused_lora([layers]):
        fused = answers(layers, x, **autocast)
    assert [one.dtype for one in fused] == [other.dtype for other in peft]
    assert largest_difference(fused, exact) < 0.03
    assert largest_difference(fused, exact) < 1.1 * largest_difference(peft, exact)


def test_the_numbers_are_the_derivatives() -> None:
    x, weight, bias, a, b = [torch.randn(shape, dtype=torch.float64, requires_grad=grad) for shape, grad in (
        ((2, 3, IN), True), ((OUT, IN), False), ((OUT,), False), ((2, IN), True), ((OUT, 2), True))]
    for is_merged in (False, True):
        assert torch.autograd.gradcheck(FusedLora.apply, (x, weight, bias, a, b, 1.5, is_merged))
        assert torch.autograd.gradcheck(FusedLora.apply, (x.detach(), weight, None, a, b, 1.0, is_merged))
        assert torch.autograd.gradcheck(FusedLora.apply, (x, weight, None, a.detach(), b.detach(), 1.0, is_merged))


@pytest.mark.parametrize(("rows", "is_merged"), [(4 * IN - 1, False), (4 * IN, True)])
def test_weights_are_summed_up_where_rows_are_many(rows: int, is_merged: bool) -> None:
    layers = Layers()
    with fused_lora([layers]):
        recorded: Any = layers.first(torch.randn(rows, IN)).grad_fn
        assert recorded.is_merged == is_merged


def test_one_operation_is_recorded_for_a_layer() -> None:
    layers = Layers()
    with fused_lora([layers]):
        x = torch.randn(2, 3, IN, requires_grad=True)
        recorded = layers.first(x).grad_fn
    assert type(recorded).__name__ == "FusedLoraBackward"
    assert {type(before).__name__ for before, _ in recorded.next_functions} == {"NoneType", "AccumulateGrad"}


MANY, FEW = (3, IN, 12, 12), (1, IN, 4, 4)
"""Shapes whose positions are many, and few, beside the channels of a convolution."""


@pytest.mark.parametrize("alpha", [2, 3], ids=["scale 1", "scale 1.5"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["rows", "channels last"])
def test_convolutions_of_many_positions_give_what_pefts_give(alpha: int, memory_format: torch.memory_format) -> None:
    layers, x = Convolutions(alpha=alpha), torch.randn(MANY).to(memory_format=memory_format)
    wanted = answers(layers, x)
    with fused_lora([layers]):
        assert fused_names(layers) == {"plain", "strided", "point"}
        assert type(layers(x).grad_fn).__name__ == "MergedConvLoraBackward"
        found = answers(layers, x)
    assert [(one.shape, one.dtype) for one in found] == [(other.shape, other.dtype) for other in wanted]
    assert largest_difference(found, wanted) < 2e-6
    assert not all(one.equal(other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize(("shape", "autocast"), [(FEW, {}), (MANY, {"enabled": True, "dtype": torch.bfloat16})],
                         ids=["few positions", "few bits"])
def test_convolutions_that_gain_nothing_or_lose_bits_are_pefts(shape: Sequence[int], autocast: dict[str, Any]) -> None:
    layers, x = Convolutions(), torch.randn(shape)
    wanted = answers(layers, x, **autocast)
    with fused_lora([layers]):
        found = answers(layers, x, **autocast)
    assert all(one.equal(other) for one, other in zip(found, wanted, strict=True))


def test_a_convolution_without_gradients_or_adapter_is_pefts() -> None:
    layers, x = Convolutions(), torch.randn(MANY)
    with torch.no_grad():
        wanted = layers(x)
    with fused_lora([layers]):
        with torch.no_grad():
            assert layers(x).equal(wanted)
        with disable_adapter(layers):
            assert layers.plain(x).equal(layers.plain.base_layer(x))


def test_the_numbers_of_a_convolution_are_the_derivatives() -> None:
    x, weight, bias, a, b = [torch.randn(shape, dtype=torch.float64, requires_grad=grad) for shape, grad in (
        ((2, 2, 4, 5), True), ((3, 2, 3, 3), False), ((3,), False), ((2, 2, 3, 3), True), ((3, 2, 1, 1), True))]
    for stride in (1, 1), (2, 2):
        geometry = (stride, (1, 1))
        assert torch.autograd.gradcheck(MergedConvLora.apply, (x, weight, bias, a, b, 1.5, *geometry))
        assert torch.autograd.gradcheck(MergedConvLora.apply, (x.detach(), weight, None, a, b, 1.0, *geometry))
        assert torch.autograd.gradcheck(MergedConvLora.apply, (x, weight, None, a.detach(), b.detach(), 1.0, *geometry))


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups")
@pytest.mark.parametrize("changes", [{"groups": 2}, {"padding_mode": "circular"}, {"padding": "same"}],
                         ids=["groups", "circular", "same"])
def test_convolutions_of_another_kind_stay_as_they_are(changes: dict[str, Any]) -> None:
    layers = nn.ModuleDict({"other": nn.Conv2d(IN, IN, 3, **{"padding": 1, **changes}), "plain": nn.Conv2d(IN, IN, 3)})
    attach(layers, Lora.model_validate({"type": "lora", "rank": 2}), ("other", "plain"), seed=0)
    with fused_lora([layers]):
        assert fused_names(layers) == {"plain"}


@pytest.mark.parametrize("settings", [{"dropout": 0.5}, {"dora": True}, {"start": "pissa"}],
                         ids=["dropout", "dora", "pissa"])
def test_adapters_of_another_formula_stay_as_they_are(settings: dict[str, object]) -> None:
    layers = Layers(**settings)
    with fused_lora([layers]):
        assert not fused_names(layers)


def test_what_acts_on_a_part_of_a_layer_still_does() -> None:
    layers, seen = Layers(), list[object]()
    layers.first.base_layer.register_forward_hook(lambda *of: seen.append(of))
    layers.second.lora_A[ADAPTER_NAME].weight = nn.Parameter(torch.zeros(2, OUT))
    layers.second.base_layer.forward = lambda x: x
    with fused_lora([layers]):
        assert not fused_names(layers) - {"second.base_layer"}
        layers(torch.randn(2, IN))
    assert len(seen) == 1


def test_a_weight_that_learns_itself_gets_its_gradient() -> None:
    layers = Layers()
    layers.first.base_layer.weight.requires_grad_(True)
    with fused_lora([layers]):
        assert fused_names(layers) == {"second"}


def test_without_gradients_the_bits_are_pefts() -> None:
    layers, x = Layers(), torch.randn(7, IN)
    with torch.no_grad():
        wanted = layers(x)
    with fused_lora([layers]), torch.no_grad():
        assert layers(x).equal(wanted)


def test_a_layer_answers_as_the_base_while_its_adapter_is_off() -> None:
    layers, x = Layers(), torch.randn(7, IN)
    with fused_lora([layers]):
        with disable_adapter(layers):
            assert layers.first(x).equal(layers.first.base_layer(x))
        assert not layers.first(x).equal(layers.first.base_layer(x))


def test_weights_of_another_dtype_than_the_input_are_pefts_to_cast() -> None:
    layers, x = Layers(torch.bfloat16), torch.randn(7, IN, dtype=torch.bfloat16)
    wanted = layers.first(x.float().bfloat16())
    with fused_lora([layers]):
        found = layers.first(x)
        with pytest.raises(RuntimeError, match="dtype"):
            layers.first(x.float())
    assert found.dtype == wanted.dtype
    assert torch.allclose(found, wanted, atol=0.05)


def test_blocks_that_are_recomputed_give_the_same_gradients() -> None:
    layers, x = Layers(), torch.randn(7, IN, requires_grad=True)
    weights = [parameter for parameter in layers.parameters() if parameter.requires_grad]
    with fused_lora([layers]):
        wanted = torch.autograd.grad(layers(x).square().mean(), [x, *weights])
        found = torch.autograd.grad(checkpoint(layers, x, use_reentrant=False).square().mean(), [x, *weights])
    assert all(one.equal(other) for one, other in zip(found, wanted, strict=True))


def test_a_second_training_of_the_same_layers_changes_nothing() -> None:
    layers = Layers()
    with fused_lora([layers]):
        first = layers.first.forward
        with fused_lora([layers]):
            assert layers.first.forward is first
        assert layers.first.forward is first
    assert not fused_names(layers)


def test_all_adapted_layers_of_a_base_are_fused(tmp_path: Path) -> None:
    FAMILY.write_tiny_base(tmp_path / "base")
    model = load(tmp_path)
    for component in ("denoiser", "text_encoder"):
        adapter = lora(component, model)
        module = model.module(component)
        with fused_lora([module]):
            assert fused_names(module) == set(adapter.modules) != set()
