"""Full fine-tuning: the component's own weights learn, without an adapter (Ruiz et al. 2022, DreamBooth).

A trained weight takes 16 bytes (itself, its gradient and AdamW's two moments, in float32), and the copy of its original
value 2 to 4 more: 14 GB and 2 to 3.5 GB for the UNet of Stable Diffusion 1.5, where a LoRA of rank 16 takes 50 MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from dbrun.adapters.base import Adapter, LayerNeed, Targets
from dbrun.adapters.direct import DirectWeights
from dbrun.errors import KeyProblem

if TYPE_CHECKING:
    from torch import nn


class Full(Adapter):
    """Full fine-tuning: all weights of a component, or those of the modules in `targets` and of all modules inside."""

    NAME: ClassVar[str] = "full"
    # Every module: norms and embeddings learn too, which peft's types cannot adapt.
    layer_classes: ClassVar[tuple[str, ...]] = ("Module",)
    uses_peft: ClassVar[bool] = False

    type: Literal["full"]
    """The adapter type."""
    targets: Targets = ("*",)
    """Which modules learn, with all modules inside: attention, attention+ff, blocks (transformers
    only), linear, all, or patterns. Default: all."""

    @property
    def layer_needs(self) -> Mapping[LayerNeed, str]:
        """The base's own weights, since they are what learns."""
        return {"own weights": "it trains the base's own weights, and quantised weights cannot learn"}

    def field_problems(self) -> Iterator[KeyProblem]:
        """Yield a problem for `init`, since full fine-tuning starts from the base's own weights."""
        if self.init is not None:
            yield KeyProblem("init", "found a path, but `type: full` starts from the base's own weights",
                             "remove `init`, and name the weights to start from in `base.path`")

    def attach_direct(self, module: nn.Module, modules: tuple[str, ...]) -> DirectWeights:
        """Make the weights of these modules trainable, in float32."""
        # With the dot: `down.1` must not take `down.10`.
        prefixes = tuple(f"{name}." for name in modules)
        return DirectWeights({name: p for name, p in module.named_parameters() if name.startswith(prefixes)})
