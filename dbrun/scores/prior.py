"""Prior preservation: how much pictures of the bare class have become the subject."""

from __future__ import annotations

from typing import ClassVar

from dbrun.scores.base import PicturesOf
from dbrun.scores.subject import SubjectFidelity


class PriorPreservation(SubjectFidelity):
    """PRES: the measure of subject fidelity on pictures of the class prompt; high where the class is lost."""

    NAME: ClassVar[str] = "prior"
    LABEL: ClassVar[str] = "prior preservation (PRES)"
    SOURCE: ClassVar[str] = "PRES (Ruiz et al. 2023, arXiv:2208.12242, section 4.3)"
    HIGHER_IS_BETTER: ClassVar[bool] = False
    PICTURES: ClassVar[PicturesOf] = "class_prompt"
