"""Does LoKr on the denoiser with LoRA on the text encoder go the whole way, and is what leaves read by peft?"""

from pathlib import Path

import torch
from peft import PeftModel
from projects import RECIPE, lay_out

from dbrun.adapters.adapter_io import read_adapters
from dbrun.formats.roundtrip import Probe
from dbrun.models.base import families

MIXED = RECIPE.replace("{type: lora, rank: 2, alpha: 4, targets: all}", """\
{type: lokr, rank: 2, factor: 4, targets: all}
  text_encoder: {type: lora, rank: 2, rslora: true}""").replace("export: [diffusers, peft]\n", "")


def test_two_types_in_one_recipe_are_trained_exported_and_read(tmp_path: Path) -> None:
    project = lay_out(tmp_path / "mixed")
    (project.folder / "tiny.yaml").write_text(MIXED.replace("prior: {count: 3", "prior: {count: 1"))
    project.dbrun("run", "tiny.yaml", "train.steps=3")
    exported = set(project.exported())
    assert "pytorch_lora_weights.safetensors" not in exported
    assert {f"peft/{c}/adapter_model.safetensors" for c in ("denoiser", "text_encoder")} <= exported

    sd, probe = families()["sd"], Probe("a photo of sks dog", 32)
    plain, attached, read = (sd.load(project.folder / "base", device=torch.device("cpu"), dtype=torch.float32)
                             for _ in range(3))
    trained = next(p.parent for p in (project.folder / ".dbrun" / "objects").rglob("metrics.jsonl"))
    for component, adapter in read_adapters(trained).items():
        adapter.attach_to(attached.module(component))
        place = sd.components[component]
        read.replace_components({place: PeftModel.from_pretrained(
            read.component(place), project.folder / "outputs" / "tiny" / "peft" / component)})
    assert torch.equal(probe.predict(read), probe.predict(attached))
    assert float((probe.predict(read) - probe.predict(plain)).abs().max()) > 1e-4
