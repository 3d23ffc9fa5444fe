"""Subject fidelity: how much generated pictures look like the subject's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from dbrun.scores.base import EmbeddedPictures, PicturesOf, References, Score, mean_cosines
from dbrun.scores.encoder import Role

if TYPE_CHECKING:
    from torch import Tensor


class SubjectFidelity(Score):
    """Mean cosine of each generated picture to the instance pictures: DINO where `dino` is named, else CLIP-I."""

    NAME: ClassVar[str] = "subject"
    LABEL: ClassVar[str] = "subject fidelity"
    SOURCE: ClassVar[str] = "DINO and CLIP-I (Ruiz et al. 2023, arXiv:2208.12242, section 4.1)"
    HIGHER_IS_BETTER: ClassVar[bool] = True
    ENCODERS: ClassVar[tuple[Role, ...]] = ("dino", "clip")
    PICTURES: ClassVar[PicturesOf] = "prompts"
    REFERENCES: ClassVar[References] = "instances"

    def per_picture(self, pictures: EmbeddedPictures, references: Tensor) -> Tensor:
        """Mean cosine of each picture to all instance pictures [M, D], float64 [N]."""
        return mean_cosines(pictures.vectors, references)
