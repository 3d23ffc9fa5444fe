"""CLIP: pictures and texts in one space (Radford et al. 2021, arXiv:2103.00020)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.errors import StageFailed
from dbrun.scores.encoder import REFETCH, Encoder, Role

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Clip(Encoder):
    """CLIP, of any size: transformers' CLIPModel with both of its projections."""

    NAME: ClassVar[str] = "clip"
    ROLE: ClassVar[Role] = "clip"
    LABEL: ClassVar[str] = "CLIP"
    HAS_TEXTS: ClassVar[bool] = True
    MODEL_CLASS: ClassVar[str] = "CLIPModel"

    def __init__(self, folder: Path, model: nn.Module, device: torch.device) -> None:
        """Open the tokenizer as well. Raises StageFailed for one that does not belong to the model."""
        super().__init__(folder, model, device)
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        text = self._config.text_config
        # transformers makes an empty tokenizer of files that it cannot use, without an error
        if not 2 < len(self.tokenizer) <= text.vocab_size:
            raise StageFailed(f"the tokenizer in {folder} has {len(self.tokenizer)} entries, "
                              f"the model's vocabulary {text.vocab_size}", fix=REFETCH)
        self.max_tokens: int = min(self.tokenizer.model_max_length, text.max_position_embeddings)
        """Tokens of a text that are read, start and end included; the rest is cut off."""

    @property
    def _config(self) -> Any:
        return self.model.config

    @property
    def width(self) -> int:
        """Numbers of an embedding, after the projection."""
        return int(self._config.projection_dim)

    def _picture_row(self, pixels: Tensor) -> Tensor:
        model: Any = self.model
        row: Tensor = model.get_image_features(pixels).pooler_output
        return row

    def _text_row(self, text: str) -> Tensor:
        tokens = self.tokenizer([text], truncation=True, max_length=self.max_tokens, return_tensors="pt")
        model: Any = self.model
        row: Tensor = model.get_text_features(tokens["input_ids"].to(self.device)).pooler_output
        return row
