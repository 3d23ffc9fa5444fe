"""Is a safetensors header read rightly without any tensor library, and a broken file refused?"""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from dbrun.errors import RecipeError
from dbrun.safetensors_header import METADATA_KEY, read_header, read_provenance


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.arange(6.0), "y": torch.ones(2, 3, dtype=torch.int8)}, path,
              metadata={METADATA_KEY: json.dumps({"format_version": 1})})
    return path


def test_the_header_is_read(file) -> None:
    found = read_header(file)
    assert set(found.tensors) == {"x", "y"} and found.tensors["x"]["shape"] == [6]
    start, end = found.tensors["x"]["data_offsets"]
    data = file.read_bytes()[found.data_start:][start:end]
    assert torch.equal(torch.frombuffer(bytearray(data), dtype=torch.float32), torch.arange(6.0))
    assert read_provenance(file) == {"format_version": 1}


@pytest.mark.parametrize("spoil", [
    lambda b: b[:-1], lambda b: b + b"\0", lambda b: b[:5], lambda b: b"", lambda b: b"\xff" * 8 + b[8:],
    lambda b: b[:8] + b"[]" + b[10:], lambda b: b"\x02" + b"\0" * 7 + b"[]",
    lambda b: b.replace(b"data_off", b"data_of_"), lambda b: b.replace(b'"__metadata__":{', b'"__metadata__":[{')])
def test_a_broken_file_is_refused(file, spoil) -> None:
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(RecipeError, match="not a complete safetensors file"):
        read_header(file)


@pytest.mark.parametrize("offsets", [[10**30, 24], [24, 23], [8, 24], [24, 40]])
def test_data_with_a_gap_or_beyond_the_file_are_refused(file, offsets) -> None:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + length])
    header["x"]["data_offsets"] = offsets
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length:])
    with pytest.raises(RecipeError, match="not a complete safetensors file"):
        read_header(file)


def test_a_file_of_others_and_a_missing_one_are_told_apart(file, tmp_path) -> None:
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(RecipeError, match="no provenance"):
        read_provenance(file)
    with pytest.raises(RecipeError, match="is not there"):
        read_provenance(tmp_path / "none.safetensors")


def test_reading_needs_no_tensor_library(file) -> None:
    code = ("import sys, pathlib; from dbrun.safetensors_header import read_provenance;"
            "read_provenance(pathlib.Path(sys.argv[1]));"
            "sys.exit(any(m in sys.modules for m in ('torch', 'safetensors', 'numpy')))")
    assert subprocess.run([sys.executable, "-c", code, str(file)]).returncode == 0


def test_a_folder_that_is_named_says_which_file_of_it_to_name(tmp_path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(RecipeError, match="is a folder\n  → name an exported"):
        read_provenance(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "b" / "lora.safetensors")
    with pytest.raises(RecipeError, match=r"is a folder\n  → name a file in it, such as .*lora.safetensors"):
        read_provenance(tmp_path)
