"""Secrets in texts: values of secret environment variables and Hub tokens, which are never shown or stored."""

from __future__ import annotations

import os
import re
from functools import lru_cache

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
    for name in filter(_names_secret, os.environ):
        value = os.environ.get(name, "")
        if len(value) >= MIN_SECRET_LENGTH and value in text:
            text = text.replace(value, REDACTED)
    return HUB_TOKEN.sub(REDACTED, text)


# a run that finds everything in the store asks 50 times for each variable
@lru_cache(maxsize=4096)
def _names_secret(name: str) -> bool:
    return SECRET_NAME.search(name) is not None
