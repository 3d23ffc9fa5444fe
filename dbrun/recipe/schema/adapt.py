"""What a recipe may say of what learns: a field for each component that a family can adapt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, create_model

from dbrun.adapters.base import Adapter, Learnable, any_adapter
from dbrun.adapters.embedding import Embedding
from dbrun.config_types import OrNone, Part
from dbrun.models.base import component_docs, families

AnyAdapter: Any = any_adapter()
ALWAYS_IN_KEYS = ("denoiser", "text_encoder")
"""The components that stood in cache keys as null before fields were left out of them."""


class AdaptComponents(Part):
    """What learns: adapters of components, a new word, or both."""

    # a family that comes later must not change the keys of earlier recipes
    NEUTRAL: ClassVar[dict[str, object]] = {name: None for name in component_docs() if name not in ALWAYS_IN_KEYS}

    @property
    def components(self) -> Mapping[str, Learnable]:
        """All that is to learn, by component."""
        asked = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: one for name, one in asked.items() if isinstance(one, Learnable)}

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """What of it stands on layers of the base, by component."""
        return {name: one for name, one in self.components.items() if isinstance(one, Adapter)}

    @property
    def new_words(self) -> Mapping[str, Embedding]:
        """The words that are taught, by component."""
        return {name: one for name, one in self.components.items() if isinstance(one, Embedding)}

    @property
    def new_word(self) -> Embedding | None:
        """The first of the words that are taught; None where none is."""
        return next(iter(self.new_words.values()), None)

    @property
    def trains_text_encoders(self) -> bool:
        """Whether anything learns that prompts go through on their way to the denoiser."""
        return self.components.keys() != {"denoiser"}


def _component_fields() -> dict[str, Any]:
    """Field name -> (type, default and explanation): an adapter for a component, an embedding for a new word."""
    words = {name for family in families().values() for name in family.token_components}
    fields: dict[str, Any] = {}
    for name, text in component_docs().items():
        kind = Embedding if name in words else AnyAdapter
        fields[name] = Annotated[kind | None, OrNone], Field(default=None, description=text)
    return fields


if TYPE_CHECKING:
    Adapt = AdaptComponents
else:
    Adapt = create_model("Adapt", __base__=AdaptComponents, __module__=__name__, __doc__=AdaptComponents.__doc__,
                         **_component_fields())
