"""DINOv2: pictures by self-supervision, without texts (Oquab et al. 2023, arXiv:2304.07193)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.scores.encoder import Encoder, Role

if TYPE_CHECKING:
    from torch import Tensor


class Dinov2(Encoder):
    """DINOv2, of any size: the class token of transformers' Dinov2Model, after the last layer norm."""

    NAME: ClassVar[str] = "dinov2"
    ROLE: ClassVar[Role] = "dino"
    LABEL: ClassVar[str] = "DINOv2"
    MODEL_CLASS: ClassVar[str] = "Dinov2Model"

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        config: Any = self.model.config
        return int(config.hidden_size)

    def _picture_row(self, pixels: Tensor) -> Tensor:
        row: Tensor = self.model(pixels).pooler_output
        return row
