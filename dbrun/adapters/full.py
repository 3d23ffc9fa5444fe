"""Full fine-tuning: the component's own weights learn, and nothing stands beside them (Ruiz et al. 2022, DreamBooth).

What learns takes 16 bytes a weight (itself, its gradient and AdamW's two moments, in 32 bits) and what it was besides:
14 GB and 2 to 3.5 GB for the UNet of Stable Diffusion 1.5, where a LoRA of rank 16 takes 50 MB.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from dbrun.adapters.base import Adapter, Targets
from dbrun.adapters.direct import DirectWeights
from dbrun.errors import KeyProblem

if TYPE_CHECKING:
    from torch import nn


class Full(Adapter):
    """The component's own weights: all of them, or those of the modules that targets name, with all within these."""

    NAME: ClassVar[str] = "full"
    layer_classes: ClassVar[tuple[str, ...]] = ("Module",)
    uses_peft: ClassVar[bool] = False

    type: Literal["full"]
    """The adapter type."""
    targets: Targets = ("*",)
    """Which modules learn, with all within them: attention, attention+ff, linear, all, or patterns. Left out, all."""

    def field_problems(self) -> Iterator[KeyProblem]:
        """It starts from the base's own weights."""
        if self.init is not None:
            yield KeyProblem("init", "found a path, but `type: full` starts from the base's own weights",
                             "take `init` away, and name the weights to start from in `base.path`")

    def attach_direct(self, module: nn.Module, modules: tuple[str, ...]) -> DirectWeights:
        """Make the weights learn, in 32 bits."""
        within = tuple(f"{name}." for name in modules)
        return DirectWeights({name: p for name, p in module.named_parameters() if name.startswith(within)})
