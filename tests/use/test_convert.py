"""Is an adapter the same in every format that it is converted to, and are several LoRAs one by their weights?"""

import pytest
import torch
from safetensors.torch import load_file, save_file

from dbrun.adapters.lora import Lora
from dbrun.errors import RecipeError, UsageError
from dbrun.formats.base import formats
from dbrun.formats.roundtrip import Probe
from dbrun.models.base import families
from dbrun.safetensors_header import read_header, read_provenance
from dbrun.use.adapter_files import find_adapter
from dbrun.use.blend import Blend
from dbrun.use.convert import import_file, lost_metadata, write_adapter_file
from dbrun.use.join_loras import add_linear, concatenate_loras

SD, PROBE = families()["sd"], Probe("a photo of sks dog", 32)


def predicted(world, path) -> torch.Tensor:
    model = world.fresh()
    Blend(model).apply([find_adapter(str(path))])
    return PROBE.predict(model)


def converted(world, path, to, target):
    part = find_adapter(str(path))
    adapters, changed = import_file(part, world.at_hand, world.fresh())
    assert write_adapter_file(adapters, world.at_hand, formats()[to], target, {"format_version": 1,
                                                                               "x": "y"}, [part]) < 1e-4
    return adapters, changed


@pytest.mark.parametrize(("kind", "start", "ways"), [
    ("dora", "diffusers", ("kohya", "peft")), *(
        pytest.param(*case, marks=pytest.mark.slow) for case in (
            ("lokr", "kohya", ("peft", "kohya")), ("rslora", "peft", ("kohya", "diffusers")),
            ("loha-effective", "peft", ("kohya", "peft")),
            ("lokr-thin", "peft", ("kohya",)), ("pissa", "kohya", ("peft",)), ("oft", "peft", ("peft",))))])
def test_it_predicts_the_same_in_every_format_on_the_way(world, tmp_path, kind, start, ways) -> None:
    adapters = world.adapters(kind, 1)
    path, expected = world.write(f"{kind}-{start}", start, adapters), world.alone(adapters)
    for i, to in enumerate(ways):
        target = tmp_path / (f"{i}" if to == "peft" else f"{i}.safetensors")
        converted(world, path, to, target)
        assert (predicted(world, target) - expected).abs().max() < 1e-4
        path = target
    if path.is_file():
        assert read_provenance(path) == {"format_version": 1, "x": "y"}


def test_ranks_and_scales_that_differ_between_layers_are_evened_out_and_that_is_said(world, tmp_path) -> None:
    """As trainers write them that give convolutions a rank and an alpha of their own, with metadata of theirs."""
    source = world.write("uneven", "kohya", world.adapters("lora", 2))
    tensors = load_file(source)
    for name in [n for n in tensors if n.endswith("lora_down.weight") and "resnets" in n]:
        layer = name.partition(".")[0]
        up = f"{layer}.lora_up.weight"
        tensors |= {name: tensors[name][:1], up: tensors[up][:, :1], f"{layer}.alpha": torch.tensor(0.5)}
    path = tmp_path / "theirs.safetensors"
    metadata = {"author": "me", "ss_network_dim": "4", "ss_tag_frequency": "{}"}
    save_file({n: t.contiguous() for n, t in tensors.items()}, path, metadata)
    expected = predicted(world, path)
    adapters, changed = converted(world, path, "diffusers", tmp_path / "ours.safetensors")
    assert adapters["denoiser"].adapter.rank == 4
    assert any("ranks from 1 to 4 became 4" in c for c in changed) and any("alpha differs" in c for c in changed)
    assert (predicted(world, tmp_path / "ours.safetensors") - expected).abs().max() < 1e-4
    assert lost_metadata(find_adapter(str(path))) == ("1 entries of its metadata: author",)
    kept = read_header(tmp_path / "ours.safetensors").metadata
    assert (kept["ss_tag_frequency"], kept["ss_output_name"], kept["ss_network_alpha"]) == ("{}", "ours", "4")


def test_what_a_format_cannot_carry_is_refused_with_those_that_can(world, tmp_path) -> None:
    path = world.write("lo", "kohya", world.adapters("loha", 3))
    adapters, _ = import_file(find_adapter(str(path)), world.at_hand, world.fresh())
    with pytest.raises(UsageError, match="LoRA only, and the denoiser is of type loha") as caught:
        write_adapter_file(adapters, world.at_hand, formats()["diffusers"], tmp_path / "x.safetensors", {}, [])
    assert caught.value.fix == "write --to kohya or --to peft" and not list(tmp_path.iterdir())
    (tmp_path / "x.safetensors").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        write_adapter_file(adapters, world.at_hand, formats()["kohya"], tmp_path / "x.safetensors", {}, [])
    assert (tmp_path / "x.safetensors").read_text() == "mine"


@pytest.fixture(scope="module")
def pair(world):
    """Two LoRAs: of other ranks, scales and layers, the second on the denoiser alone."""
    one = world.adapters("lora", 7)
    from adapter_kinds import moved, put

    lora = Lora.model_validate({"type": "lora", "rank": 2, "alpha": 3.0, "targets": "attention"})
    two = {"denoiser": moved(put(world.fresh(), "denoiser", lora, "attention"), by=0.1, seed=8)}
    return [world.write(f"pair{i}", form, a) for i, (form, a) in enumerate((("diffusers", one), ("kohya", two)))]


def test_concatenated_is_the_exact_sum(world, pair, tmp_path) -> None:
    parts = [find_adapter(f"{path}:{weight}") for path, weight in zip(pair, (0.7, -0.5), strict=True)]
    opens = [import_file(part, world.at_hand, world.fresh())[0] for part in parts]
    merged = {"denoiser": concatenate_loras([(p.weight, a["denoiser"]) for p, a in zip(parts, opens, strict=True)]),
              "text_encoder": concatenate_loras([(0.7, opens[0]["text_encoder"])])}
    assert (merged["denoiser"].adapter.rank, merged["text_encoder"].adapter.rank) == (6, 4)
    write_adapter_file(merged, world.at_hand, formats()["kohya"], tmp_path / "c.safetensors", {"format_version": 1},
                       parts)
    model = world.fresh()
    Blend(model).apply(parts)
    assert (predicted(world, tmp_path / "c.safetensors") - PROBE.predict(model)).abs().max() < 1e-4


def test_linear_is_of_the_same_rank_and_says_how_far_it_is_from_the_sum(world, pair) -> None:
    (one, _), (two, _) = (import_file(find_adapter(str(path)), world.at_hand, world.fresh()) for path in pair)
    mixed, off = add_linear([(0.25, one["denoiser"]), (0.75, one["denoiser"])])
    assert mixed.adapter.rank == 4 and off > 0.3
    same, none = add_linear([(1.0, one["denoiser"])])
    assert none < 1e-6 and same.modules == one["denoiser"].modules
    with pytest.raises(UsageError, match=r"found ranks 2, 4.*equal rank"):
        add_linear([(1.0, one["denoiser"]), (1.0, two["denoiser"])])
    dora, _ = import_file(find_adapter(str(world.write("d", "kohya", world.adapters("dora", 9, "denoiser")))),
                          world.at_hand, world.fresh())
    with pytest.raises(UsageError, match="found a DoRA, and only LoRAs can be joined"):
        concatenate_loras([(1.0, dora["denoiser"])])


def test_a_type_that_no_recipe_has_is_named(world, tmp_path) -> None:
    from peft import IA3Config, get_peft_model

    get_peft_model(world.fresh().pipeline.unet, IA3Config(target_modules=["to_q"], feedforward_modules=[])
                   ).save_pretrained(tmp_path / "denoiser")
    with pytest.raises(RecipeError, match="type ia3, which recipes do not support"):
        import_file(find_adapter(str(tmp_path / "denoiser")), world.at_hand, world.fresh())
