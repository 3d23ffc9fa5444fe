"""Prompt fidelity: how well generated pictures show what their prompts say."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from dbrun.scores.base import EmbeddedPictures, PicturesOf, References, Score
from dbrun.scores.encoder import Role

if TYPE_CHECKING:
    from torch import Tensor


class PromptFidelity(Score):
    """CLIP-T: mean cosine of each generated picture to the text of its own prompt."""

    NAME: ClassVar[str] = "prompt"
    LABEL: ClassVar[str] = "prompt fidelity (CLIP-T)"
    SOURCE: ClassVar[str] = "CLIP-T (Ruiz et al. 2023, arXiv:2208.12242, section 4.1)"
    HIGHER_IS_BETTER: ClassVar[bool] = True
    ENCODERS: ClassVar[tuple[Role, ...]] = ("clip",)
    PICTURES: ClassVar[PicturesOf] = "prompts"
    REFERENCES: ClassVar[References] = "texts"

    def per_picture(self, pictures: EmbeddedPictures, references: Tensor) -> Tensor:
        """Cosine of each picture to its prompt's text; references: texts [P, D] by prompt index. float64 [N]."""
        own = references[list(pictures.prompts)]
        cosines: Tensor = (pictures.vectors.double() * own.double()).sum(dim=1)
        return cosines
