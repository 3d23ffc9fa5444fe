"""Secrets in texts: values of secret environment variables and Hub tokens, which are never shown or stored."""

from __future__ import annotations

import os
import re

SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
MIN_SECRET_LENGTH = 8
"""Shortest value that is hidden, in characters; shorter ones, such as "none", also occur in harmless texts."""
REDACTED = "[hidden]"


def redact_secrets(text: str) -> str:
    """The text with secret values replaced: those of environment variables named like secrets, and Hub tokens."""
    # called for every line of a log, and most are short
    if len(text) < MIN_SECRET_LENGTH:
        return text
    for name, value in os.environ.items():
        if SECRET_NAME.search(name) and len(value) >= MIN_SECRET_LENGTH and value in text:
            text = text.replace(value, REDACTED)
    return HUB_TOKEN.sub(REDACTED, text)
