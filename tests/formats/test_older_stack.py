"""Do programs that are pinned to transformers 4 read every format? With $DBRUN_OLD_STACK, a Python that has the stack.

diffusers 0.35.2, transformers 4.57.1 and peft 0.17.1 (with huggingface-hub 0.36.0 and tokenizers 0.22.1) in a virtual
environment of their own; the small checks here run always.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from adapter_kinds import make, moved, put
from safetensors.torch import load_file

from dbrun.formats.base import formats
from dbrun.formats.older_transformers import write_older_names, write_older_tokenizer
from dbrun.models.base import families
from dbrun.safetensors_header import read_header

SD = families()["sd"]
READER = Path(__file__).with_name("read_by_older_stack.py")
NAMES = ("diffusers", "kohya", "peft", "component", "merged", "single_file")


def write_base(folder: Path) -> None:
    """A tiny base that both stacks read."""
    SD.write_tiny_base(folder)
    write_older_names(folder / "text_encoder", SD, "text_encoder")
    write_older_tokenizer(folder / "tokenizer")


def write_all(base: Path, out: Path, names: tuple[str, ...], kind: str = "lora") -> None:
    def fresh():
        return SD.load(base, device=torch.device("cpu"), dtype=torch.float32)

    out.mkdir()
    adapters = {name: moved(put(fresh(), name, make(kind), "attention"), by=0.1) for name in SD.components}
    for name in names:
        formats()[name].write(out, SD, adapters, fresh)


def test_text_encoders_have_the_names_of_transformers_4_and_the_same_bytes(tmp_path) -> None:
    from transformers import CLIPTextModel

    write_base(tmp_path / "base")
    write_all(tmp_path / "base", tmp_path / "out", ("component", "merged"))
    for folder in ("component", "merged"):
        path = tmp_path / "out" / folder / "text_encoder" / "model.safetensors"
        assert all(name.startswith("text_model.") for name in read_header(path).tensors)
        loaded = CLIPTextModel.from_pretrained(path.parent)
        stored = load_file(path)
        for name, weight in loaded.state_dict().items():
            assert torch.equal(weight, stored[f"text_model.{name}"])
    tokenizer = tmp_path / "out" / "merged" / "tokenizer"
    assert len(json.loads((tokenizer / "vocab.json").read_text())) > 500
    assert (tokenizer / "merges.txt").read_text().startswith("#version")


@pytest.mark.slow
@pytest.mark.skipif("DBRUN_OLD_STACK" not in os.environ, reason="$DBRUN_OLD_STACK names no Python with the older stack")
@pytest.mark.parametrize("kind", ["lora", "loha", "lokr", "oft"])
def test_the_older_stack_reads_every_format(tmp_path, kind) -> None:
    write_base(tmp_path / "base")
    names = tuple(name for name in NAMES
                  if formats()[name].unsupported_reason(SD, "denoiser", make(kind)) is None)
    write_all(tmp_path / "base", tmp_path / "out", names, kind)
    words = [os.environ["DBRUN_OLD_STACK"], str(READER), str(tmp_path / "out"), str(tmp_path / "base"),
             "kohya.safetensors"]
    # No path of this stack: the other one has its own.
    known = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    told = subprocess.run(words, capture_output=True, text=True, check=True, env=known).stdout
    found = json.loads(told.splitlines()[-1])
    assert found["versions"][1].startswith("4.") and found["effect"] > 1e-3
    # diffusers reads kohya's names of LoRAs alone.
    readable = [name for name in names if name != "merged" and (name != "kohya" or kind == "lora")]
    assert {name: found[name] for name in readable if not isinstance(found[name], float) or found[name] > 1e-3} == {}
