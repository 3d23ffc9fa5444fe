"""JUnit XML for CI: a test case for each score that a recipe expects something of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from dbrun.errors import UsageError
from dbrun.expectations import Outcome


def check_junit_path(path: Path) -> None:
    """Raise UsageError where the file could not be written, before a run of hours."""
    if path.is_dir():
        raise UsageError(f"found --junit {path}, which is a folder", fix=f"name a file: --junit {path / 'scores.xml'}")
    if not path.parent.is_dir():
        raise UsageError(f"found --junit {path}, but there is no folder {path.parent}", fix=f"mkdir -p {path.parent}")


def write_junit(path: Path, name: str, outcomes: Sequence[Outcome], seconds: float) -> None:
    """Write the outcomes of a run. name: of the run; seconds: its wall time. Raises UsageError for a failed write."""
    missed = [outcome for outcome in outcomes if not outcome.met]
    counts = {"tests": str(len(outcomes)), "failures": str(len(missed)), "errors": "0", "time": f"{seconds:.3f}"}
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": f"dbrun.{name}", **counts})
    for outcome in outcomes:
        case = ElementTree.SubElement(suite, "testcase", {
            "classname": f"dbrun.{name}", "name": f"{outcome.name} {outcome.text}", "time": "0"})
        if not outcome.met:
            failure = ElementTree.SubElement(case, "failure", {"type": "below-expectation",
                                                               "message": outcome.message})
            failure.text = outcome.message
    ElementTree.indent(suites)
    try:
        path.write_bytes(ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True) + b"\n")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", fix="name another file: --junit FILE") from None
