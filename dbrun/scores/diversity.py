"""Diversity: how much pictures of one class prompt differ from each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from dbrun.scores.base import EmbeddedPictures, PicturesOf, References, Score
from dbrun.scores.encoder import Role

if TYPE_CHECKING:
    from torch import Tensor


class Diversity(Score):
    """Mean distance, 1 - cosine, between pictures of the same class prompt in the named encoder. It is not LPIPS."""

    NAME: ClassVar[str] = "diversity"
    LABEL: ClassVar[str] = "diversity (1 - cosine in the encoder, not LPIPS)"
    SOURCE: ClassVar[str] = ("after DIV (Ruiz et al. 2023, arXiv:2208.12242, section 4.3), which is LPIPS; "
                             "here 1 - cosine in the named encoder")
    HIGHER_IS_BETTER: ClassVar[bool] = True
    ENCODERS: ClassVar[tuple[Role, ...]] = ("dino", "clip")
    PICTURES: ClassVar[PicturesOf] = "class_prompt"
    REFERENCES: ClassVar[References] = "none"
    MIN_SEEDS: ClassVar[int] = 2

    def per_picture(self, pictures: EmbeddedPictures, references: Tensor) -> Tensor:
        """Mean distance of each picture to the others of its prompt, float64 [N].

        Raises ValueError for a prompt with a single picture.
        """
        import torch

        prompts = torch.tensor(pictures.prompts)
        vectors = pictures.vectors.double()
        distances = 1.0 - vectors @ vectors.T
        same_prompt = prompts[:, None] == prompts[None, :]
        same_prompt.fill_diagonal_(False)
        others = same_prompt.sum(dim=1)
        if int(others.min()) == 0:
            raise ValueError("diversity needs two pictures or more of each class prompt")
        means: Tensor = (distances * same_prompt).sum(dim=1) / others
        return means
