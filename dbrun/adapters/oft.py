"""OFT: rotate a layer's inputs in blocks, which keeps the angles between them (Qiu et al. 2023, arXiv:2306.07280)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dbrun.adapters.base import Adapter, LayerNeed, Targets
from dbrun.adapters.import_adapter import ImportCandidate, ImportedAdapter
from dbrun.config_types import Bool, Int
from dbrun.errors import KeyProblem

if TYPE_CHECKING:
    from peft import OFTConfig


class Oft(Adapter):
    """OFT: W R x, with R block-diagonal of (I + Q)^-1 (I - Q), Q skew-symmetric and zero at the start.

    LyCORIS' diag-oft, which ComfyUI and A1111 read as `oft_blocks`, is R W. A rotation of outputs cannot do what a
    rotation of inputs does, unless W is itself a rotation; so OFT has no export for these programs.
    """

    NAME: ClassVar[str] = "oft"
    NEUTRAL: ClassVar[dict[str, object]] = {"share": False}

    # peft always writes `r: 0`; without a block size beside it, another version of peft would choose its own default.
    always_in_config: ClassVar[tuple[str, ...]] = ("oft_block_size",)
    no_lycoris_reason: ClassVar[str | None] = (
        "which turns a layer's inputs, where LyCORIS and its readers turn its outputs")

    type: Literal["oft"]
    """The adapter type."""
    block_size: Annotated[Int, Field(ge=2, le=4096)] = 8
    """Size of the blocks; it must divide the number of inputs of every layer. Larger blocks can learn more and make a
    larger file."""
    share: Bool = False
    """Use one rotation for all blocks of a layer."""
    targets: Targets = "attention"
    """Which layers are adapted: attention, attention+ff, blocks (transformers only), linear, or patterns that
    match linear layers only."""

    @property
    def linear_only_reason(self) -> str | None:
        """Clause on convolutions: peft's OFT sums overlapping patches if a kernel is larger than 1."""
        return "on a convolution OFT changes the base before it has learnt anything (peft sums overlapping patches)"

    def layer_problem(self, shapes: Mapping[str, Sequence[int]]) -> KeyProblem | None:
        """Problem of the base class (convolutions), one output, or a block size that does not divide the inputs."""
        convolutions = super().layer_problem(shapes)
        if convolutions is not None:
            return convolutions
        # such a layer sums up one axis of several: its inputs have four axes, as those of a convolution for peft
        single = [name for name, shape in shapes.items() if shape[0] == 1]
        if single:
            return KeyProblem("targets", f"found `{single[0]}`, which has one output, among its {len(shapes)} layers: "
                              "peft's OFT cannot adapt such a layer",
                              "write a narrower preset, such as `targets: blocks`")
        inputs = {name: shape[1] for name, shape in shapes.items()}
        # peft would take another block size there without an error.
        indivisible = [name for name, size in inputs.items() if size % self.block_size]
        if not indivisible:
            return None
        first = indivisible[0]
        return KeyProblem("block_size",
                          f"found {self.block_size}, which does not divide the {inputs[first]} inputs of `{first}`",
                          f"write a divisor of {math.gcd(*inputs.values())}")

    @property
    def layer_needs(self) -> Mapping[LayerNeed, str]:
        """A plain weight: peft's OFT wants a config of torchao that nobody hands to it."""
        return {"plain weights": "peft cannot train OFT on weights that torchao quantised"}

    @property
    def starts_from_base_weights(self) -> bool:
        """False: its weights start at random or at zero."""
        return False

    def peft_config(self, modules: tuple[str, ...]) -> OFTConfig:
        """peft's OFTConfig for these layers."""
        from peft import OFTConfig

        # Without Cayley-Neumann: peft's default truncates the series of the inverse, and R is no exact rotation then.
        return OFTConfig(r=0, oft_block_size=self.block_size, block_share=self.share, use_cayley_neumann=False,
                         target_modules=list(modules))

    @classmethod
    def import_candidates(cls, given: ImportedAdapter) -> Iterator[ImportCandidate]:
        """Yield the one reading: only peft writes OFT, and its config contains every setting."""
        yield ImportCandidate({"block_size": given.config["oft_block_size"], "share": given.config["block_share"]},
                              given.state)
