"""Which of its prompts has a picture in one draw?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class CaptionSampler:
    """Prompts by number. variants: of each picture those of which a draw takes one, each as likely as the others.

    dropout: of each picture the share of draws that have the prompt `empty` instead; both are empty where none has any.
    """

    variants: Sequence[Sequence[int]] = ()
    dropout: Sequence[float] = ()
    empty: int = 0

    def draw(self, usual: int, picture: int, at: Callable[[str], torch.Generator]) -> int:
        """The prompt of this draw. usual: the picture's own; at: gives the generator for a purpose of this draw."""
        if self.dropout and float(torch.rand((), generator=at("caption dropout"))) < self.dropout[picture]:
            return self.empty
        if not self.variants:
            return usual
        options = self.variants[picture]
        return options[int(torch.randint(len(options), (), generator=at("caption")))]


FIXED_CAPTIONS = CaptionSampler()
"""Each picture has its one prompt."""
