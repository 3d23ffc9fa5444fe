"""Machines on this one that share no network but the way to a server, for slow tests; Linux, iproute2 and root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

ADDRESS = "10.213.77.1"
"""Address of the host, at which the namespaces reach its servers."""
NAMES = ("one", "two")
"""Names of the machines, in the order of what `two_namespaces` yields."""


@contextmanager
def two_namespaces() -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """Context manager: two namespaces with a bridge to the host; yields the words before a command of each.

    The command keeps its process id, and sees a host name of its own. The two cannot reach each other. Raises OSError
    or CalledProcessError where this machine makes none.
    """
    for program in ("ip", "unshare"):
        if shutil.which(program) is None:
            raise FileNotFoundError(program)
    bridge = f"dbt{os.getpid()}"
    spaces = [f"{bridge}-{name}" for name in NAMES]
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("address", "add", f"{ADDRESS}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for number, space in enumerate(spaces):
            _ip("netns", "add", space)
            # the name of a device has at most 15 letters
            outside = f"{bridge}{number}"
            _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", outside, "master", bridge, "up")
            # isolated: its frames reach the host only
            _ip("link", "set", outside, "type", "bridge_slave", "isolated", "on")
            _ip("-netns", space, "address", "add", f"10.213.77.{number + 2}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-netns", space, "link", "set", device, "up")
        first, second = (_before_command(space, name) for space, name in zip(spaces, NAMES, strict=True))
        yield first, second
    finally:
        for words in (("netns", "delete", spaces[0]), ("netns", "delete", spaces[1]), ("link", "delete", bridge)):
            subprocess.run(("ip", *words), capture_output=True)


def _before_command(space: str, name: str) -> Sequence[str]:
    # each of these replaces itself by the next, so that signals reach the command
    return ("ip", "netns", "exec", space, "unshare", "--uts", "sh", "-c", f'hostname {name}; exec "$@"', "sh")


def _ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True, capture_output=True)
