"""Prompts as the user's message of a chat, for families whose text encoder is a language model, such as Qwen3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from dbrun.models.flow_matching import FlowFamily
from dbrun.models.prompt_length import PromptLimit

MAX_TOKENS = 512
"""Tokens of a prompt with its chat template: the longest that diffusers' pipelines read."""
TEMPLATE_START = 3
"""Tokens of the chat template before the prompt: `<|im_start|>`, `user` and a line break."""
PROMPT_LIMIT = PromptLimit("tokenizer", MAX_TOKENS - TEMPLATE_START, "Qwen3")
"""How much of a prompt is read: what follows it in the template is cut off first."""


class ChatFamily(FlowFamily):
    """Family of flow matching whose one text encoder is a language model: only its transformer can be adapted."""

    subfolders: ClassVar[tuple[str, ...]] = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")
    components: ClassVar[Mapping[str, str]] = {"denoiser": "transformer"}
    not_adaptable: ClassVar[Mapping[str, str]] = {
        "text_encoder": "its text encoder is a language model, for which diffusers loads no adapter",
        "trigger": "a language model reads the prompt, and no program loads a new word into that"}

    def prompt_limits(self, folder: Path) -> tuple[PromptLimit, ...]:
        """509 tokens of Qwen3, the chat template not counted."""
        return (PROMPT_LIMIT,)


class ChatTokens(NamedTuple):
    """Tokens of prompts in the chat template, each row padded to MAX_TOKENS. mask: 1 for a token, 0 for padding."""

    ids: list[list[int]]
    mask: list[list[int]]

    def positions(self, row: int) -> list[int]:
        """Places of the tokens of a row that are no padding."""
        return [place for place, real in enumerate(self.mask[row]) if real]


def tokenize_chat(tokenizer: Any, prompts: Sequence[str], *, thinking: bool) -> ChatTokens:
    """Tokens of each prompt as a user's message that a model is about to answer; the end is cut off beyond MAX_TOKENS.

    thinking: whether the template leaves it to the model to think before it answers.
    """
    # a list of its own: some pipelines write the template into the list that they are given
    texts: list[str] = []
    for prompt in prompts:
        message = {"role": "user", "content": prompt}
        texts.append(tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True,
                                                   enable_thinking=thinking))
    tokens = tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True)
    return ChatTokens(tokens["input_ids"], tokens["attention_mask"])
