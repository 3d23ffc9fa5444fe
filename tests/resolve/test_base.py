"""A base is known by its contents or its commit, wherever it lies; what is no base is told."""

import json
import shutil

import pytest
from fake_base import fake_base, fake_cache

from dbrun.errors import DbrunError, RecipeError, StageFailed
from dbrun.models.base import Sampling
from dbrun.recipe.schema.model import Base
from dbrun.resolve.base import find_base, parse_hub_identity, verified_base_folder
from dbrun.stages.sources import Artifact
from dbrun.store.store import Store

COMMIT = "c" * 40


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty Hub cache, with the network allowed."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    return tmp_path / "hub"


def find(tmp_path, store, path="base", **more):
    return find_base(Base(path=path, **more), tmp_path, store)


def test_a_folder_is_known_by_its_contents(tmp_path, store):
    fake_base(tmp_path / "base")
    found = find(tmp_path, store).source
    assert found.identity.startswith("files:") and found.folder == tmp_path / "base"
    assert set(found.files) >= {"model_index.json", "unet/config.json", "tokenizer/merges.txt"}
    (tmp_path / "base").rename(tmp_path / "moved")
    assert find(tmp_path, store, "moved").source.identity == found.identity
    assert find(tmp_path, store, str(tmp_path / "moved")).source.identity == found.identity
    (tmp_path / "moved" / "vae" / "diffusion_pytorch_model.safetensors").write_text("other")
    assert find(tmp_path, store, "moved").source.identity != found.identity


def test_what_is_not_read_changes_nothing(tmp_path, store):
    fake_base(tmp_path / "base")
    before = find(tmp_path, store).source.identity
    for name in ("README.md", "picture.png", "unet/diffusion_pytorch_model.bin", "safety_checker/model.safetensors",
                 "unet/diffusion_pytorch_model.fp16.safetensors"):
        (tmp_path / "base" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "base" / name).write_text("x")
    assert find(tmp_path, store).source.identity == before
    assert find(tmp_path, store, variant="fp16").source.identity != before


def test_a_chat_template_is_a_part_of_the_base(tmp_path, store):
    """It decides what a text encoder reads of a prompt."""
    template = fake_base(tmp_path / "base") / "tokenizer" / "chat_template.jinja"
    seen = {find(tmp_path, store).source.identity}
    for text in ("{{ messages }}", "{{ messages[0] }}"):
        template.write_text(text)
        found = find(tmp_path, store).source
        assert "tokenizer/chat_template.jinja" in found.files
        seen.add(found.identity)
    assert len(seen) == 3


def test_a_modular_pipeline_is_refused_as_what_it_is(tmp_path, store, cache):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "modular_model_index.json").write_text("{}")
    with pytest.raises(RecipeError, match=r"is a modular pipeline .*such as FLUX\.3 and Anima, which dbrun does not"):
        find(tmp_path, store)


@pytest.mark.parametrize(("harm", "said"), [
    (lambda b: (b / "model_index.json").write_text('{"_class_name": "FluxPipeline"}'), "FluxPipeline"),
    (lambda b: (b / "model_index.json").write_text("[]"), "names no pipeline"),
    (lambda b: (b / "model_index.json").unlink(), "no model_index.json"),
    (lambda b: (b / "unet" / "diffusion_pytorch_model.safetensors").rename(b / "unet" / "x.bin"), "safetensors"),
    (lambda b: [p.unlink() for p in (b / "vae").iterdir()], "vae"),
])
def test_what_is_no_base_is_told(tmp_path, store, harm, said):
    harm(fake_base(tmp_path / "base"))
    with pytest.raises(RecipeError, match=said) as caught:
        find(tmp_path, store)
    assert caught.value.fix


def test_neither_a_folder_nor_a_hub_id(tmp_path, store):
    with pytest.raises(RecipeError, match="neither a folder here"):
        find(tmp_path, store, "./nowhere")


def test_a_link_out_of_the_base_is_refused(tmp_path, store):
    base = fake_base(tmp_path / "base")
    (tmp_path / "elsewhere.safetensors").write_text("x")
    (base / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (base / "vae" / "diffusion_pytorch_model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(RecipeError, match="leads out of the base"):
        find(tmp_path, store)


def test_a_snapshot_of_the_hub_may_be_named_as_a_folder(tmp_path, store, cache):
    folder = fake_cache(cache, COMMIT)
    assert find(tmp_path, store, str(folder)).source.identity.startswith("files:")
    (folder / "vae" / "config.json").unlink()
    (folder / "vae" / "config.json").symlink_to("/etc/hostname")
    with pytest.raises(RecipeError, match="leads out of the base"):
        find(tmp_path, store, str(folder))


def test_sampling_comes_from_the_family_or_from_the_bases_manifest(tmp_path, store):
    base = fake_base(tmp_path / "base")
    usual = find(tmp_path, store).source.sampling
    (base / "manifest.json").write_text(json.dumps({"sampling": {"steps": 10, "guidance": 4}}))
    assert find(tmp_path, store).source.sampling == Sampling(10, 4.0)
    for damaged in ("{}", '{"sampling": {"steps": Infinity, "guidance": 4}}'):
        (base / "manifest.json").write_text(damaged)
        assert find(tmp_path, store).source.sampling == usual


def test_a_hub_base_at_a_commit(tmp_path, store, cache):
    found = find(tmp_path, store, "owner/name", revision=COMMIT)
    assert found.source.identity == f"hub:owner/name@{COMMIT}"
    assert found.source.folder is None and found.unpinned_revision is None
    assert found.source.files == {} and found.unavailable_reason is None
    folder = fake_cache(cache, COMMIT)
    again = find(tmp_path, store, "owner/name", revision=COMMIT)
    assert again.source.identity == found.source.identity, "fetching changes no key"
    assert again.source.folder == folder and again.source.files == {}


def test_a_hub_base_at_a_branch(tmp_path, store, cache):
    assert find(tmp_path, store, "owner/name").unpinned_revision == "main"
    store.commits.put("owner/name@main", "d" * 40)
    assert find(tmp_path, store, "owner/name").source.identity == "hub:owner/name@" + "d" * 40
    fake_cache(cache, COMMIT, {"main": COMMIT})
    found = find(tmp_path, store, "owner/name")
    assert found.unpinned_revision is None and found.source.identity.endswith(COMMIT)
    shutil.rmtree(cache)
    cleared = find(tmp_path, store, "owner/name")
    assert cleared.source.identity == found.source.identity and cleared.source.folder is None


def test_without_the_network_a_base_is_out_of_reach_unless_it_is_here(tmp_path, store, cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = find(tmp_path, store, "owner/name", revision=COMMIT)
    assert "HF_HUB_OFFLINE" in found.unavailable_reason
    fake_cache(cache, COMMIT)
    assert find(tmp_path, store, "owner/name", revision=COMMIT).unavailable_reason is None


def test_a_folder_that_looks_like_a_hub_id(tmp_path, store):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    taken = find(tmp_path, store, "owner/name", revision=COMMIT)
    assert taken.source.identity.startswith("hub:") and "taken as a Hub id" in taken.notes[0]
    (tmp_path / "owner" / "name").rmdir()
    fake_base(tmp_path / "owner" / "name")
    assert find(tmp_path, store, "owner/name").source.identity.startswith("files:")
    assert find(tmp_path, store, "owner/name", revision=COMMIT).source.identity.startswith("hub:")


def test_an_unreadable_base_is_a_clear_error(tmp_path, store, monkeypatch):
    fake_base(tmp_path / "base")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(store.digests, "sha256", refuse)
    with pytest.raises(DbrunError, match="permission denied"):
        find(tmp_path, store)


def test_identities_are_taken_apart():
    assert parse_hub_identity(f"hub:a/b@{COMMIT}") == ("a/b", COMMIT)
    assert parse_hub_identity("files:" + "a" * 64) is None


def loaded(tmp_path, files):
    (tmp_path / "load").mkdir(exist_ok=True)
    (tmp_path / "load" / "base.json").write_text(json.dumps({"files": files}))
    return Artifact(tmp_path / "load", "0" * 64)


def test_the_base_is_handed_on_only_as_load_saw_it(tmp_path, store):
    fake_base(tmp_path / "base")
    source = find(tmp_path, store).source
    artifact = loaded(tmp_path, dict(source.files))
    assert verified_base_folder(source, artifact, store) == tmp_path / "base"
    weights = tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_text("other")
    with pytest.raises(StageFailed, match="unet/diffusion_pytorch_model"):
        verified_base_folder(source, artifact, store)
    weights.unlink()
    with pytest.raises(StageFailed, match="differs"):
        verified_base_folder(source, artifact, store)


def test_load_and_the_plan_must_have_seen_the_same(tmp_path, store):
    fake_base(tmp_path / "base")
    source = find(tmp_path, store).source
    with pytest.raises(StageFailed, match="differs"):
        verified_base_folder(source, loaded(tmp_path, {**source.files, "vae/config.json": "0" * 64}), store)


def test_a_fetched_base_is_found_in_the_cache(tmp_path, store, cache):
    source = find(tmp_path, store, "owner/name", revision=COMMIT).source
    with pytest.raises(StageFailed, match="is not in"):
        verified_base_folder(source, loaded(tmp_path, {}), store)
    folder = fake_cache(cache, COMMIT)
    digest = store.digests.sha256(folder / "vae" / "config.json")
    artifact = loaded(tmp_path, {"vae/config.json": digest})
    assert verified_base_folder(source, artifact, store) == folder
    (folder / "vae" / "config.json").resolve().write_text("{}")
    with pytest.raises(StageFailed) as caught:
        verified_base_folder(source, artifact, store)
    assert "models--owner--name" in caught.value.fix


@pytest.mark.parametrize("lost", ["vae/config.json", "unet/diffusion_pytorch_model.safetensors", "tokenizer"])
def test_a_download_that_was_cut_off_is_not_taken_for_the_base(tmp_path, store, cache, lost):
    snapshot = fake_cache(cache, COMMIT)
    gone = snapshot / lost
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    found = find(tmp_path, store, "owner/name", revision=COMMIT)
    assert found.source.folder is None and found.source.identity == f"hub:owner/name@{COMMIT}"


def test_a_path_that_the_system_cannot_look_up_is_told(tmp_path, store):
    with pytest.raises(RecipeError, match="cannot look up"):
        find(tmp_path, store, "x" * 300)
