"""The recipe sections `evaluate` and `select`: encoders, prompts and seeds of scores, and what is expected of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, create_model

from dbrun.config_types import FilledText, Int, OrNone, Part, PathText, Text, unwrap_single
from dbrun.expectations import EXPECTATION_PATTERN
from dbrun.recipe.schema.subject import Prompt
from dbrun.scores.base import scores
from dbrun.scores.encoder import Role

HELD_OUT_LOSS = "held_out_loss"
"""Value of `select.by` that needs no pictures: the loss of the held-out pictures after the candidate's step."""
SelectBy: Any = Literal[(*scores(), HELD_OUT_LOSS)]
ScoreName: Any = Literal[tuple(scores())]
SelectBySeveral: Any = Annotated[tuple[ScoreName, ...], Field(min_length=1)]
"""Scores of pictures that decide together; the held-out loss is no such score."""


class ScoreEncoder(Part):
    """An encoder that pictures are compared in."""

    path: PathText
    """`embedded`, a folder that transformers wrote (relative to the recipe), or a Hub id such as
    `openai/clip-vit-base-patch32`."""
    revision: Annotated[FilledText | None, OrNone] = None
    """For a Hub id: its 40-digit commit, so that scores always mean the same."""


class Scoring(Part):
    """Which pictures are drawn to be scored, and the encoders that they are compared in."""

    clip: Annotated[ScoreEncoder | None, OrNone] = None
    """A CLIP, for prompt fidelity and, where no `dino` is named, for all other scores."""
    dino: Annotated[ScoreEncoder | None, OrNone] = None
    """A DINOv2, which tells a subject from others of its kind better than CLIP does."""
    prompts: Annotated[tuple[Prompt, ...] | None, Field(min_length=1, max_length=64), OrNone] = None
    """Prompts with the subject in them; left out, the instance prompt alone and in several places."""
    class_prompt: Annotated[Prompt | None, OrNone] = None
    """Prompt of the bare class, whose pictures show what the class has become; left out, the subject's class prompt."""
    seeds: Annotated[Int, Field(ge=1, le=64)] = 4
    """Pictures per prompt, each with a seed of its own; the spread over them says how sure a score is."""

    @property
    def encoders(self) -> Mapping[Role, ScoreEncoder]:
        """Role → the encoder that is named for it."""
        named: dict[Role, ScoreEncoder] = {}
        if self.clip is not None:
            named["clip"] = self.clip
        if self.dino is not None:
            named["dino"] = self.dino
        return named


class ExpectedScores(Part):
    """What the scores must reach: `dbrun run` exits with code 4 where one does not, after it has delivered."""

    @property
    def texts(self) -> Mapping[str, str]:
        """Score → the expectation as it is written, for scores that have one."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if value is not None}


def _expect_fields() -> dict[str, Any]:
    """Field name → (type, field): an expectation for every score that there is."""
    fields: dict[str, Any] = {}
    for name, score in scores().items():
        direction = "higher is better" if score.HIGHER_IS_BETTER else "lower is better"
        text = f"{score.LABEL[0].upper()}{score.LABEL[1:]}; {direction}. {score.SOURCE}."
        kind = Annotated[Text | None, OrNone]
        fields[name] = kind, Field(default=None, pattern=EXPECTATION_PATTERN, examples=[">= 0.7"], description=text)
    return fields


# built from the registry, so that a new score is one file; mypy cannot see through create_model
if TYPE_CHECKING:
    Expect = ExpectedScores
else:
    Expect = create_model("Expect", __base__=ExpectedScores, __module__=__name__, __doc__=ExpectedScores.__doc__,
                          **_expect_fields())


class Evaluate(Scoring):
    """Scores of the exported adapter: is it good? Written to `scores.json`."""

    expect: Annotated[Expect | None, OrNone] = None
    """What the scores must reach: `dbrun run` exits with code 4 where one does not, after it has delivered."""


class Select(Scoring):
    """Which candidate of the training is exported, chosen by scores of pictures that are drawn for it alone."""

    by: Annotated[SelectBy | SelectBySeveral, AfterValidator(unwrap_single)] = "subject"
    """The score that decides, or a list such as `[subject, prompt]`: then the mean of (value - worst) / (best - worst)
    over the scores decides, worst and best being those of the candidates and of the base without adapter.

    `held_out_loss` takes the candidate with the smallest held-out loss, without pictures.
    """
    keep: Literal["best", "last"] | Annotated[Int, Field(ge=1)] = "best"
    """`best`, `last`, or the step of a candidate."""
    seeds: Annotated[Int, Field(ge=1, le=64)] = 2
    """Pictures per prompt and candidate, each with a seed of its own."""

    @property
    def draws_pictures(self) -> bool:
        """Whether candidates are compared by pictures; a step that is named needs no comparison."""
        return self.keep == "best" and self.by != HELD_OUT_LOSS

    @property
    def deciding(self) -> tuple[str, ...]:
        """Names of the scores that decide, or that of the held-out loss, in the recipe's order."""
        return (self.by,) if isinstance(self.by, str) else self.by
