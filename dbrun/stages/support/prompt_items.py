"""Items of encoded prompts: the whole condition of one prompt, or what one text encoder gives of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dbrun.models.base import Model
from dbrun.models.prompt_length import find_truncated, load_any_tokenizer, may_be_truncated
from dbrun.options.precision import Precision
from dbrun.stages.base import StageContext
from dbrun.stages.load import read_base_record

if TYPE_CHECKING:
    from torch import Tensor


class PromptItem(NamedTuple):
    """An encoded prompt. number: of the prompt in the index; text_encoder: None for what is joined from all."""

    number: int
    prompt: str
    text_encoder: str | None

    @property
    def name(self) -> str:
        """First part of its tensors' names in the artifact."""
        number = f"{self.number:05d}"
        return number if self.text_encoder is None else f"{number}.{self.text_encoder}"


def prompt_items(prompts: Sequence[str], *, text: bool, frozen_encoders: Sequence[str]) -> list[PromptItem]:
    """The items of all prompts. text: whether conditions are stored; frozen_encoders: those whose outputs are."""
    names: Sequence[str | None] = [None] if text else frozen_encoders
    items: list[PromptItem] = []
    for text_encoder in names:
        items += [PromptItem(number, prompt, text_encoder) for number, prompt in enumerate(prompts)]
    return items


def encode_prompt(ctx: StageContext[Any], item: PromptItem, base: Callable[[], Model], *, precision: Precision,
                  deterministic: bool) -> Mapping[str, Tensor]:
    """The stored tensors of an item by name, without a batch axis, such as `hidden` [tokens, width].

    base: loads the base at the first call, in precision; deterministic: whether it computes so.
    """
    from safetensors.torch import load_file, save_file

    def make(folder: Path) -> None:
        import torch

        model = base()
        # alone, never in a batch: neighbours can change its last bits
        with torch.inference_mode():
            if item.text_encoder is None:
                encoded = model.encode_prompts([item.prompt])[0]
            else:
                encoded = model.encode_with(item.text_encoder, [item.prompt])[0]
        on_cpu = {name: tensor.cpu().contiguous() for name, tensor in encoded.items()}
        save_file(on_cpu, folder / "condition.safetensors")

    key: dict[str, object] = {"base": ctx.inputs["load"].digest, "prompt": item.prompt}
    if precision != "fp32":
        key["precision"] = precision
    if deterministic:
        key["deterministic"] = True
    if item.text_encoder is not None:
        key["text_encoder"] = item.text_encoder
    return load_file(ctx.items.get(key, make) / "condition.safetensors")


def warn_truncated(ctx: StageContext[Any], prompts: Sequence[str]) -> None:
    """Warn of each prompt that is longer than the base reads, with the part that is not read."""
    assert ctx.base is not None
    record = read_base_record(ctx.inputs["load"])
    normalized = [record.family.normalize_prompt(prompt) for prompt in prompts]
    for limit in record.prompt_limits(ctx.base):
        # a cheap upper bound first, so that a tokenizer is loaded only where a prompt may be too long
        long = [prompt for prompt in normalized if may_be_truncated(prompt, limit.tokens)]
        if not long:
            continue
        tokenizer = load_any_tokenizer(ctx.base, limit.tokenizer)
        for cut in find_truncated(tokenizer, long, limit.tokens):
            ctx.note(cut.message(limit), level="info" if limit.rest_is_read else "warning")
