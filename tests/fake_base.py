"""A base in diffusers format as far as anything without torch can tell, and a Hub cache that holds one."""

from __future__ import annotations

import json
from pathlib import Path

WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


def fake_base(folder: Path, *, variant: str = "", suffix: str = ".safetensors") -> Path:
    for name, stem in WEIGHTS.items():
        (folder / name).mkdir(parents=True)
        config = {"block_out_channels": [1, 2, 3], "max_position_embeddings": 10, "sample_size": 16}
        (folder / name / "config.json").write_text(json.dumps(config))
        (folder / name / f"{stem}{variant and '.' + variant}{suffix}").write_text(f"weights of {name}")
    for name, file in (("tokenizer", "tokenizer_config.json"), ("scheduler", "scheduler_config.json")):
        (folder / name).mkdir()
        (folder / name / file).write_text(json.dumps({"model_max_length": 10, "_class_name": "DDIMScheduler"}))
    (folder / "tokenizer" / "merges.txt").write_text("a b")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return folder


def fake_cache(hub: Path, commit: str, refs: dict[str, str] | None = None) -> Path:
    """A snapshot `owner/name` at a commit whose files are links to blobs, as the Hub's library lays it out."""
    home = hub / "models--owner--name"
    real = fake_base(home / "made")
    snapshot = home / "snapshots" / commit
    (home / "blobs").mkdir()
    for number, path in enumerate(sorted(p for p in real.rglob("*") if p.is_file())):
        link = snapshot / path.relative_to(real)
        link.parent.mkdir(parents=True, exist_ok=True)
        path.rename(home / "blobs" / str(number))
        link.symlink_to(home / "blobs" / str(number))
    for name, target in (refs or {}).items():
        place = home / "refs" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(target)
    return snapshot
