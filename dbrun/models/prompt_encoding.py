"""Encoding of prompts, each text encoder apart: what one encoder gives, and the condition that is joined from all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

EncoderOutput = Mapping[str, "Tensor"]
"""What one text encoder gives of one prompt: named tensors without a batch axis, such as `hidden` [L, D]."""
KnownOutputs = Mapping[str, Mapping[str, EncoderOutput]]
"""Prompt → text encoder, by its name in model_index.json → its output, so that this encoder need not run."""
NOTHING_KNOWN: KnownOutputs = MappingProxyType({})


class TextFacts(Protocol):
    """The facts of a family that the encoding of prompts needs; see `Family`."""

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """Text encoders by their names in model_index.json."""

    @property
    def components(self) -> Mapping[str, str]:
        """Adaptable component → its name in model_index.json."""

    @property
    def token_components(self) -> tuple[str, ...]:
        """Components that are new words."""


def learning_encoders(family: TextFacts, components: Iterable[str]) -> tuple[str, ...]:
    """Text encoders whose outputs change while these components are trained, by their names in model_index.json."""
    trained = set(components)
    # a new word stands in the vocabulary of every text encoder
    if trained.intersection(family.token_components):
        return family.text_encoders
    modules = {family.components[name] for name in trained if name in family.components}
    return tuple(name for name in family.text_encoders if name in modules)


def frozen_encoders(family: TextFacts, components: Iterable[str]) -> tuple[str, ...]:
    """The other text encoders: their outputs stay what they are, so each prompt is encoded once."""
    learning = learning_encoders(family, components)
    return tuple(name for name in family.text_encoders if name not in learning)


class PromptEncoding:
    """The text side of a loaded base, which `Model` inherits; a family defines `encode_with`, and joins the outputs."""

    family: TextFacts
    device: torch.device

    def encode_with(self, text_encoder: str, prompts: Sequence[str]) -> Sequence[EncoderOutput]:
        """What one text encoder gives of each prompt; differentiable, so that it serves trained text encoders, too."""
        raise NotImplementedError

    def join_outputs(self, prompt: str, outputs: Mapping[str, EncoderOutput]) -> EncoderOutput:
        """The condition of a prompt from the output of each text encoder: all tensors, where no two share a name."""
        condition: dict[str, Tensor] = {}
        for output in outputs.values():
            condition.update(output)
        return condition

    def encode_prompts(self, prompts: Sequence[str], known: KnownOutputs = NOTHING_KNOWN) -> list[EncoderOutput]:
        """Encode prompts to one condition each, differentiable.

        known: outputs, on any device, of encoders that do not run; those that are known of all prompts are not loaded.
        """
        outputs: list[dict[str, EncoderOutput]] = [{} for _ in prompts]
        for text_encoder in self.family.text_encoders:
            new: list[int] = []
            for place, prompt in enumerate(prompts):
                stored = known.get(prompt, {}).get(text_encoder)
                if stored is None:
                    new.append(place)
                else:
                    outputs[place][text_encoder] = {name: tensor.to(self.device) for name, tensor in stored.items()}
            if new:
                encoded = self.encode_with(text_encoder, [prompts[place] for place in new])
                for place, output in zip(new, encoded, strict=True):
                    outputs[place][text_encoder] = output
        return [self.join_outputs(prompt, parts) for prompt, parts in zip(prompts, outputs, strict=True)]

    def encoder_outputs(self, prompts: Iterable[str], text_encoders: Sequence[str],
                        kept: Collection[str] = ()) -> KnownOutputs:
        """What these text encoders give of prompts, each prompt alone and without gradients; on the CPU.

        Each text encoder is released before the next is loaded, so that no two are in memory for this; kept: those that
        stay, because they are needed again.
        """
        import torch

        known: dict[str, dict[str, EncoderOutput]] = {prompt: {} for prompt in prompts}
        for text_encoder in text_encoders:
            for prompt, outputs in known.items():
                # alone, never in a batch: neighbours can change its last bits
                with torch.no_grad():
                    (output,) = self.encode_with(text_encoder, [prompt])
                outputs[text_encoder] = {name: tensor.cpu() for name, tensor in output.items()}
            if text_encoder not in kept:
                self.release(text_encoder)
        return known

    def release(self, *names: str) -> None:
        """Free the weights of these components."""
        raise NotImplementedError

    def collate_conditions(self, conditions: Sequence[EncoderOutput]) -> EncoderOutput:
        """Stack conditions of single prompts to a batch: every tensor gets a first axis B.

        Rows of several lengths are padded, and a `mask` tells which of their places are real.
        """
        raise NotImplementedError
