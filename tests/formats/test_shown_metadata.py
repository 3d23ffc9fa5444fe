"""Do programs that list adapters find name, base, trigger and digests in our files?"""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from dbrun.formats.adapter_header import network_entries, read_adapter_header
from dbrun.formats.kohya import FILE
from dbrun.formats.recipe_facts import tag_counts, trigger_phrases
from dbrun.formats.run_name import NAME_PLACEHOLDER, delivered_names, write_run_name
from dbrun.formats.shown_metadata import ROOM_FOR_NAME, inherited_metadata, set_name, shown_metadata
from dbrun.formats.stamp import write_provenance
from dbrun.models.base import families
from dbrun.models.file_names import PublishedNames
from dbrun.safetensors_header import read_header

SD1 = PublishedNames("stable-diffusion-v1", "sd_v1", False, "epsilon")
PICTURES = [{"digest": "1", "prompt": "a photo of sks dog"},
            {"digest": "2", "prompt": "sks dog, on grass", "repeats": 2}]
RECIPE = {"base": {"type": "sd", "identity": f"hub:runwayml/sd15@{'a' * 40}", "variant": None}, "seed": 3,
          "subject": {"instance_prompt": "a photo of sks dog", "class_prompt": "a photo of a dog",
                      "pictures": PICTURES},
          "adapt": {"denoiser": {"type": "lora", "rank": 2, "alpha": 1.0}, "text_encoder": None},
          "train": {"steps": 300, "learning_rate": 1e-4, "batch_size": 1, "optimizer": {"type": "adamw"},
                    "schedule": {"type": "constant"}, "precision": "fp32"},
          "images": {"resolution": 512}, "prior": {"count": 40}}
DOCUMENT = {"recipe": RECIPE, "licence": "CreativeML-OpenRAIL-M"}
LORA = {"lora_unet_a.lora_down.weight": torch.ones(2, 3), "lora_unet_a.lora_up.weight": torch.ones(3, 2),
        "lora_unet_a.alpha": torch.tensor(1.0)}


def stamped(path, tensors=LORA, document=DOCUMENT, names=SD1):
    save_file(tensors, path, metadata={"format": "pt"})
    write_provenance(path, document, shown_metadata(path, document, names, "/lora"), ROOM_FOR_NAME)
    set_name(path, "my_dog")
    return read_header(path).metadata


def test_programs_find_name_base_trigger_and_training(tmp_path) -> None:
    known = stamped(tmp_path / "a.safetensors")
    assert {key: known[key] for key in known if key in (
        "ss_output_name", "ss_sd_model_name", "ss_v2", "ss_base_model_version", "ss_network_module", "ss_network_dim",
        "ss_network_alpha", "ss_num_train_images", "ss_num_reg_images", "modelspec.title", "modelspec.architecture",
        "modelspec.trigger_phrase", "modelspec.license")} == {
        "ss_output_name": "my_dog", "ss_sd_model_name": "runwayml/sd15", "ss_v2": "False",
        "ss_base_model_version": "sd_v1", "ss_network_module": "networks.lora", "ss_network_dim": "2",
        "ss_network_alpha": "1", "ss_num_train_images": "3", "ss_num_reg_images": "40", "modelspec.title": "my_dog",
        "modelspec.architecture": "stable-diffusion-v1/lora", "modelspec.trigger_phrase": "sks dog",
        "modelspec.license": "CreativeML-OpenRAIL-M"}
    # as A1111 parses them: texts that are JSON objects
    assert json.loads(known["ss_tag_frequency"]) == {"1_sks dog": {"sks dog": 2, "on grass": 1}}
    assert json.loads(known["ss_dataset_dirs"])["1_sks dog"]["img_count"] == 2


def test_a_chosen_candidate_tells_its_own_steps(tmp_path) -> None:
    document = {**DOCUMENT, "selected": {"by": "subject", "keep": "best", "step": 200}}
    known = stamped(tmp_path / "a.safetensors", document=document)
    assert known["ss_steps"] == "200" and known["ss_max_train_steps"] == "300"
    assert "; 200 of 300 steps at 512 pixels" in known["modelspec.description"]
    assert stamped(tmp_path / "b.safetensors")["ss_steps"] == "300"


@pytest.mark.parametrize("side", [3, 600])
def test_the_digests_are_those_of_kohyas_trainers(tmp_path, side) -> None:
    tensors = {f"lora_unet_{name}.lora_down.weight": torch.rand(side, side) for name in "ab"}
    path = tmp_path / "a.safetensors"
    known = stamped(path, tensors)
    # sd-scripts, library/train_util.py, precalculate_safetensors_hashes: the file as saved with `ss_` entries alone
    alone = save(load_file(path), {key: value for key, value in known.items() if key.startswith("ss_")})
    data = alone[8 + int.from_bytes(alone[:8], "little"):]
    assert known["sshs_model_hash"] == hashlib.sha256(data).hexdigest()
    assert known["modelspec.hash_sha256"] == "0x" + known["sshs_model_hash"]
    assert known["sshs_legacy_hash"] == hashlib.sha256(alone[0x100000:0x110000]).hexdigest()[:8]


def test_a_name_changes_no_other_byte_and_equal_names_give_equal_bytes(tmp_path) -> None:
    for name in ("a", "b"):
        stamped(tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    set_name(tmp_path / "b.safetensors", "n" * 64)
    a, b = (read_header(tmp_path / f"{name}.safetensors") for name in "ab")
    assert (a.tensors, a.data_start) == (b.tensors, b.data_start), "there was room"
    changed = {key for key in a.metadata if a.metadata[key] != b.metadata[key]}
    assert changed == {"ss_output_name", "modelspec.title"}
    save_file(LORA, tmp_path / "plain.safetensors")
    assert not set_name(tmp_path / "plain.safetensors", "x")
    assert not read_header(tmp_path / "plain.safetensors").metadata


@pytest.mark.parametrize(("name", "config", "wanted"), [
    ("sd", {}, ("stable-diffusion-v1", "sd_v1", False)),
    ("sd", {"use_linear_projection": True}, ("stable-diffusion-v2-512", "sd_v2", True)),
    ("sdxl", {}, ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0", False))])
def test_the_version_of_a_base_is_that_of_its_layers(tmp_path, name, config, wanted) -> None:
    for folder, settings in (("unet", config), ("scheduler", {"prediction_type": "epsilon"})):
        (tmp_path / folder).mkdir()
        file = "scheduler_config.json" if folder == "scheduler" else "config.json"
        (tmp_path / folder / file).write_text(json.dumps(settings))
    names = families()[name].published_names(tmp_path)
    assert names is not None and names[:3] == wanted
    assert families()["if_stage1"].published_names(tmp_path) is None, "no other program has a name for it"


def test_the_file_itself_says_type_and_rank(tmp_path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({**LORA, "lora_unet_a.dora_scale": torch.ones(3, 1)}, path)
    assert network_entries(path)["ss_network_args"] == '{"algo": "lora", "dora_wd": "True"}'
    save_file({**LORA, "lora_unet_b.lora_down.weight": torch.ones(4, 3)}, path)
    assert network_entries(path)["ss_network_dim"] == "Dynamic" and len(read_adapter_header(path).layers) == 2
    save_file({"lora_unet_a.lokr_w1": torch.ones(2, 2), "lora_unet_a.lokr_w2": torch.ones(2, 2),
               "lora_unet_a.alpha": torch.tensor(8.0, dtype=torch.bfloat16)}, path)
    assert network_entries(path) == {"ss_network_dim": "8", "ss_network_alpha": "8",
                                     "ss_network_module": "lycoris.kohya", "ss_network_args": '{"algo": "lokr"}'}
    save_file({"a.oft_R.weight": torch.ones(2, 2)}, path)
    assert network_entries(path) == {}


@pytest.mark.parametrize(("instance", "of_class", "phrase"), [
    ("a photo of sks dog", "a photo of a dog", "sks dog"), ("a photo of sks dog", None, "sks dog"),
    ("zwx, a drawing", "a drawing", "zwx"), ("a photo of sks dog on a beach", "a photo of a dog", "sks dog"),
    (None, None, None)])
def test_a_trigger_is_told_with_its_class(instance, of_class, phrase) -> None:
    recipe = {"subject": {"instance_prompt": instance, "class_prompt": of_class}, "adapt": {}}
    assert trigger_phrases(recipe) == ((phrase,) if phrase else ())
    assert tag_counts({"subject": {"pictures": [{"prompt": "x, y"}]}, "adapt": {}}) == {"x": 1, "y": 1}


def test_another_programs_training_is_kept_and_its_file_is_not(tmp_path) -> None:
    theirs = {"ss_tag_frequency": "{}", "ss_network_dim": "8", "sshs_model_hash": "1", "modelspec.author": "me",
              "x": "y"}
    assert inherited_metadata(theirs) == {"ss_tag_frequency": "{}", "modelspec.author": "me"}


def test_the_kohya_file_has_the_runs_name_unless_it_is_taken(tmp_path) -> None:
    assert delivered_names([FILE, "loss.png"], "dog") == {FILE: "dog.safetensors", "loss.png": "loss.png"}
    other = "pytorch_lora_weights.safetensors"
    assert delivered_names([FILE, other], "PyTorch_lora_weights")[FILE] == FILE
    assert delivered_names([other], "dog") == {other: other}
    card = tmp_path / "README.md"
    card.write_text(f"# {NAME_PLACEHOLDER}\n`{FILE}`")
    assert write_run_name(card, "dog", {FILE: "dog.safetensors"})
    assert card.read_text() == "# dog\n`dog.safetensors`"
