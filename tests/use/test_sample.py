"""Is a picture that no sample wrote left alone?"""

from pathlib import Path

import pytest

from dbrun.errors import UsageError
from dbrun.use.sample import RECORD, check_output


@pytest.mark.parametrize(("names", "refused"), [
    (("grid.png",), True), (("00.png",), True), (("1-00.png", "notes.txt"), True), (("before_after.png",), False),
    (("grid.png", RECORD), False), ((), False)])
def test_pictures_of_somebody_else_are_not_overwritten(tmp_path: Path, names: tuple[str, ...], refused: bool) -> None:
    for name in names:
        (tmp_path / name).write_text("mine")
    if not refused:
        check_output(tmp_path)
        check_output(tmp_path / "new")
        return
    with pytest.raises(UsageError, match=f"holds {names[0]}"):
        check_output(tmp_path)
    with pytest.raises(UsageError, match="is not a folder"):
        check_output(tmp_path / names[0])
