"""The recipe section `adapt`: one field for each component that some family can adapt, taken from the registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, create_model

from dbrun.adapters.base import Adapter, Learnable, any_adapter
from dbrun.adapters.embedding import Embedding
from dbrun.config_types import OrNone, Part
from dbrun.models.base import families

AnyAdapter: Any = any_adapter()
ALWAYS_IN_KEYS = ("denoiser", "text_encoder")
"""Components that are written into cache keys as null; they are older than the rule that leaves neutral fields out."""


def component_docs() -> Mapping[str, str]:
    """Every adaptable component with its schema text, taken from the first family that has it."""
    docs: dict[str, str] = {}
    for family in families().values():
        for name, text in family.component_docs.items():
            docs.setdefault(name, text)
    return docs


class AdaptComponents(Part):
    """What is trained: adapters of components, learned tokens, or both."""

    # a family that comes later must not change the keys of earlier recipes
    NEUTRAL: ClassVar[dict[str, object]] = {name: None for name in component_docs() if name not in ALWAYS_IN_KEYS}

    @property
    def components(self) -> Mapping[str, Learnable]:
        """Component → what is trained on it: an adapter or a learned token."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if isinstance(value, Learnable)}

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """Component → its adapter, for those that have one."""
        return {name: value for name, value in self.components.items() if isinstance(value, Adapter)}

    @property
    def new_words(self) -> Mapping[str, Embedding]:
        """Component → its learned token, for those that have one."""
        return {name: value for name, value in self.components.items() if isinstance(value, Embedding)}

    @property
    def new_word(self) -> Embedding | None:
        """The first learned token; None where there is none."""
        return next(iter(self.new_words.values()), None)


def _component_fields() -> dict[str, Any]:
    """Field name → (type, field): an adapter for a component, an embedding for a learned token."""
    token_components: set[str] = set()
    for family in families().values():
        token_components.update(family.token_components)
    fields: dict[str, Any] = {}
    for name, text in component_docs().items():
        kind = Embedding if name in token_components else AnyAdapter
        fields[name] = Annotated[kind | None, OrNone], Field(default=None, description=text)
    return fields


# built from the registry, so that a new family is one file; mypy cannot see through create_model
if TYPE_CHECKING:
    Adapt = AdaptComponents
else:
    Adapt = create_model("Adapt", __base__=AdaptComponents, __module__=__name__, __doc__=AdaptComponents.__doc__,
                         **_component_fields())
