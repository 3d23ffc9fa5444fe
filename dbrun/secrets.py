"""What of a text must never be shown or kept? Tokens that stand in the environment, or look like the Hub's."""

from __future__ import annotations

import os
import re

NAMED = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
OF_THE_HUB = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
SHORTEST = 8
"""Shorter values are words that stand in texts anyway."""
HIDDEN = "[hidden]"


def hidden(text: str) -> str:
    """The text without the values of environment variables that are named like secrets, and without Hub tokens."""
    for name, value in os.environ.items():
        if NAMED.search(name) and len(value) >= SHORTEST and value in text:
            text = text.replace(value, HIDDEN)
    return OF_THE_HUB.sub(HIDDEN, text)
