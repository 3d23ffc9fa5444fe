"""Does `load` take the right files, refuse what is no base, and say the same of the same bytes?"""

import json
import shutil
from pathlib import Path

import pytest

from dbrun.errors import Interrupted, RecipeError, StageFailed
from dbrun.models.base import families
from dbrun.stages.base import RuntimeOptions, StageContext
from dbrun.stages.load import Load, LoadParams, check_layout, read_base_record, select_files
from dbrun.stages.sources import Numerics
from dbrun.stages.support import download

FOLDERS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
PUBLISHED = (
    "README.md", "model_index.json", "v1-5-pruned.ckpt", "v1-5-pruned.safetensors", "safety_checker/model.safetensors",
    "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/evil.py",
    "text_encoder/config.json", "text_encoder/model.safetensors", "text_encoder/model.fp16.safetensors",
    "text_encoder/pytorch_model.bin", "tokenizer/spiece.model", "tokenizer/chat_template.jinja", "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.bin", "unet/deep/config.json", "vae/config.json",
    "vae/diffusion_pytorch_model-00001-of-00002.safetensors", "vae/diffusion_pytorch_model-00002-of-00002.safetensors",
    "vae/diffusion_pytorch_model.safetensors.index.json")
TEXT = {"model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt",
        "tokenizer/spiece.model", "tokenizer/chat_template.jinja",
        "text_encoder/config.json", "unet/config.json", "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors.index.json"}
SHARDS = {n for n in PUBLISHED if "-of-" in n}


@pytest.mark.parametrize(("variant", "weights"), [
    (None, {"text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors"}),
    ("fp16", {"text_encoder/model.fp16.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"}),
    ("non_ema", {"text_encoder/model.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors"}),
])
def test_only_what_is_read_is_taken(variant, weights) -> None:
    """No pickle, no code, no checkpoint at the top, no folder that is not asked for, one set of weights each."""
    assert set(select_files(PUBLISHED, FOLDERS, variant)) == TEXT | SHARDS | weights


def test_names_that_lead_elsewhere_are_not_taken() -> None:
    assert select_files(("unet/../evil.json", "../unet/config.json", "/unet/config.json"), FOLDERS, None) == ()


def run_load(folder: Path | None, out: Path, identity: str = "files:0", variant: str | None = None) -> dict[str, bytes]:
    out.mkdir()
    Load().run(StageContext("load", LoadParams(identity, "sd", variant), Numerics("cpu", 1), {}, out, out, {}, folder,
                            None, RuntimeOptions(1, 1), lambda event: None, lambda: 0))
    return {path.name: path.read_bytes() for path in out.iterdir()}


def unreachable(*args: object, **options: object) -> Path:
    raise StageFailed("no network")


def test_equal_bytes_are_equal_artifacts_whatever_their_place_and_name(tiny_base, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(download, "download", unreachable)
    shutil.copytree(tiny_base, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "README.md").write_text("words")
    one = run_load(tiny_base, tmp_path / "a", "files:1")
    other = run_load(tmp_path / "elsewhere", tmp_path / "b", "hub:owner/name@" + "0" * 40)
    assert one == other and str(tiny_base).encode() not in one["base.json"]


def test_one_changed_byte_is_another_artifact(tiny_base, tmp_path) -> None:
    shutil.copytree(tiny_base, tmp_path / "base")
    weights = tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert run_load(tiny_base, tmp_path / "a") != run_load(tmp_path / "base", tmp_path / "b")


def test_the_record_gives_back_family_and_variant(bench, content, recipe) -> None:
    record = read_base_record(bench.run("load", recipe()))
    assert record.family.NAME == "sd" and record.variant is None
    assert set(record.files) == set(select_files(content(bench.base), record.family.subfolders, None))


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda b: (b / "model_index.json").unlink(), "model_index.json"),
    (lambda b: (b / "model_index.json").write_text("{"), "names no pipeline"),
    (lambda b: (b / "model_index.json").write_text('{"_class_name": {"a": 1}}'), "names no pipeline"),
    (lambda b: (b / "model_index.json").write_text('{"_class_name": "FluxPipeline"}'), "FluxPipeline"),
    (lambda b: shutil.rmtree(b / "vae"), "lacks the folder vae/"),
    (lambda b: (b / "unet" / "diffusion_pytorch_model.safetensors").rename(b / "unet" / "m.bin"), "holds m.bin"),
    (lambda b: _cut(b / "unet" / "diffusion_pytorch_model.safetensors"), "not a complete safetensors file"),
    (lambda b: (b / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"junk"), "not a complete"),
])
def test_what_is_no_base_is_refused_with_the_reason(tiny_base, tmp_path, spoil, said) -> None:
    shutil.copytree(tiny_base, tmp_path / "base")
    spoil(tmp_path / "base")
    with pytest.raises(RecipeError) as caught:
        run_load(tmp_path / "base", tmp_path / "out")
    assert said in caught.value.message and caught.value.fix


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def test_the_right_family_is_named(tiny_base, monkeypatch, content) -> None:
    import dbrun.stages.load as load

    class Other(type(families()["sd"])):
        pipeline_classes = ("OtherPipeline",)
    names = list(content(tiny_base))
    monkeypatch.setattr(load, "families", lambda: {"sd": families()["sd"]})
    with pytest.raises(RecipeError) as caught:
        check_layout(tiny_base, Other(), select_files(names, FOLDERS, None), names)
    assert caught.value.fix == "write `base.type: sd`"


class Fetched:
    """Stands for the Hub: serves a folder, remembers what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []

    def list_repo_tree(self, repo: str, *, recursive: bool, revision: str) -> list:
        from huggingface_hub.hf_api import RepoFile, RepoFolder

        assert recursive
        own = {p.relative_to(self.folder).as_posix(): p.stat().st_size for p in self.folder.rglob("*") if p.is_file()}
        files = [RepoFile(path=name, size=size, oid=f"git-{name.replace('/', '-')}",
                          lfs={"size": size, "oid": f"sha-{name.replace('/', '-')}", "pointerSize": 100}
                          if name.endswith(".safetensors") else None)
                 for name, size in {**own, "pytorch_model.bin": 2**60, "unet/evil.py": 2**60}.items()]
        return [RepoFolder(path="unet", oid="0"), *files]

    def hf_hub_download(self, repo: str, name: str, revision: str) -> str:
        self.asked.append((repo, revision, name))
        return str(self.folder / name)


def test_a_hub_base_is_fetched_at_its_commit_and_only_what_is_read(tiny_base, tmp_path, monkeypatch) -> None:
    import huggingface_hub

    served = Fetched(tiny_base)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: served)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", served.hf_hub_download)
    monkeypatch.setattr(download, "fetch_large_file", lambda *_: None)
    commit = "a" * 40
    assert run_load(None, tmp_path / "out", f"hub:owner/name@{commit}") == run_load(tiny_base, tmp_path / "own")
    assert {(repo, revision) for repo, revision, _ in served.asked} == {("owner/name", commit)}
    names = [name for *_, name in served.asked]
    assert not [n for n in names if n.endswith((".bin", ".py"))] and "model_index.json" in names


def test_a_hub_base_of_another_process_is_refused_before_its_weights(tiny_base, tmp_path, monkeypatch) -> None:
    import huggingface_hub

    shutil.copytree(tiny_base, tmp_path / "base")
    (tmp_path / "base/scheduler/scheduler_config.json").write_text('{"_class_name": "FlowMatchEulerDiscreteScheduler"}')
    served = Fetched(tmp_path / "base")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: served)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", served.hf_hub_download)
    monkeypatch.setattr(download, "fetch_large_file", lambda *_: None)
    with pytest.raises(RecipeError, match="FlowMatchEulerDiscreteScheduler"):
        run_load(None, tmp_path / "out", "hub:owner/name@" + "a" * 40)
    names = [name for *_, name in served.asked]
    assert "scheduler/scheduler_config.json" in names and not [n for n in names if n.endswith(".safetensors")]


def test_a_modular_pipeline_of_the_hub_is_refused_before_any_file(tmp_path, monkeypatch) -> None:
    import huggingface_hub

    (tmp_path / "modular_model_index.json").write_text("{}")
    served = Fetched(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: served)
    with pytest.raises(RecipeError, match="owner/name is a modular pipeline") as caught:
        run_load(None, tmp_path / "out", "hub:owner/name@" + "a" * 40)
    assert "FLUX.1-dev" in (caught.value.fix or "") and served.asked == []


def test_a_download_can_be_stopped_in_the_middle_of_a_file(tiny_base, monkeypatch) -> None:
    import threading
    import time

    import huggingface_hub

    served, ticks, free = Fetched(tiny_base), [], threading.Event()

    def poll() -> None:
        ticks.append(1)
        if len(ticks) == 3:
            raise Interrupted(15)

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: served)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: free.wait(60))
    began = time.monotonic()
    with pytest.raises(Interrupted):
        download.download("owner/name", "a" * 40, lambda names: select_files(names, FOLDERS, None), lambda *_: None,
                     poll=poll)
    assert time.monotonic() - began < 30
    free.set()


def test_a_repository_without_a_base_is_refused(monkeypatch, tmp_path) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Fetched(tmp_path))
    with pytest.raises(RecipeError, match="no base in diffusers format"):
        download.download("owner/name", "a" * 40, lambda names: select_files(names, FOLDERS, None), lambda *_: None)


def test_a_download_that_cannot_fit_does_not_start(tiny_base, monkeypatch, tmp_path) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    from dbrun import disk_space

    served, commit = Fetched(tiny_base), "a" * 40
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: served)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", served.hf_hub_download)
    monkeypatch.setattr(download, "fetch_large_file", lambda *_: None)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "not" / "made" / "hub"))
    names = select_files([f.path for f in served.list_repo_tree("", recursive=True, revision="")[1:]], FOLDERS, None)
    need = sum((tiny_base / name).stat().st_size for name in names)
    monkeypatch.setattr(disk_space, "free_bytes", lambda folder: need - 1)
    with pytest.raises(StageFailed, match=r"the download of owner/name needs up to .* in the Hub's cache") as caught:
        run_load(None, tmp_path / "out", f"hub:owner/name@{commit}")
    assert served.asked == [] and "HF_HUB_CACHE" in caught.value.fix
    # what an earlier download, of this or of another commit, brought is not counted again
    blobs = tmp_path / "not" / "made" / "hub" / "models--owner--name" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "git-model_index.json").touch()
    run_load(None, tmp_path / "some", f"hub:owner/name@{commit}")
    (blobs / "git-model_index.json").rename(blobs / "sha-unet-diffusion_pytorch_model.safetensors")
    run_load(None, tmp_path / "more", f"hub:owner/name@{commit}")
    assert len(served.asked) == 2 * len(names)


def test_without_a_network_what_was_fetched_before_serves(tiny_base, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(download, "download", unreachable)
    identity = f"hub:owner/name@{'a' * 40}"
    assert json.loads(run_load(tiny_base, tmp_path / "out", identity)["base.json"])["family"] == "sd"
    with pytest.raises(StageFailed, match="no network"):
        run_load(None, tmp_path / "none", identity)


def test_a_commit_is_itself_and_a_branch_is_asked_for(monkeypatch) -> None:
    import huggingface_hub

    class Api:
        def model_info(self, repo: str, revision: str | None, timeout: float) -> object:
            return type("Info", (), {"sha": "b" * 40})
    assert download.resolve_commit("owner/name", "c" * 40) == "c" * 40
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert download.resolve_commit("owner/name", "main") == download.resolve_commit("owner/name", None) == "b" * 40


@pytest.mark.parametrize(("error", "kind", "said"), [
    ("RepositoryNotFoundError", RecipeError, "base.path"), ("RevisionNotFoundError", RecipeError, "base.revision"),
    ("OfflineModeIsEnabled", StageFailed, "network")])
def test_the_hubs_errors_become_clear_words(monkeypatch, error, kind, said) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    class Api:
        def model_info(self, repo: str, revision: str | None, timeout: float) -> object:
            raised = getattr(errors, error)
            raise raised.__new__(raised)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    with pytest.raises(kind) as caught:
        download.resolve_commit("owner/name", "main")
    assert said in str(caught.value)


@pytest.mark.parametrize("home", ["evil", "os", "diffusers.pipelines.evil"])
def test_a_base_that_would_run_other_code_is_refused_before_it_is_loaded(tiny_base, tmp_path, home) -> None:
    shutil.copytree(tiny_base, tmp_path / "base")
    index = json.loads((tmp_path / "base" / "model_index.json").read_text())
    index["unet"] = [home, "Evil"]
    (tmp_path / "base" / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "base" / "unet" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    with pytest.raises(RecipeError, match="dbrun runs only code of diffusers and transformers"):
        run_load(tmp_path / "base", tmp_path / "out")
    assert not (tmp_path / "ran").exists()
