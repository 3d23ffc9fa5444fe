"""Do the programs that read kohya's names find each adapter under them, and do exactly what it did in training?

The readers here are lycoris-lora, which is the trainers' own, and diffusers' `load_lora_weights`. ComfyUI and A1111 are
no packages; which names they look for stands in LISTED below.
"""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from adapter_kinds import KINDS, make, moved, put, widest
from lycoris_reader import put_by_lycoris, write_by_lycoris
from safetensors.torch import load_file, save_file
from second_base import as_second
from torch import nn

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.errors import RecipeError
from dbrun.formats.base import formats
from dbrun.formats.kohya import FILE
from dbrun.formats.roundtrip import Probe
from dbrun.models.base import Family, Model, families

SD, KOHYA, PROBE = families()["sd"], formats()["kohya"], Probe("a photo of sks dog", 32)
CARRIED = [name for name in KINDS if KOHYA.unsupported_reason(SD, "denoiser", make(name)) is None]
CLOSE = 1e-4
QUICK = {"lora", "lokr"}
"""Kinds that the default run goes through; the others are marked slow."""


def some(kinds: list[str]) -> list:
    return [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in kinds]


TEXT = r"text_model_encoder_layers_\d+_(mlp_fc[12]|self_attn_[qkv]_proj|self_attn_out_proj)"
BLOCK = r"(down_blocks_\d+|mid_block|up_blocks_\d+)"
LISTED = [
    # model_lora_keys_clip with LORA_CLIP_MAP; convert_diffusers_name_to_compvis
    rf"lora_te_{TEXT}",
    # model_lora_keys_unet over unet_to_diffusers' names; convert_diffusers_name_to_compvis with suffix_conversion
    rf"lora_unet_{BLOCK}_attentions_\d+_proj_(in|out)",
    rf"lora_unet_{BLOCK}_attentions_\d+_transformer_blocks_\d+_attn[12]_to_(q|k|v|out_0)",
    rf"lora_unet_{BLOCK}_attentions_\d+_transformer_blocks_\d+_ff_net_(0_proj|2)",
    rf"lora_unet_{BLOCK}_resnets_\d+_(conv[12]|time_emb_proj|conv_shortcut)",
    r"lora_unet_down_blocks_\d+_downsamplers_0_conv", r"lora_unet_up_blocks_\d+_upsamplers_0_conv",
    r"lora_unet_time_embedding_linear_[12]"]
"""The layers' names that ComfyUI and A1111 look for, of those that `targets: all` can hit. Read in

- Comfy-Org/ComfyUI, comfy/lora.py @17358c8f and comfy/utils.py @09708eae (UNET_MAP_*, TRANSFORMER_BLOCKS);
- AUTOMATIC1111/stable-diffusion-webui, extensions-builtin/Lora/networks.py @873edba4.
"""
ENDS = {"alpha", "lora_up.weight", "lora_down.weight", "dora_scale", "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b",
        "lokr_w1", "lokr_w2", "lokr_w2_a", "lokr_w2_b"}
"""What they look for behind a layer's name. Read, with what they compute, in

- comfyanonymous/ComfyUI, comfy/weight_adapter/: lora.py @0323d874, loha.py @17adbb5c, lokr.py @179c2d35, and for DoRA
  weight_decompose in base.py @9c0cf36c;
- AUTOMATIC1111/stable-diffusion-webui, extensions-builtin/Lora/: network_lora.py @1b7f4308, network_lokr.py @17e14ed2,
  network_hada.py @255da37d, of an index that unites it with its forks.
"""


@dataclass(frozen=True)
class World:
    """A tiny base and what it predicts alone."""

    folder: Path
    base: torch.Tensor

    def fresh(self) -> Model:
        return SD.load(self.folder, device=torch.device("cpu"), dtype=torch.float32)

    def learnt(self, **kinds: str) -> tuple[dict[str, ComponentAdapter], torch.Tensor]:
        """Adapters of these kinds by component, far from their start, and what they predict."""
        model = self.fresh()
        adapters = {}
        for component, kind in kinds.items():
            adapter = make(kind)
            adapters[component] = moved(put(self.fresh(), component, adapter, widest(adapter)), by=0.1)
            adapters[component].attach_to(model.module(component))
        return adapters, PROBE.predict(model)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("kohya") / "base"
    SD.write_tiny_base(folder)
    return World(folder, PROBE.predict(SD.load(folder, device=torch.device("cpu"), dtype=torch.float32)))


def by_lycoris(model: Model, file: Path) -> torch.Tensor:
    put_by_lycoris(model, file)
    return PROBE.predict(model)


def by_diffusers(model: Model, file: Path) -> torch.Tensor:
    model.pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    return PROBE.predict(model)


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


@pytest.mark.parametrize("kind", some([kind for kind in CARRIED if kind != "lokr-thin"]))
def test_lycoris_reads_what_was_trained(world, tmp_path, kind) -> None:
    """On both components, convolutions included where the type goes on them; alpha is not the rank."""
    adapters, trained = world.learnt(denoiser=kind, text_encoder=kind)
    path, = KOHYA.write(tmp_path, SD, adapters, world.fresh)
    answer = by_lycoris(world.fresh(), path)
    assert apart(answer, trained) < CLOSE < 1e-2 < apart(trained, world.base)
    assert apart(by_us(world, tmp_path), trained) < CLOSE


def test_a_lokr_whose_factor_lycoris_cannot_guess_has_its_formula(world, tmp_path) -> None:
    """Its reader guesses a factor from shapes and builds the layer anew; ComfyUI and A1111 take shapes as they are."""
    from lycoris.functional.lokr import diff_weight

    adapters, trained = world.learnt(denoiser="lokr-thin")
    path, = KOHYA.write(tmp_path, SD, adapters, world.fresh)
    tensors, model = load_file(path), world.fresh()
    for name, module in model.pipeline.unet.named_modules():
        layer = {n.partition(".")[2]: t for n, t in tensors.items()
                 if n.partition(".")[0] == "lora_unet_" + name.replace(".", "_")}
        if layer:
            parts = [layer.get(f"lokr_{end}") for end in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")]
            module.weight.data += diff_weight(*parts).reshape(module.weight.shape)
    assert apart(PROBE.predict(model), trained) < CLOSE


def by_us(world: World, folder: Path) -> torch.Tensor:
    model = world.fresh()
    KOHYA.read(folder, model, tuple(SD.components))
    return PROBE.predict(model)


@pytest.mark.parametrize("kind", some([name for name in CARRIED if make(name).supports_lora and name != "dora"]))
def test_diffusers_reads_every_lora(world, tmp_path, kind) -> None:
    adapters, trained = world.learnt(denoiser=kind, text_encoder=kind)
    path, = KOHYA.write(tmp_path, SD, adapters, world.fresh)
    assert apart(by_diffusers(world.fresh(), path), trained) < CLOSE


@pytest.mark.parametrize("kinds", [{"denoiser": "lokr", "text_encoder": "lora"},
                                   {"denoiser": "loha", "text_encoder": "lokr"}, {"denoiser": "dora"},
                                   {"text_encoder": "rslora"}], ids=str)
def test_mixed_types_and_one_component_alone(world, tmp_path, kinds) -> None:
    adapters, trained = world.learnt(**kinds)
    path, = KOHYA.write(tmp_path, SD, adapters, world.fresh)
    assert apart(by_lycoris(world.fresh(), path), trained) < CLOSE
    assert {name.startswith("lora_te_") for name in load_file(path)} == {c == "text_encoder" for c in kinds}


@pytest.mark.parametrize("kind", some(CARRIED))
def test_each_name_is_one_that_comfyui_and_a1111_look_for(world, tmp_path, kind) -> None:
    adapters, _ = world.learnt(denoiser=kind, text_encoder=kind)
    path, = KOHYA.write(tmp_path, SD, adapters, world.fresh)
    for name in load_file(path):
        layer, _, end = name.partition(".")
        assert any(re.fullmatch(pattern, layer) for pattern in LISTED) and end in ENDS, name
    layers = {name.partition(".")[0] for name in load_file(path)}
    assert len(layers) == sum(len(a.modules) for a in adapters.values())


def by_comfyui(world: World, path: Path) -> torch.Tensor:
    """As ComfyUI computes each layer; A1111 does the same but for DoRA."""
    model, tensors = world.fresh(), load_file(path)
    for component in SD.components:
        module = model.module(component)
        for name, layer in module.named_modules():
            begins, written = SD.kohya_prefixes[component]
            full = written + name.removeprefix(begins).replace(".", "_")
            if own := {n.partition(".")[2]: t for n, t in tensors.items() if n.partition(".")[0] == full}:
                layer.weight.data = comfyui(layer.weight.data, own)
    return PROBE.predict(model)


def comfyui(weight: torch.Tensor, own: dict[str, torch.Tensor]) -> torch.Tensor:
    rank = None
    if "lora_up.weight" in own:
        rank = len(own["lora_down.weight"])
        change = own["lora_up.weight"].flatten(1) @ own["lora_down.weight"].flatten(1)
    elif "hada_w1_a" in own:
        rank = len(own["hada_w1_b"])
        change = (own["hada_w1_a"] @ own["hada_w1_b"]) * (own["hada_w2_a"] @ own["hada_w2_b"])
    else:
        if (second := own.get("lokr_w2")) is None:
            rank, second = len(own["lokr_w2_b"]), own["lokr_w2_a"] @ own["lokr_w2_b"]
        first = own["lokr_w1"][:, :, None, None] if second.dim() == 4 else own["lokr_w1"]
        change = torch.kron(first, second)
    new = weight + (own["alpha"] / rank if rank else 1) * change.reshape(weight.shape)
    if "dora_scale" in own:
        new = new * own["dora_scale"] / weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.dim() - 1))
    return new


@pytest.mark.parametrize("kind", some(CARRIED))
def test_comfyui_computes_what_was_trained_or_it_is_said(world, tmp_path, kind) -> None:
    adapters, trained = world.learnt(denoiser=kind, text_encoder=kind)
    path, = KOHYA.write(tmp_path, SD, adapters, world.fresh)
    same = apart(by_comfyui(world, path), trained) < CLOSE
    assert same is (KOHYA.compatibility_warning(SD, "denoiser", make(kind)) is None) is (kind != "dora")


@pytest.mark.parametrize("kind", ["lora", "lokr"])
def test_on_a_base_of_2_lycoris_and_diffusers_read_it_too(tmp_path, kind) -> None:
    """Its projections are linear, its text encoder is OpenCLIP's; every layer has the same name."""
    folder = tmp_path / "base"
    SD.write_tiny_base(folder, prediction="v_prediction")
    second = World(as_second(folder), torch.zeros(()))
    base = PROBE.predict(second.fresh())
    adapters, trained = second.learnt(denoiser=kind, text_encoder=kind)
    path, = KOHYA.write(tmp_path, SD, adapters, second.fresh)
    assert apart(by_lycoris(second.fresh(), path), trained) < CLOSE < 1e-2 < apart(trained, base)
    assert kind != "lora" or apart(by_diffusers(second.fresh(), path), trained) < CLOSE
    assert all(any(re.fullmatch(pattern, name.partition(".")[0]) for pattern in LISTED) for name in load_file(path))


def test_alpha_is_the_true_one(world, tmp_path) -> None:
    """alpha / rank, which every reader applies, is the adapter's scale; alpha itself is what the recipe said."""
    for kind, alpha, ranks in (("lora", 5.0, 2), ("rslora", 3.0 * 4 / 2, 4), ("pissa", 3.0 * 2, 4)):
        adapter = make(kind, **({"rank": 2, "alpha": 5.0} if kind == "lora" else {}))
        attached = put(world.fresh(), "denoiser", adapter, "linear")
        path, = KOHYA.write(tmp_path, SD, {"denoiser": attached}, world.fresh)
        tensors = load_file(path)
        assert {float(t) for n, t in tensors.items() if n.endswith(".alpha")} == {alpha}
        assert {t.shape[0] for n, t in tensors.items() if n.endswith("lora_down.weight")} == {ranks}


def foreign(world: World, folder: Path, algo: str, **settings: object) -> tuple[Path, torch.Tensor]:
    """A file as lycoris-lora writes it, in 16 bits as trainers do, and what the network predicts that wrote it."""
    model, path = world.fresh(), folder / "foreign.safetensors"
    write_by_lycoris(model, path, algo, lora_dim=3, alpha=2.0, conv_lora_dim=2, conv_alpha=1.0, **settings)
    save_file(load_file(path), folder / FILE)
    return path, PROBE.predict(model)


FOREIGN = [("locon", {}), ("locon", {"use_tucker": True}), ("locon", {"weight_decompose": True}), ("loha", {}),
           ("loha", {"use_tucker": True}), ("lokr", {}), ("lokr", {"factor": 4, "decompose_both": True}),
           ("lokr", {"use_tucker": True, "factor": 2}), ("lokr", {"full_matrix": True}),
           ("diag-oft", {}), ("diag-oft", {"rescaled": True}), ("glora", {})]


@pytest.mark.parametrize(("algo", "settings"), [
    case if i in (2, 6, 11) else pytest.param(*case, marks=pytest.mark.slow)
    for i, case in enumerate(FOREIGN)], ids=str)
def test_a_file_of_lycoris_own_is_read_as_it_reads_it(world, tmp_path, algo, settings) -> None:
    """Other ranks on convolutions, CP decomposition, weight decomposition, every form of LoKr, types no recipe has."""
    path, theirs = foreign(world, tmp_path, algo, **settings)
    assert apart(by_us(world, tmp_path), theirs) < 3e-3 < 3e-2 < apart(theirs, world.base)
    if settings != {"use_tucker": True, "factor": 2}:
        assert apart(by_us(world, tmp_path), by_lycoris(world.fresh(), path)) < CLOSE


def test_a_dora_of_inputs_is_read_as_lycoris_reads_it_and_never_taken_for_one_of_outputs(world, tmp_path) -> None:
    """Many of its layers are square, so that shapes would not tell."""
    _, theirs = foreign(world, tmp_path, "locon", weight_decompose=True, wd_on_out=False)
    again = world.fresh()
    assert apart(by_us(world, tmp_path), theirs) < 3e-3 < 3e-2 < apart(theirs, world.base)
    with pytest.raises(RecipeError, match="scales the inputs of the denoiser"):
        KOHYA.import_adapter(tmp_path, again, "denoiser")


@pytest.mark.parametrize("spoil", ["another base's layer", "a half layer", "another type", "only alpha"])
def test_what_a_reader_would_pass_over_is_an_error(world, tmp_path, spoil) -> None:
    adapters, _ = world.learnt(denoiser="lora")
    path, = KOHYA.write(tmp_path, SD, adapters, world.fresh)
    tensors = load_file(path)
    name = next(n for n in tensors if n.endswith("lora_up.weight"))
    layer = name.partition(".")[0]
    if spoil == "another base's layer":
        tensors[name.replace(layer, "lora_unet_single_blocks_7_linear1")] = tensors.pop(name)
    elif spoil == "another type":
        tensors[f"{layer}.oft_blocks"] = tensors.pop(name)
    else:
        gone = {"a half layer": (name,), "only alpha": (name, name.replace("lora_up", "lora_down"))}[spoil]
        tensors = {n: t for n, t in tensors.items() if n not in gone}
    save_file(tensors, path)
    with pytest.raises(RecipeError, match=r"not in the base's denoiser|make no LoRA, LoHa, LoKr, diag-OFT"):
        by_us(world, tmp_path)


def test_other_families_and_types_are_refused_with_the_reason() -> None:
    assert "no names for" in KOHYA.unsupported_reason(SD, "denoiser", make("oft"))
    assert "no names for" in KOHYA.unsupported_reason(SD, "denoiser", make("full"))
    assert "no other program reads" in KOHYA.unsupported_reason(families()["if_stage1"], "denoiser", make("lora"))
    families_with = [f for f in families().values() if f.kohya_prefixes]
    assert all(isinstance(f, Family) and set(f.kohya_prefixes) <= set(f.components) for f in families_with)


def test_no_two_layers_share_a_name(world) -> None:
    model = world.fresh()
    for component in SD.components:
        names = [name.replace(".", "_") for name, m in model.module(component).named_modules()
                 if isinstance(m, (nn.Linear, nn.Conv2d))]
        assert not [pair for pair in itertools.combinations(names, 2) if pair[0] == pair[1]]
