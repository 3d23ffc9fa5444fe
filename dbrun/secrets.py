"""What of a text must never be shown or kept? Tokens that stand in the environment, or look like the Hub's."""

from __future__ import annotations

import os
import re

SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
MIN_SECRET_LENGTH = 8
"""Shorter values are words that stand in texts anyway."""
REDACTED = "[hidden]"


def redact_secrets(text: str) -> str:
    """The text without the values of environment variables that are named like secrets, and without Hub tokens."""
    if len(text) < MIN_SECRET_LENGTH:
        return text
    for name, value in os.environ.items():
        if SECRET_NAME.search(name) and len(value) >= MIN_SECRET_LENGTH and value in text:
            text = text.replace(value, REDACTED)
    return HUB_TOKEN.sub(REDACTED, text)
