"""Runs on record as a run leaves them, written without running anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from dbrun.images.grid import draw_grid, save_png
from dbrun.images.samples import SampleSettings, write_samples
from dbrun.images.thumbnails import thumbnail_url
from dbrun.store.runs import EVENTS_FILE, RECIPE_FILE, Run, mark_live, read_run
from dbrun.store.store import Store

PROMPTS = ("a photo of sks dog", "a photo of a dog")
STAGES = ("load", "adapt", "generate-priors", "preprocess", "train", "export")


def plain(number: int, side: int = 64) -> Image.Image:
    """A picture of one colour, another one for each number."""
    return Image.new("RGB", (side, side), (number * 40 % 256, number * 90 % 256, 200))


def record_run(store: Store, name: str = "dog", *, number: int = 0, steps: int = 20, every: int = 5,
               prompts: Sequence[str] = PROMPTS, end: Mapping[str, object] | None = None, exported: bool = True,
               caption: str = "a photo of sks dog", file: str = "0.png", rate: float = 1e-3,
               losses: Mapping[int, float] = {}) -> Run:
    """A run with a loss for each step and previews. end: its last event; None for one that is finished.

    exported: whether its pictures and class images are in the store; losses: step → another loss.
    """
    folder = store.runs / f"20261130-06570{number}.000000-{name}"
    (folder / "samples").mkdir(parents=True)
    recipe: dict[str, Any] = {"name": name, "base": {"path": "embedded"}, "train": {"learning_rate": rate},
                              "subject": {"instance_prompt": caption, "class_prompt": "a photo of a dog"},
                              "adapt": {"denoiser": {"type": "lora", "rank": 4}}}
    (folder / RECIPE_FILE).write_text(json.dumps(recipe))
    picture = {"half": "instance", "name": file, "prompt": caption, "width": 64, "height": 48, "lost": 0.25, "ways": 1,
               "mask": False, "odd": ["blurred"], "url": thumbnail_url(plain(1))}
    facts = {"format_version": 1, "recipe": recipe, "device": "cpu", "prompts": list(prompts),
             "written": {"files": [{"name": "dog.yaml", "text": f"name: {name}\n"}], "profiles": [], "overrides": []},
             "stages": [{"name": stage, "status": "run", "reason": "no earlier result", "expected": 2.0,
                         "counted": 2**20} for stage in STAGES],
             "picture_counts": {"instance": 1, "class": 0}, "pictures": [picture]}
    (folder / "report.json").write_text(json.dumps(facts))
    rows = [{"step": step, "loss": 0.5, "instance_loss": losses.get(step, 0.4 + step % 7 / 50), "prior_loss": 0.2}
            for step in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in range(every, steps + 1, every):
        sheet = draw_grid(((f"step {step}", [plain(step + i) for i in range(len(prompts))]),), prompts)
        save_png(sheet, folder / "samples" / f"step-{step:08d}.png")
    _write_events(folder, steps, end)
    roots = mark_live(store, folder)
    (folder / "live").unlink()
    if exported:
        roots.keys.update(_publish(store, number))
        store.write_checksummed(f"runs/{folder.name}/wants.json",
                                {"keys": roots.keys, "work": {}, "recipe": roots.recipe})
    return read_run(folder)


def _write_events(folder: Path, steps: int, end: Mapping[str, object] | None) -> None:
    events: list[Mapping[str, object]] = [{"event": "run_started", "stages": list(STAGES)}]
    events.append({"event": "stage_started", "stage": "train", "reason": "no earlier result"})
    events += [{"event": "progress", "stage": "train", "done": step, "total": steps, "unit": "steps", "metrics": {}}
               for step in range(1, steps + 1)]
    events.append(end or {"event": "run_finished", "seconds": 12.5})
    lines = [json.dumps({"time": 1796021852.5, **event}) + "\n" for event in events]
    (folder / EVENTS_FILE).write_text("".join(lines))


def _publish(store: Store, number: int) -> dict[str, str]:
    """Publish an export and class images; stage → key."""
    keys = {}
    for stage in ("export", "generate-priors"):
        key = f"{number + 1:x}{'ab'[stage == 'export']}".rjust(64, "0")
        folder = store.make_temp_folder()
        params: dict[str, object] = {"prompt": ["a photo of a dog"], "count": 2}
        if stage == "export":
            drawn = SampleSettings(PROMPTS, 0, 4, 2.5)
            write_samples(folder, drawn, {"base": [plain(1), plain(2)], "adapted": [plain(number + 3), plain(4)]})
            (folder / "README.md").write_text("# dog\n\n## How to use it\n\nLoad `a.safetensors`:\n\n```python\n"
                                              "import torch\n```\n\n## Provenance\n\nnothing\n")
            (folder / "pytorch_lora_weights.safetensors").write_bytes(b"0" * 2000)
            # its name is wider than a phone
            component = folder / "peft" / "denoiser"
            component.mkdir(parents=True)
            (component / "adapter_model.safetensors").write_bytes(b"0" * 2000)
        else:
            for i in range(2):
                plain(i).save(folder / f"{i:05d}.png")
        store.publish(stage, key, {"stage": stage, "params": params}, folder, seconds=1.0, durable=False)
        keys[stage] = key
    return keys
