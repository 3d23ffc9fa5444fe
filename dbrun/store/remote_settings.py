"""The settings of the remote store: `$DBRUN_REMOTE`, its URL, and `$DBRUN_REMOTE_MODE`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import cast, get_args

from dbrun.errors import UsageError
from dbrun.store.remote import Mode, RemoteStore
from dbrun.store.store import URL_VARIABLE

# Not a key of recipes: a recipe is shared with strangers, and whoever names the remote store decides whose results are
# taken and who gets those of this machine. So it is set where the local store is, and stands in no record of a result.
MODE_VARIABLE = "DBRUN_REMOTE_MODE"
PATTERN = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]*)://(?P<place>.+)", re.IGNORECASE)
HAS_PASSWORD = re.compile(r"[^/]*:[^/]*@")
EXAMPLES = "s3://bucket/prefix, or file:///mnt/shared/dbrun for a folder that all machines see"
OWN_EXTRA = {"s3": "remote", "s3a": "remote"}
"""Protocol → the extra of dbrun that installs its client."""


def configured_remote(environ: Mapping[str, str]) -> RemoteStore | None:
    """The remote store that the environment names, None if it names none or switches it off.

    Nothing is asked of the server. Raises UsageError for a wrong URL or mode, and where the client is not installed.
    """
    url = environ.get(URL_VARIABLE, "").strip()
    mode = environ.get(MODE_VARIABLE, "").strip() or "rw"
    if mode not in get_args(Mode):
        near = difflib.get_close_matches(mode, get_args(Mode), 1, 0.0)[0]
        raise UsageError(f"found {MODE_VARIABLE}={mode}, allowed: {', '.join(get_args(Mode))}",
                         fix=f"write {MODE_VARIABLE}={near}")
    if not url or url == "off" or mode == "off":
        return None
    match = PATTERN.fullmatch(url)
    if match is None:
        fix = f"write file://{url}" if url.startswith("/") else None
        raise UsageError(f"found {URL_VARIABLE}={url}, allowed: a URL such as {EXAMPLES}", fix=fix)
    if HAS_PASSWORD.match(match["place"]):
        # the URL itself is not repeated: messages go into logs
        raise UsageError(f"found a password in {URL_VARIABLE}, where others can read it",
                         fix="leave it out, and give it as the client reads it: AWS_ACCESS_KEY_ID and "
                             "AWS_SECRET_ACCESS_KEY, or a profile")
    if match["protocol"] == "file" and not match["place"].startswith("/"):
        raise UsageError(f"found {URL_VARIABLE}={url}, allowed: an absolute path",
                         fix=f"write file:///{match['place']}")
    _check_client(match["protocol"])
    return RemoteStore(url.rstrip("/"), cast("Mode", mode))


def _check_client(protocol: str) -> None:
    """Raise UsageError where no client for this protocol can be imported."""
    # imported here: most runs have no remote store
    from fsspec import available_protocols, get_filesystem_class

    try:
        get_filesystem_class(protocol)
    except ValueError:
        near = difflib.get_close_matches(protocol, available_protocols(), 1)
        fix = f"did you mean {near[0]}://?" if near else None
        raise UsageError(f"found {protocol}:// in {URL_VARIABLE}, which no client speaks, allowed: {EXAMPLES}",
                         fix=fix) from None
    except ImportError as error:
        fix = f"pip install 'dbrun[{OWN_EXTRA[protocol]}]'" if protocol in OWN_EXTRA else str(error)
        raise UsageError(f"the client for {protocol}:// in {URL_VARIABLE} is not installed", fix=fix) from None
