"""Does a component start exactly where a given adapter left off, and is a wrong one refused with the way out?"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapter_kinds import KINDS as KINDS_OF_PEFT
from adapter_kinds import make, moved, put
from lycoris_reader import write_by_lycoris
from representatives import cases
from safetensors.torch import load_file, save_file

from dbrun.adapters.adapter_io import ComponentAdapter, read_adapters
from dbrun.adapters.attach import attach, match_layers, read_weights, write_weights
from dbrun.adapters.lora import Lora
from dbrun.errors import RecipeError
from dbrun.formats.base import formats
from dbrun.formats.roundtrip import Probe
from dbrun.models.base import families
from dbrun.recipe.text.spans import InvalidRecipe

FAMILY = families()["sd"]
PROBE = Probe("a photo of sks dog", 32)
KINDS = {"denoiser": {"type": "lora", "rank": 3, "alpha": 6.0, "targets": "attention"},
         "text_encoder": {"type": "lora", "rank": 2, "alpha": 2.0, "targets": "linear"}}
FOLDER_KINDS = sorted(KINDS_OF_PEFT.keys() - {"pissa"})


def fresh(base: Path):
    return FAMILY.load(base, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def given(tiny_base, tmp_path_factory) -> tuple[Path, dict[str, ComponentAdapter], torch.Tensor]:
    """A folder with trained adapters in three of our formats, the adapters, and what they predict."""
    folder, model, adapters = tmp_path_factory.mktemp("given"), fresh(tiny_base), {}
    draw = torch.Generator().manual_seed(0)
    for component, settings in KINDS.items():
        module, adapter = model.module(component), Lora.model_validate(settings)
        modules = match_layers(module, FAMILY.target_presets[component][adapter.targets])
        attach(module, adapter, modules, seed=0)
        write_weights(module,
                      {k: t + 0.2 * torch.randn(t.shape, generator=draw) for k, t in read_weights(module).items()})
        adapters[component] = ComponentAdapter(adapter.resolved_for(modules), modules, read_weights(module))
    for form in ("peft", "diffusers", "kohya"):
        formats()[form].write(folder, FAMILY, adapters, lambda: fresh(tiny_base))
    return folder, adapters, PROBE.predict(model)


def as_diffusers_writes_it(base: Path, adapters: dict[str, ComponentAdapter], folder: Path, names: str) -> Path:
    """The file of diffusers' own `save_lora_weights`: names of peft with metadata, or its older ones without."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers

    states = {c: dict(a.state) for c, a in adapters.items()}
    metadata = {}
    if names == "peft":
        metadata = {f"{attribute}_lora_adapter_metadata": adapters[c].adapter.peft_config(adapters[c].modules).to_dict()
                    for c, attribute in FAMILY.components.items()}
    else:
        states = {c: convert_state_dict_to_diffusers(state) for c, state in states.items()}
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=states["denoiser"],
                                              text_encoder_lora_layers=states["text_encoder"], **metadata)
    return folder / "pytorch_lora_weights.safetensors"


def begun(bench, inits: dict[str, str], settings: dict[str, dict[str, object]] = KINDS, **changes: dict[str, object]):
    """The adapters that `adapt` gives with these inits."""
    from dbrun.resolve.init_adapter import InitRequest, find_adapter
    from dbrun.store.store import Store

    adapt = {c: {**settings[c], **changes.get(c, {}), "init": path} for c, path in inits.items()}
    adapt.setdefault("denoiser", KINDS["denoiser"])
    chosen = bench.recipe(adapt=adapt)
    found = {c: find_adapter(path, InitRequest(FAMILY, c, chosen.adapt.components[c], bench.home),
                             Store(bench.home / "store")) for c, path in inits.items()}
    sources = bench.sources
    bench.sources = lambda recipe: replace(sources(recipe), inits={c: f.identity for c, f in found.items()})
    bench.files = {**bench.files, **{d: p for f in found.values() for d, p in f.files.items()}}
    bench.run("load", chosen)
    return read_adapters(bench.run("adapt", chosen).path)


def predicted(bench, adapters: dict[str, ComponentAdapter]) -> torch.Tensor:
    model = fresh(bench.base)
    for component, attached in adapters.items():
        attached.attach_to(model.module(component))
    return PROBE.predict(model)


def paths(folder: Path, form: str) -> dict[str, str]:
    return {c: str(folder / formats()[form].relative_paths(c)[0].removesuffix("/adapter_config.json")) for c in KINDS}


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_of_a_file_for_several_components_each_takes_its_part(given, bench, form) -> None:
    """The layers of the other part do not count, and a part that nothing starts from is told."""
    from dbrun.resolve.init_adapter import InitRequest, find_adapter, unused_parts
    from dbrun.store.store import Store

    folder, adapters, _ = given
    found = {}
    for component, path in paths(folder, form).items():
        own = adapters[component]
        request = InitRequest(FAMILY, component, own.adapter, bench.home, len(own.modules))
        found[component] = find_adapter(path, request, Store(bench.home / "store"))
    assert list(unused_parts(found)) == []
    (component, text), = unused_parts({"denoiser": found["denoiser"]})
    assert component == "denoiser" and "the text_encoder, too, which is not used" in text
    lone = InitRequest(FAMILY, "text_encoder", adapters["denoiser"].adapter, bench.home, 3)
    with pytest.raises(RecipeError, match=r"rank 2|is on"):
        find_adapter(paths(folder, form)["denoiser"], lone, Store(bench.home / "store"))


@pytest.mark.parametrize("form", ["peft", "diffusers", "kohya"])
def test_the_first_prediction_is_the_given_adapters_to_the_bit(bench, given, form) -> None:
    """Its scale of 2 goes exactly into the weights and out of them."""
    folder, adapters, expected = given
    started = begun(bench, paths(folder, form))
    assert torch.equal(predicted(bench, started), expected)
    assert not torch.allclose(PROBE.predict(fresh(bench.base)), expected, atol=1e-2)
    for component, attached in started.items():
        assert attached.adapter == adapters[component].adapter


@pytest.mark.parametrize("names", ["peft", "diffusers"])
def test_a_file_of_diffusers_own_starts_it_too(bench, given, tmp_path, names) -> None:
    """With alpha in the metadata; without any, alpha is the rank, and so half as strong as the one it was made of."""
    _, adapters, expected = given
    file = as_diffusers_writes_it(bench.base, adapters, tmp_path / "theirs", names)
    model = fresh(bench.base)
    model.pipeline.load_lora_weights(str(file.parent))
    theirs = PROBE.predict(model)
    ours = predicted(bench, begun(bench, {c: str(file) for c in KINDS}))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert torch.allclose(ours, expected, atol=1e-5) is (names == "peft")


@pytest.mark.parametrize("alpha", cases([None, 1.0, 7.0], 2))
def test_another_alpha_starts_at_the_same_prediction(bench, given, alpha) -> None:
    folder, _, expected = given
    started = begun(bench, paths(folder, "peft"), denoiser={"alpha": alpha})
    assert started["denoiser"].adapter.alpha == (3.0 if alpha is None else alpha)
    torch.testing.assert_close(predicted(bench, started), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", cases(FOLDER_KINDS, *map(FOLDER_KINDS.index, ("lora", "lokr"))))
def test_every_type_goes_on_from_its_own_folder(bench, tmp_path, kind) -> None:
    """At the same scale to the bit; under another alpha the scale goes into the weights."""
    adapter, model = make(kind), fresh(bench.base)
    trained = moved(put(model, "denoiser", adapter, "attention"), by=0.1)
    write_weights(model.module("denoiser"), trained.state)
    formats()["peft"].write(tmp_path, FAMILY, {"denoiser": trained}, lambda: fresh(bench.base))
    place, settings = str(tmp_path / "peft" / "denoiser"), KINDS_OF_PEFT[kind]
    expected = PROBE.predict(model)
    started = begun(bench, {"denoiser": place}, settings={"denoiser": {**settings, "targets": "attention"}})
    assert torch.equal(predicted(bench, started), expected)
    if adapter.scale_folds_into:
        other = {**settings, "targets": "attention", "alpha": 3 * adapter.effective_alpha}
        started = begun(bench, {"denoiser": place}, settings={"denoiser": other})
        torch.testing.assert_close(predicted(bench, started), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("kind", cases(["lora", "rslora", "dora", "loha", "lokr"], 1))
def test_a_file_with_kohyas_names_starts_it_too(bench, tmp_path, kind) -> None:
    adapter, model = make(kind), fresh(bench.base)
    trained = moved(put(model, "denoiser", adapter, "all"), by=0.1)
    write_weights(model.module("denoiser"), trained.state)
    path, = formats()["kohya"].write(tmp_path, FAMILY, {"denoiser": trained}, lambda: fresh(bench.base))
    settings = {"denoiser": {**KINDS_OF_PEFT[kind], "targets": "all"}}
    started = begun(bench, {"denoiser": str(path)}, settings=settings)
    torch.testing.assert_close(predicted(bench, started), PROBE.predict(model), rtol=0, atol=2e-5)
    other = "loha" if adapter.NAME == "lora" else "lora"
    with pytest.raises(RecipeError, match=rf"the recipe says `type: {other}`") as caught:
        begun(bench, {"denoiser": str(path)}, settings={"denoiser": {"type": other, "targets": "all"}})
    assert f"write `type: {adapter.NAME}`" in str(caught.value)
    with pytest.raises(RecipeError, match="holds no weights of the text_encoder"):
        begun(bench, {"text_encoder": str(path)})


@pytest.mark.parametrize(("algo", "kind"), [
    ("locon", "lora"), *(pytest.param(kind, kind, marks=pytest.mark.slow) for kind in ("loha", "lokr"))])
def test_a_file_that_lycoris_wrote_starts_both_components(bench, tmp_path, algo, kind) -> None:
    model, path = fresh(bench.base), tmp_path / "theirs.safetensors"
    write_by_lycoris(model, path, algo, lora_dim=4, alpha=2.0, conv_lora_dim=4, conv_alpha=2.0)
    settings = {"type": kind, "rank": 4, "alpha": 2.0, "targets": "all"}
    started = begun(bench, {"denoiser": str(path), "text_encoder": str(path)},
                    settings={"denoiser": settings, "text_encoder": settings})
    # it saves what it holds in 32 bits, in 16
    torch.testing.assert_close(predicted(bench, started), PROBE.predict(model), rtol=0, atol=3e-3)


def test_without_init_it_starts_at_the_base(bench, given) -> None:
    torch.testing.assert_close(predicted(bench, begun(bench, {})), PROBE.predict(fresh(bench.base)))


@pytest.mark.parametrize(("change", "words", "fix"), [
    ({"rank": 4}, "has rank 3", "write `rank: 3`"),
    ({"targets": "all"}, "it is on 32 layers", "write `targets: attention`"),
    ({"targets": ("to_q", "to_k")}, "of them only in the file, such as", "write `targets: attention`")])
@pytest.mark.parametrize("form", ["peft", "diffusers"])
def test_what_does_not_agree_is_said_with_what_would(bench, given, form, change, words, fix) -> None:
    folder, _, _ = given
    with pytest.raises(RecipeError) as caught:
        begun(bench, {"denoiser": paths(folder, form)["denoiser"]}, denoiser=change)
    assert words in caught.value.message
    assert caught.value.fix == fix


def test_an_adapter_of_another_base_is_refused(bench, given, tmp_path) -> None:
    folder, _, _ = given
    for component in KINDS:
        home = tmp_path / component
        home.mkdir()
        config = json.loads((folder / "peft" / component / "adapter_config.json").read_text())
        (home / "adapter_config.json").write_text(json.dumps(config))
        tensors = load_file(folder / "peft" / component / "adapter_model.safetensors")
        wide = {n: torch.cat([t, t], dim=1) if "lora_A" in n else t for n, t in tensors.items()}
        save_file(wide, home / "adapter_model.safetensors")
        with pytest.raises(RecipeError, match=r"cannot put|ignores or changes") as caught:
            begun(bench, {component: str(home)})
        assert caught.value.fix == "name an adapter that was trained on this base"


@pytest.mark.parametrize("fault", ["lost", "renamed", "dora"])
def test_a_file_whose_weights_do_not_all_arrive_is_refused(bench, given, tmp_path, fault) -> None:
    folder, _, _ = given
    home = tmp_path / "bad"
    home.mkdir()
    config = json.loads((folder / "peft" / "denoiser" / "adapter_config.json").read_text())
    tensors = load_file(folder / "peft" / "denoiser" / "adapter_model.safetensors")
    name = sorted(n for n in tensors if "lora_B" in n)[0]
    if fault == "dora":
        config["use_dora"] = True
    else:
        tensor = tensors.pop(name)
        tensors |= {name.replace("to_", "tx_"): tensor} if fault == "renamed" else {}
    (home / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, home / "adapter_model.safetensors")
    with pytest.raises(RecipeError, match=r"ignores or changes|its file lacks|another kind"):
        begun(bench, {"denoiser": str(home)})


def refused(bench, place: Path, component: str = "denoiser", **change: object) -> str:
    with pytest.raises((RecipeError, InvalidRecipe)) as caught:
        begun(bench, {component: str(place)}, **{component: change})
    assert not bench.artifacts, "refused before anything ran"
    return str(caught.value)


def test_what_is_no_such_adapter_is_refused_before_anything_runs(bench, given, tmp_path) -> None:
    folder, _, _ = given
    assert "is not there" in refused(bench, tmp_path / "nothing.safetensors")
    (tmp_path / "notes.txt").write_text("words")
    assert "is not an adapter" in refused(bench, tmp_path / "notes.txt")
    save_file({"<sks>": torch.ones(1, 4)}, tmp_path / "word.safetensors")
    assert "is not an adapter" in refused(bench, tmp_path / "word.safetensors")
    assert "is not an adapter" in refused(bench, bench.base / "unet")
    (tmp_path / "cut.safetensors").write_bytes((folder / "pytorch_lora_weights.safetensors").read_bytes()[:-5])
    assert "not a complete safetensors file" in refused(bench, tmp_path / "cut.safetensors")
    save_file({"lora_unet_down_blocks_0.lora_up.weight": torch.ones(2, 2)}, tmp_path / "kohya.safetensors")
    assert "make no LoRA, LoHa, LoKr, diag-OFT" in refused(bench, tmp_path / "kohya.safetensors")
    save_file({"unet.conv_in.weight": torch.ones(2, 2)}, tmp_path / "unet.safetensors")
    assert "other weights than those of LoRA" in refused(bench, tmp_path / "unet.safetensors")
    save_file({"unet.x.lora_A.weight": torch.ones(2, 2)}, tmp_path / "half.safetensors")
    assert "no weights of `text_encoder`" in refused(bench, tmp_path / "half.safetensors", "text_encoder")


def test_a_peft_folder_must_be_whole_and_of_the_type(bench, given, tmp_path) -> None:
    folder, _, _ = given
    config = (folder / "peft" / "denoiser" / "adapter_config.json").read_text()
    (tmp_path / "adapter_config.json").write_text(config)
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    assert "pickled weights are never read" in refused(bench, tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "names no `peft_type`" in refused(bench, tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(config.replace("LORA", "VERA"))
    said = refused(bench, tmp_path)
    assert "is an adapter of type vera, but the recipe says `type: lora`" in said
