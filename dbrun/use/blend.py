"""Blending weighted adapters into one base in memory, and restoring the base without loading it again.

Each adapter is read by its own format's library, which gives the weights with the adapter merged. The blend is the
base's weights plus the weighted sum of the changes, so adapters of all types can be combined. New words that belong to
an adapter are added, too. After `restore` the base is what it was, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dbrun.models.base import Model
from dbrun.use.adapter_files import AdapterFile
from dbrun.use.trigger_words import TriggerWords

if TYPE_CHECKING:
    from torch import Tensor


class Blend:
    """A base in memory, with the adapters and words that are applied to it."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.words = TriggerWords(model)
        self._original: dict[tuple[str, str], Tensor] = {}

    def apply(self, adapters: Sequence[AdapterFile]) -> None:
        """Restore the base, then apply these adapters. Raises RecipeError if one does not fit the base."""
        import torch

        changes = self.changed_weights(adapters)
        with torch.no_grad():
            for key, merged in changes.items():
                # A copy of the old values: subtracting the change again would leave rounding behind.
                self._original[key] = self._weight(key).clone()
                self._weight(key).copy_(merged)
        # Words are applied last and removed first: they make the text encoder's embedding table longer.
        self.words.apply(adapters)

    def changed_weights(self, adapters: Sequence[AdapterFile]) -> dict[tuple[str, str], Tensor]:
        """(component, weight name) -> the weight [out, in …] with these adapters merged.

        The base is restored before, and unchanged afterwards. Raises RecipeError if an adapter does not fit it.
        """
        self.restore()
        changes: dict[tuple[str, str], Tensor] = {}
        for adapter in adapters:
            with adapter.linked_folder(self.model.family) as (folder, components):
                for component, name, merged in adapter.form.changed_weights(folder, self.model, components):
                    key = (component, name)
                    # One adapter of weight 1 is taken as its library made it, without the rounding of a difference.
                    if len(adapters) == 1 and adapter.weight == 1:
                        changes[key] = merged
                        continue
                    original = self._weight(key).float()
                    change = adapter.weight * (merged.float() - original)
                    # In float32 throughout: the sum is rounded to the base's dtype once, in `apply`.
                    changes[key] = changes.get(key, original) + change
        return changes

    def restore(self) -> None:
        """Remove all adapters and words; the base is what it was, bit for bit."""
        import torch

        self.words.restore()
        with torch.no_grad():
            for key, original in self._original.items():
                self._weight(key).copy_(original)
        self._original = {}

    def weight_differences(self, adapters: Sequence[AdapterFile]) -> dict[tuple[str, str], Tensor]:
        """(component, weight name) -> what these adapters add to the weight, float32 [out, in …]."""
        return {key: merged.float() - self._weight(key).float()
                for key, merged in self.changed_weights(adapters).items()}

    def _weight(self, key: tuple[str, str]) -> Tensor:
        component, name = key
        return self.model.module(component).get_parameter(name).data
