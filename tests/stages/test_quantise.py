"""A quantised denoiser: adapters learn on it, runs resume to the byte, exports are read back, the base comes back."""

import json
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from adapter_kinds import KINDS, make, put, widest
from tiny_training import content, job, load, write_inputs

from dbrun.adapters.adapter_io import read_adapters, write_adapters
from dbrun.errors import Interrupted
from dbrun.events import Note
from dbrun.formats.merge_weights import restore_base
from dbrun.models.base import Model, families
from dbrun.models.quantisation import quantisations
from dbrun.recipe.checks.rules import check_rules
from dbrun.safetensors_header import read_provenance
from dbrun.stages.base import RuntimeOptions, stages
from dbrun.stages.sources import Artifact, Numerics
from dbrun.stages.support.base_loading import quantise_denoiser
from dbrun.stages.support.resident import ResidentBase
from dbrun.stages.train import Train

NAMES = []
for _name, _kind in quantisations().items():
    _package = _kind.REQUIRED_PACKAGE
    _missing = pytest.mark.skipif(find_spec(_package.module) is None, reason=f"{_package.name} is not installed")
    NAMES.append(pytest.param(_name, marks=_missing))
EVERY = pytest.mark.parametrize("name", NAMES)
FILES = ("pytorch_lora_weights.safetensors", "kohya.safetensors",
         "component/unet/diffusion_pytorch_model.safetensors")
OWN = {"adapt": {"denoiser": {"type": "lora", "rank": 2, "alpha": 6.0, "targets": "all"}}, "prior": None,
       "subject": {"class_prompt": None}, "samples": {"prompts": ("a photo of sks dog",), "steps": 1}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("quantised")
    write_inputs(place)
    return place


def quantised(home: Path, name: str) -> Model:
    model = load(home)
    quantise_denoiser(model, quantisations()[name])
    return model


def predicted(model: Model) -> torch.Tensor:
    draw = torch.Generator().manual_seed(3)
    x_t, hidden = torch.randn(2, 4, 8, 8, generator=draw), torch.randn(2, 77, 32, generator=draw)
    return model.predict(x_t, torch.tensor([10, 700]), {"hidden": hidden})


def frozen(model: Model) -> dict[str, torch.Tensor]:
    """Every tensor of the denoiser, scales included."""
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in model.denoiser.state_dict().items():
        # torchao's tensors cannot be compared as they are
        tensors[name] = tensor.clone() if type(tensor) is torch.Tensor else tensor.dequantize()
    return tensors


@EVERY
def test_only_linear_layers_of_the_denoiser_shrink_and_predictions_stay_close(home, name) -> None:
    plain, small = load(home), quantised(home, name)
    with torch.no_grad():
        ratio = (predicted(small) - predicted(plain)).abs().max() / predicted(plain).abs().max()
    assert 0 < ratio < 0.1
    kinds = {type(part).__name__ for part in small.denoiser.modules() if isinstance(part, torch.nn.Linear)}
    assert len(kinds) == 1
    for other in (small.component("vae"), small.component("text_encoder")):
        assert {type(parameter) for parameter in other.parameters()} == {torch.nn.Parameter}


@pytest.mark.parametrize("name", [param for param in NAMES if param.values[0] != "fp8"])
def test_the_layers_are_those_of_diffusers_own_config(home, name, monkeypatch) -> None:
    """Its check for a GPU is left out here, and nothing else of it."""
    from diffusers import BitsAndBytesConfig, UNet2DConditionModel
    from diffusers.quantizers.bitsandbytes import bnb_quantizer

    for quantizer in (bnb_quantizer.BnB4BitDiffusersQuantizer, bnb_quantizer.BnB8BitDiffusersQuantizer):
        monkeypatch.setattr(quantizer, "validate_environment", lambda self, **settings: None)
        monkeypatch.setattr(quantizer, "update_device_map", lambda self, device_map: {"": "cpu"})
    source = quantisations()[name].DIFFUSERS_CONFIG.replace("DTYPE", "torch.float32")
    config = eval(source, {"BitsAndBytesConfig": BitsAndBytesConfig, "torch": torch})
    theirs = UNet2DConditionModel.from_pretrained(home / "base" / "unet", quantization_config=config,
                                                  torch_dtype=torch.float32).state_dict()
    own = quantised(home, name).denoiser.state_dict()
    assert own.keys() == theirs.keys()
    assert [key for key in own if not torch.equal(own[key], theirs[key])] == []


@EVERY
@pytest.mark.parametrize("kind", [*(kind for kind in KINDS if KINDS[kind]["type"] == kind), "dora", "pissa"])
def test_an_adapter_learns_on_it_or_is_refused(home, recipe, name, kind) -> None:
    """Refused by the recipe's check, before anything runs; the base is itself again afterwards, bit for bit."""
    adapter = make(kind)
    chosen = recipe(base={"quantise": name}, adapt={"denoiser": adapter.model_dump(exclude_none=True)})
    problems = [problem for problem in check_rules(chosen) if problem[0] == "base.quantise"]
    if problems:
        assert "cannot learn on it" in problems[0][1]
        return
    model = quantised(home, name)
    with torch.no_grad():
        base = predicted(model)
    before = frozen(model)
    put(model, "denoiser", adapter, widest(adapter))
    with torch.no_grad():
        assert torch.allclose(predicted(model), base, atol=1e-5)
    model.denoiser.train()
    predicted(model).square().sum().backward()
    learning = [parameter for parameter in model.denoiser.parameters() if parameter.requires_grad]
    assert learning and all(parameter.grad is not None for parameter in learning)
    restore_base(model)
    after = frozen(model)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    with torch.no_grad():
        assert torch.equal(predicted(model), base)


def test_what_cannot_learn_on_it_is_refused_with_the_reason(recipe) -> None:
    def refusal(name: str, **adapter: object) -> str | None:
        chosen = recipe(base={"quantise": name}, adapt={"denoiser": adapter})
        found = [(why, fix) for key, why, fix in check_rules(chosen) if key == "base.quantise"]
        return " → ".join(found[0]) if found else None

    assert "quantised weights cannot learn → write `adapt:" in refusal("nf4", type="full")
    assert "decomposes the base's original weights" in refusal("int8", type="lora", start="pissa")
    assert "write `quantise: int8`" in refusal("nf4", type="loha")
    assert "write `quantise: nf4`" in refusal("int8", type="lora", dora=True)
    assert "torchao" in refusal("fp8", type="oft") and refusal("nf4", type="oft") is None
    text_encoder = {"denoiser": None, "text_encoder": {"type": "full"}}
    assert not [p for p in check_rules(recipe(base={"quantise": "nf4"}, adapt=text_encoder)) if p[0] == "base.quantise"]


@EVERY
def test_a_stopped_training_resumes_to_the_byte(home, tmp_path, name) -> None:
    def trained(folder: str, **changes: object) -> dict[str, bytes]:
        out = tmp_path / folder
        Train().run(job(home, out, tmp_path / f"{folder}.work", **{"quantise": name, "steps": 2, **changes}))
        return content(out)

    seen: list[object] = []
    whole = trained("whole", runtime=RuntimeOptions(1000, 2))
    with pytest.raises(Interrupted):
        trained("stopped", emit=seen.append, stop_signal=lambda: signal.SIGTERM if seen else 0)
    assert trained("stopped") == whole
    assert trained("plain", quantise=None)["denoiser.safetensors"] != whole["denoiser.safetensors"]


@EVERY
def test_an_export_is_read_back_onto_the_same_layers(bench, recipe, name) -> None:
    """By diffusers onto a fresh base; kohya's names and whole components are compared on the base's own weights."""
    formats = ("diffusers", "kohya", "component") if name == "nf4" else ("diffusers",)
    chosen = recipe(base={"quantise": name}, export=formats, **OWN)
    bench.run("load", chosen)
    adapters = read_adapters(bench.run("adapt", chosen).path)
    draw = torch.Generator().manual_seed(0)
    state = adapters["denoiser"].state
    state.update({key: tensor + 0.1 * torch.randn(tensor.shape, generator=draw) for key, tensor in state.items()})
    (bench.home / "trained").mkdir()
    write_adapters(bench.home / "trained", adapters)
    (bench.home / "trained" / "metrics.jsonl").write_text(json.dumps({"step": 1, "instance_loss": 1.0}) + "\n")
    bench.artifacts["train"] = Artifact(bench.home / "trained", "7" * 64)
    out = bench.run("export", chosen).path

    documents = [read_provenance(out / file) for file in FILES[:len(formats)]]
    for document in documents:
        check = document["self_check"]
        assert check["difference"] <= check["allowed"] < 0.1 * check["effect"]
        assert document["recipe"]["base"]["quantise"] == name
    # both are compared on the base's own weights, which are loaded once
    assert all(document["self_check"]["difference"] < 1e-5 for document in documents[1:])
    notes = [event.text for event in bench.events if isinstance(event, Note)]
    assert sum("loading the base's original weights" in text for text in notes) == (name == "nf4")
    assert quantisations()[name].DIFFUSERS_CONFIG.partition("(")[0] in (out / "README.md").read_text()

    own = families()["sd"].load(bench.base, device=torch.device("cpu"), dtype=torch.float32)
    fresh = families()["sd"].load(bench.base, device=torch.device("cpu"), dtype=torch.float32)
    for model in (own, fresh):
        quantise_denoiser(model, quantisations()[name])
    adapters["denoiser"].attach_to(own.denoiser)
    fresh.pipeline_with("unet").load_lora_weights(str(out), weight_name="pytorch_lora_weights.safetensors")
    with torch.no_grad():
        difference = (predicted(own) - predicted(fresh)).abs().max() / predicted(own).abs().max()
    assert difference <= max(1e-5, quantisations()[name].INPUT_ROUNDING)


def test_it_is_in_the_params_of_what_depends_on_it_only(bench, recipe) -> None:
    def params(stage: str, **changes: object) -> object:
        chosen = recipe(**changes)
        return stages()[stage].params(chosen, bench.sources(chosen))

    small = {"base": {"quantise": "nf4"}}
    for name, stage in stages().items():
        depends = name in ("generate-priors", "train", "select", "export", "evaluate")
        assert (params(name) != params(name, **small)) is depends, name
        packages = [package.name for package in stage.required_packages(params(name, **small))]
        assert packages == ["bitsandbytes"] * depends
    # DoRA starts from the norms of the weights below
    dora = {"adapt": {"denoiser": {"type": "lora", "dora": True}}}
    assert params("adapt", **dora) != params("adapt", **dora, **small)
    drawn = stages()["generate-priors"]
    keys = [drawn.item_keys(params("generate-priors", **changes), {"load": "0"}, Numerics("cpu", 1))
            for changes in ({}, small)]
    assert "quantise" not in keys[0][0] and keys[1][0] == {**keys[0][0], "quantise": "nf4"}


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_it_is_not_kept_for_the_next_stage_and_gets_nothing_that_is_kept(home) -> None:
    resident = ResidentBase()
    plain, small, later = load(home), quantised(home, "nf4"), load(home)
    resident.opened("base", plain)
    kept = plain.denoiser
    resident.stage_done()
    resident.opened("base", small)
    assert small.denoiser is not kept
    resident.stage_done()
    resident.opened("base", later)
    assert later.denoiser is kept
