"""A tiny base with all that the stage `train` needs, so that it can run without the stages before it."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from train_settings import changed, train_settings

from dbrun.adapters.adapter_io import ComponentAdapter, write_adapters
from dbrun.adapters.attach import attach, match_layers, read_weights
from dbrun.adapters.lora import Lora
from dbrun.models.base import Model, families
from dbrun.options.optimizers import AdamW
from dbrun.options.schedules import Constant
from dbrun.stages.base import RuntimeOptions, StageContext
from dbrun.stages.sources import Artifact, Numerics
from dbrun.stages.train import Train, TrainParams

FAMILY = families()["sd"]
PROMPTS = ("a photo of a dog", "a photo of sks dog")
PARAMS = train_settings(steps=6, learning_rate=5e-3, batch_size=2, accumulation=1, max_grad_norm=1.0, optimizer=AdamW(),
                     schedule=Constant(), precision="fp32", prior_weight=1.0, seed=0)


def load(home: Path) -> Model:
    """The base in home."""
    return FAMILY.load(home / "base", device=torch.device("cpu"), dtype=torch.float32)


def digests(model: Model) -> dict[str, str]:
    """What each weight of the base is, by the part it is of and its name."""
    parts = {name: part for name, part in model.pipeline.components.items() if isinstance(part, torch.nn.Module)}
    return {f"{name}.{key}": hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
            for name, part in parts.items() for key, tensor in part.state_dict().items()}


def lora(component: str, model: Model, **changes: Any) -> ComponentAdapter:
    """A LoRA that stands attached to a component of loaded."""
    module = model.module(component)
    adapter = Lora.model_validate({"type": "lora", "rank": 2, "targets": "all", **changes})
    modules = match_layers(module, FAMILY.target_presets[component]["all"])
    attach(module, adapter, modules, seed=1)
    return ComponentAdapter(adapter, modules, read_weights(module))


def write_inputs(home: Path, *, components: tuple[str, ...] = ("denoiser",), **changes: Any) -> None:
    """Write base, load, adapt and preprocess below home: three instance and four class pictures of noise."""
    for name in ("load", "adapt", "preprocess"):
        (home / name).mkdir(parents=True)
    FAMILY.write_tiny_base(home / "base")
    record = {"format_version": 1, "family": FAMILY.NAME, "variant": None, "files": {}}
    (home / "load" / "base.json").write_text(json.dumps(record))
    model = load(home)
    conditions = model.encode_prompts(PROMPTS)
    write_adapters(home / "adapt", {c: lora(c, model, **changes) for c in components})
    generator = torch.Generator().manual_seed(0)
    save_file({f"{half}.{i:05d}": torch.randn(8, 8, 8, generator=generator)
               for half, count in (("instance", 3), ("class", 4)) for i in range(count)},
              home / "preprocess" / "latents.safetensors")
    if components == ("denoiser",):
        save_file({f"{i:05d}.{name}": tensor.detach().contiguous() for i, condition in enumerate(conditions)
                   for name, tensor in condition.items()}, home / "preprocess" / "prompts.safetensors")
    index = {"prompts": PROMPTS, "instance": [1] * 3, "class": [0] * 4}
    (home / "preprocess" / "index.json").write_text(json.dumps(index))


def keep_latents(folder: Path, half: str) -> None:
    """Take away the latents of the other half, as if `preprocess` had made only these."""
    tensors = load_file(folder / "latents.safetensors")
    kept = {name: tensor.clone() for name, tensor in tensors.items() if name.startswith(f"{half}.")}
    save_file(kept, folder / "latents.safetensors")


def _without_class_pictures(home: Path) -> Path:
    """The preprocess of home as it is where the base is the target: the class half has no latents of its own."""
    folder = home / "preprocess_of_base"
    shutil.copytree(home / "preprocess", folder, dirs_exist_ok=True)
    keep_latents(folder, "instance")
    return folder


def job(home: Path, out: Path, work: Path, **changes: Any) -> StageContext[TrainParams]:
    """A job of `train` over what `write_inputs` wrote; changes: fields of the params, or of the job."""
    own = {name: changes.pop(name) for name in list(changes) if name in StageContext.__dataclass_fields__}
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    params = changed(PARAMS, **changes)
    inputs = {name: Artifact(home / name, "") for name in Train.needs}
    if params.prior_target == "base":
        inputs["preprocess"] = Artifact(_without_class_pictures(home), "")
    plain = StageContext(stage="train", params=params, numerics=Numerics("cpu", 1),
                         inputs=inputs, out=out, work=work, files={},
                         base=home / "base", items=None, runtime=RuntimeOptions(2, 2), emit=lambda event: None,
                         stop_signal=lambda: 0)
    return replace(plain, **own)


def run(home: Path, out: Path, work: Path, steps: int) -> None:
    """Train in this process, as a test's own process does."""
    Train().run(job(home, out, work, steps=steps))


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder and of those in it, by relative path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
