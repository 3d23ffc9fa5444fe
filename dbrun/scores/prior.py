"""Prior preservation: how much pictures of the bare class have become the subject."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from dbrun.scores.base import EmbeddedPictures, PicturesOf, References, Score, mean_cosines
from dbrun.scores.encoder import Role

if TYPE_CHECKING:
    from torch import Tensor


class PriorPreservation(Score):
    """PRES: mean cosine of pictures of the class prompt to the instance pictures; high where the class is lost."""

    NAME: ClassVar[str] = "prior"
    LABEL: ClassVar[str] = "prior preservation (PRES)"
    SOURCE: ClassVar[str] = "PRES (Ruiz et al. 2023, arXiv:2208.12242, section 4.3)"
    HIGHER_IS_BETTER: ClassVar[bool] = False
    ENCODERS: ClassVar[tuple[Role, ...]] = ("dino", "clip")
    PICTURES: ClassVar[PicturesOf] = "class_prompt"
    REFERENCES: ClassVar[References] = "instances"

    def per_picture(self, pictures: EmbeddedPictures, references: Tensor) -> Tensor:
        """Mean cosine of each picture to all instance pictures [M, D], float64 [N]."""
        return mean_cosines(pictures.vectors, references)
