"""LoRA: a low-rank update beside a frozen weight (Hu et al. 2021, arXiv:2106.09685, eq. 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field

from dbrun.adapters.base import Adapter, Targets
from dbrun.parts import Float, Int, OrNone

if TYPE_CHECKING:
    from peft import LoraConfig


class Lora(Adapter):
    """LoRA: W x + (alpha / rank) B A x, with B zero at the start."""

    NAME: ClassVar[str] = "lora"
    folds: ClassVar[tuple[str, ...]] = ("lora_B",)
    NEUTRAL: ClassVar[dict[str, object]] = {"dropout": 0.0}

    type: Literal["lora"]
    """The adapter type."""
    rank: Annotated[Int, Field(ge=1, le=4096)] = 4
    """Inner dimension of the update; larger learns more and weighs more."""
    alpha: Annotated[Float | None, Field(gt=0), OrNone] = None
    """The update is scaled by alpha / rank; left out, alpha = rank."""
    dropout: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs dropped while training."""
    targets: Targets = "attention"
    """Which layers are adapted: attention, attention+ff, linear, all (also convolutions), or patterns."""

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return (self.alpha if self.alpha is not None else float(self.rank)) / self.rank

    def decided(self, modules: tuple[str, ...]) -> Self:
        """With alpha as a number."""
        return super().decided(modules).model_copy(update={"alpha": self.scale * self.rank})

    def peft_config(self, modules: tuple[str, ...]) -> LoraConfig:
        """peft's LoraConfig with `init_lora_weights=True`: A Kaiming-uniform, B zero."""
        from peft import LoraConfig

        return LoraConfig(r=self.rank, lora_alpha=self.scale * self.rank, lora_dropout=self.dropout,
                          target_modules=list(modules), init_lora_weights=True)
