"""Subject fidelity in CLIP, beside that in DINO."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from dbrun.scores.encoder import Role
from dbrun.scores.subject import SubjectFidelity


class ClipSubjectFidelity(SubjectFidelity):
    """CLIP-I, where `subject` is DINO: CLIP tells the kind of a thing better than one thing from another."""

    NAME: ClassVar[str] = "subject_clip"
    LABEL: ClassVar[str] = "subject fidelity (CLIP-I)"
    SOURCE: ClassVar[str] = "CLIP-I (Ruiz et al. 2023, arXiv:2208.12242, section 4.1)"

    def encoder_role(self, named: Collection[Role]) -> Role | None:
        """CLIP where both encoders are named; with CLIP alone, `subject` is this score already."""
        if "clip" in named and "dino" in named:
            return "clip"
        return None

    @property
    def missing_encoder_reason(self) -> str:
        """What to name in a recipe where `encoder_role` is None."""
        return "subject_clip needs `clip` and `dino`; with `clip` alone, `subject` is CLIP-I"
