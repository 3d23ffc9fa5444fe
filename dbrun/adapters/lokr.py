"""LoKr: the Kronecker product of a small and a low-rank matrix (Yeh et al. 2023, arXiv:2309.14859)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dbrun.adapters.lycoris import Lycoris
from dbrun.parts import Bool, Int, OrNone

if TYPE_CHECKING:
    from peft import LoKrConfig
    from torch import Tensor


class LoKr(Lycoris):
    """LoKr: W + (alpha / rank) kron(C, B A), with C zero at the start; a factor that is small enough stays whole."""

    NAME: ClassVar[str] = "lokr"
    folds: ClassVar[tuple[str, ...]] = ("lokr_w1", "lokr_w1_a")
    NEUTRAL: ClassVar[dict[str, object]] = {"factor": None, "decompose_both": False}

    type: Literal["lokr"]
    """The adapter type."""
    factor: Annotated[Int | None, Field(ge=2, le=4096), OrNone] = None
    """Size of C, where it divides the layer's; left out, the divisor nearest the square root. Smaller learns more."""
    decompose_both: Bool = False
    """Make C, too, a product of two thin matrices, where rank is less than half its size."""

    def peft_config(self, modules: tuple[str, ...]) -> LoKrConfig:
        """peft's LoKrConfig with `init_weights=True`."""
        from peft import LoKrConfig

        return LoKrConfig(**self.settings(modules), decompose_both=self.decompose_both,
                          decompose_factor=-1 if self.factor is None else self.factor)

    def lycoris(self, modules: tuple[str, ...], state: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
        """With C whole and the scale in it: readers ignore alpha where both factors are whole."""
        layers = {}
        for name, layer in self.unwound(modules, state).items():
            first = layer["lokr_w1"] if "lokr_w1" in layer else layer["lokr_w1_a"] @ layer["lokr_w1_b"]
            second = {end: tensor for end, tensor in layer.items() if end.startswith("lokr_w2")}
            layers[name] = {"lokr_w1": first * self.scale, **second, "alpha": layer["alpha"]}
        return layers
