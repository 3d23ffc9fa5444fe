"""Write anew all that is generated from the code: `python tests/house/regenerate.py`.

The recipe's JSON schema and the page of its keys, the record of each stage's code and the table of cache keys; a test
holds each of them. It refuses where a key of an earlier result would change although the stage's VERSION is the same:
that result would no longer be found. With `--words` it also writes the golden texts (see tests/golden.py): it runs the
tests that compare them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(1, str(TESTS))

import keys_page  # noqa: E402
import test_stage_code  # noqa: E402
import test_stage_keys  # noqa: E402

from dbrun.recipe.checks.json_schema import schema_text  # noqa: E402
from dbrun.stages.base import stages  # noqa: E402

SCHEMA = TESTS.parent / "schemas" / "recipe.schema.json"
KEYS_PAGE = SCHEMA.with_name("README.md")


def changed_keys(old: test_stage_keys.Table, new: test_stage_keys.Table, versions: dict[str, int]) -> list[str]:
    """`recipe: stage` for each key that changed without a new version. versions: as they were recorded."""
    found = []
    for recipe, by_stage in old.items():
        for stage, entry in by_stage.items():
            now = new.get(recipe, {}).get(stage)
            same_version = stage in stages() and versions.get(stage) == stages()[stage].VERSION
            if same_version and now is not None and now != entry:
                found.append(f"{recipe}: {stage}")
    return found


def rewrite_words() -> int:
    """Delete the golden texts and write them again; return the exit code of pytest."""
    import pytest

    test_files = []
    for path in sorted(TESTS.rglob("golden/*.txt")):
        test_files.append(str(path.parents[1] / f"{path.stem}.py"))
        path.unlink()
    return pytest.main(["-n", "0", "--rewrite-golden", *test_files])


def main() -> int:
    recorded = json.loads(test_stage_code.RECORD.read_text(encoding="utf-8"))
    versions = {name: entry["version"] for name, entry in recorded.items()}
    old = json.loads(test_stage_keys.RECORD.read_text(encoding="utf-8"))
    table = test_stage_keys.current()
    if lost := changed_keys(old, table, versions):
        sys.stderr.write("keys changed, so that earlier results are no longer found; let new params be left out of the "
                         f"key where they are neutral, or raise the stage's VERSION:\n  {'; '.join(lost)}\n")
        return 1
    code = test_stage_code.current()
    contents = {SCHEMA: schema_text(), KEYS_PAGE: keys_page.keys_page(),
                test_stage_code.RECORD: json.dumps(code, indent=1) + "\n",
                test_stage_keys.RECORD: json.dumps(table, indent=1) + "\n"}
    if same_version := test_stage_code.unversioned(recorded, code):
        sys.stdout.write(f"changed without a new VERSION: {', '.join(same_version)}; stored results stay in use\n")
    for path, text in contents.items():
        same = path.is_file() and path.read_text(encoding="utf-8") == text
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{'as it was' if same else 'rewritten'}: {path.name}\n")
    return rewrite_words() if "--words" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
