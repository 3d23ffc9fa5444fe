"""Errors of the libraries that put an adapter onto a base, in words."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from dbrun.errors import RecipeError

FIX = "name an adapter that was trained on this base"
SIZE_MISMATCH = re.compile(r"size mismatch for ([\w.]+): copying a param with shape torch\.Size\(\[([\d, ]*)\]\) from "
                           r"checkpoint, the shape in current model is torch\.Size\(\[([\d, ]*)\]\)")
"""A line of torch's error: the weight, its shape in the file, and its shape on the base."""
MAX_REASON = 300
"""Characters of a library's message that are shown: torch names every mismatched weight, thousands of lines."""


@contextmanager
def reader_errors(form: str, component: str) -> Iterator[None]:
    """Context manager: a library's error becomes a RecipeError, and its warnings are not shown.

    form: name of the format; component: what the adapter is put onto.
    """
    before = logging.root.manager.disable
    # The libraries log the error, too, a line for each weight.
    logging.disable(max(before, logging.ERROR))
    try:
        with warnings.catch_warnings():
            # The callers' checks say more than the libraries' warnings of unexpected keys.
            warnings.simplefilter("ignore")
            yield
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, OSError) as error:
        text = " ".join(str(error).split())
        mismatch = SIZE_MISMATCH.search(text)
        reason = text[:MAX_REASON]
        if mismatch:
            name, found, wanted = mismatch.groups()
            # The name that diffusers gave the adapter.
            name = re.sub(r"\.default(_\d+)?\b", "", name)
            reason = f"`{name}` is [{found}] in it, and [{wanted}] on this base"
        raise RecipeError(f"{form} cannot put the adapter onto the {component}: {reason}", fix=FIX) from error
    finally:
        logging.disable(before)
