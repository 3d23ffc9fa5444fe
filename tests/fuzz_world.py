"""A folder with a recipe, pictures, captions, a base and an adapter, of which one file at a time is mutated."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mutations import mutate, mutate_json
from PIL import Image

from dbrun.embedded import weights_path

RECIPE = """\
schema: dbrun/v1
name: q
base: {type: sd, path: base}
subject: {images: p, instance_prompt: a photo of sks dog, captions: {type: sidecar}}
images: {resolution: 64}
objective: {weighting: {type: min_snr, gamma: 5}}
adapt: {denoiser: {type: lora, rank: 2, targets: attention}}
profiles:
  long: {train: {steps: 9}}
train: {steps: 2, learning_rate: 1.0e-3, batch_size: 1, schedule: {type: constant, warmup_steps: 1}}
samples: {prompts: [a photo of sks dog, "on ${images.resolution} grass"], steps: 2}
export: [diffusers]
"""
CSV = b'file_name,text\nd0.png,"a photo of sks dog, on grass"\nd1.png,b\n'
JSONL = b'{"file_name": "d0.png", "text": "a dog"}\n{"file_name": "d1.png", "text": ["b", "c"]}\n'
PROVENANCE = {
    "format_version": 1, "instance_prompt": "a photo of sks dog", "inputs": {"train": "ab" * 32},
    "numerics": {"device": "cpu", "threads": 1}, "libraries": {"torch": "2.9"},
    "recipe": {"schema": "dbrun/v1", "base": {"type": "sd", "identity": "files:" + "0" * 64, "variant": None},
               "subject": {"instance_prompt": "a photo of sks dog", "class_prompt": "a photo of a dog",
                           "pictures": [{"digest": "cd" * 32, "prompt": "a photo of sks dog"}]},
               "prior": {"weight": 1.0, "count": 4, "pictures": [{"digest": "ef" * 32, "prompt": "a"}]},
               "images": {"resolution": 64}, "seed": 0,
               "adapt": {"denoiser": {"type": "lora", "rank": 2, "targets": "attention"}, "text_encoder": None},
               "train": {"steps": 2, "learning_rate": 0.001, "batch_size": 1}}}
CONFIGS = ("model_index.json", "manifest.json", "unet/config.json", "vae/config.json", "text_encoder/config.json",
           "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json", "tokenizer/tokenizer.json")


def adapter_header(document: bytes) -> bytes:
    """A header with two layers of a LoRA, and provenance in its metadata."""
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_"
    header = {"__metadata__": {"format": "pt", "dbrun": document.decode(errors="replace")},
              f"{layer}A.weight": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
              f"{layer}B.weight": {"dtype": "F32", "shape": [4, 2], "data_offsets": [32, 64]}}
    return json.dumps(header).encode()


def write_safetensors(path: Path, header: bytes) -> None:
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 64)


@dataclass
class World:
    """The folder. `put` writes a mutant of one file format in place of the good file; `restore` puts the good one back.
    """

    folder: Path
    changed_config: str | None = None

    @classmethod
    def make(cls, folder: Path) -> World:
        """A good world."""
        world = cls(folder)
        shutil.copytree(weights_path(), folder / "base")
        (folder / "p").mkdir()
        chance = random.Random(0)
        for number in range(2):
            picture = Image.new("RGB", (80, 72), (200, 30 * number, 90))
            for _ in range(300):
                picture.putpixel((chance.randrange(80), chance.randrange(72)), (chance.randrange(256), 9, 99))
            picture.save(folder / f"p/d{number}.png")
        world.restore()
        return world

    def restore(self) -> None:
        """Write every good file that a mutant may have replaced."""
        (self.folder / "r.yaml").write_text(RECIPE)
        for name in ("metadata.csv", "metadata.jsonl", "d0.txt"):
            (self.folder / "p" / name).unlink(missing_ok=True)
        self.restore_config()
        write_safetensors(self.folder / "a.safetensors", adapter_header(json.dumps(PROVENANCE).encode()))

    def restore_config(self) -> None:
        """Write the good config that a mutant replaced, if one did."""
        if self.changed_config is not None:
            shutil.copyfile(weights_path() / self.changed_config, self.folder / "base" / self.changed_config)

    def put(self, kind: str, chance: random.Random) -> None:
        """Write a mutant of a file format of MUTANTS."""
        MUTANTS[kind](self, chance)


def _put_csv(world: World, chance: random.Random) -> None:
    _use_metadata(world)
    (world.folder / "p/metadata.csv").write_bytes(mutate(CSV, chance))


def _put_jsonl(world: World, chance: random.Random) -> None:
    _use_metadata(world)
    lines = JSONL.splitlines()
    changed = chance.randrange(len(lines))
    lines[changed] = mutate_json(lines[changed], chance)
    (world.folder / "p/metadata.jsonl").write_bytes(b"\n".join(lines))


def _use_metadata(world: World) -> None:
    (world.folder / "r.yaml").write_text(RECIPE.replace("type: sidecar", "type: metadata"))


def _put_caption(world: World, chance: random.Random) -> None:
    (world.folder / "p/d0.txt").write_bytes(mutate("a photo of sks dog, on größe".encode(), chance))


def _put_config(world: World, chance: random.Random) -> None:
    world.restore_config()
    name = world.changed_config = chance.choice(CONFIGS)
    (world.folder / "base" / name).write_bytes(mutate_json((weights_path() / name).read_bytes(), chance))


def _put_header(world: World, chance: random.Random) -> None:
    document = json.dumps(PROVENANCE).encode()
    if chance.random() < 0.6:
        write_safetensors(world.folder / "a.safetensors", adapter_header(mutate_json(document, chance)))
    else:
        write_safetensors(world.folder / "a.safetensors", mutate_json(adapter_header(document), chance))


def _put_yaml(world: World, chance: random.Random) -> None:
    (world.folder / "r.yaml").write_bytes(mutate(RECIPE.encode(), chance))


MUTANTS: dict[str, Callable[[World, random.Random], None]] = {
    "csv": _put_csv, "jsonl": _put_jsonl, "caption": _put_caption, "config": _put_config, "header": _put_header,
    "yaml": _put_yaml}
"""File format → the function that writes a mutant of it."""
