"""OFT: turn a weight's inputs in blocks, and change no angle between them (Qiu et al. 2023, arXiv:2306.07280)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dbrun.adapters.base import Adapter, Targets
from dbrun.adapters.import_adapter import ImportCandidate, ImportedAdapter
from dbrun.config_types import Bool, Int
from dbrun.errors import KeyProblem

if TYPE_CHECKING:
    from peft import OFTConfig


class Oft(Adapter):
    """OFT: W R x with R = blocks of (I + Q)^-1 (I - Q), Q skew-symmetric and zero at the start.

    LyCORIS' diag-oft, which ComfyUI and A1111 read as `oft_blocks`, is R W: no turn of outputs does what one of inputs
    does, but where W is itself a turn.
    """

    NAME: ClassVar[str] = "oft"
    NEUTRAL: ClassVar[dict[str, object]] = {"share": False}

    always_in_config: ClassVar[tuple[str, ...]] = ("oft_block_size",)
    no_lycoris_reason: ClassVar[str | None] = (
        "which turns a layer's inputs, where LyCORIS and its readers turn its outputs")

    type: Literal["oft"]
    """The adapter type."""
    block_size: Annotated[Int, Field(ge=2, le=4096)] = 8
    """Size of the blocks; it must divide every layer's inputs. Larger learns more and weighs more."""
    share: Bool = False
    """One turn for all blocks of a layer."""
    targets: Targets = "attention"
    """Which layers are adapted: attention, attention+ff, linear, or patterns that hit linear layers only."""

    @property
    def linear_only_reason(self) -> str | None:
        """peft's OFT sums overlapping patches wherever a kernel is larger than 1."""
        return "on a convolution OFT changes the base before it has learnt anything (peft sums overlapping patches)"

    def layer_problem(self, shapes: Mapping[str, Sequence[int]]) -> KeyProblem | None:
        """Also where peft would silently replace the block size."""
        if (convolutions := super().layer_problem(shapes)) is not None:
            return convolutions
        sizes = {name: shape[1] for name, shape in shapes.items()}
        wrong = [name for name, size in sizes.items() if size % self.block_size]
        if not wrong:
            return None
        return KeyProblem("block_size",
                          f"found {self.block_size}, which does not divide the {sizes[wrong[0]]} inputs of "
                          f"`{wrong[0]}`", f"write a divisor of {math.gcd(*sizes.values())}")

    def peft_config(self, modules: tuple[str, ...]) -> OFTConfig:
        """peft's OFTConfig; the inverse is computed, not its series, so that the turn is a turn."""
        from peft import OFTConfig

        return OFTConfig(r=0, oft_block_size=self.block_size, block_share=self.share, use_cayley_neumann=False,
                         target_modules=list(modules))

    @classmethod
    def import_candidates(cls, given: ImportedAdapter) -> Iterator[ImportCandidate]:
        """As it is: only peft writes these, and its config says all."""
        yield ImportCandidate({"block_size": given.config["oft_block_size"], "share": given.config["block_share"]},
                              given.state)
