"""Is a checkpoint of one file, with the tokenizer of another base, the same base as a folder in diffusers format?"""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from second_base import as_second
from shipped_recipes import OWN_FILE

from dbrun.errors import RecipeError, UsageError
from dbrun.formats.base import formats
from dbrun.models.base import Family, Model, families
from dbrun.models.ldm_layouts import CHECKPOINT
from dbrun.recipe.load import load_recipe
from dbrun.recipe.schema.model import Base
from dbrun.resolve.base import FoundBase, find_base, verified_base_folder
from dbrun.resolve.sources import resolve_sources
from dbrun.resolve.target_layers import _weight_shapes
from dbrun.stages.sources import Artifact
from dbrun.store.store import Store
from dbrun.use.bases import choose_base

KINDS = {"SD 1.x": "sd", "SD 2.x": "sd", "SDXL": "sdxl"}
REPO, COMMIT = "owner/base", "0123456789" * 4


def load(family: Family, folder: Path) -> Model:
    return family.load(folder, device=torch.device("cpu"), dtype=torch.float32)


def without_weights(base: Path, to: Path) -> Path:
    shutil.copytree(base, to, ignore=shutil.ignore_patterns("*.safetensors"))
    return to


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Family, Path, Path]:
    """Family, a tiny base, and its checkpoint of one file, written without any adapter."""
    home, family = tmp_path_factory.mktemp("pair"), families()[KINDS[request.param]]
    family.write_tiny_base(home / "base", prediction="v_prediction" if request.param == "SD 2.x" else "epsilon")
    if request.param == "SD 2.x":
        as_second(home / "base")
    (file,) = formats()["single_file"].write(home, family, {}, lambda: load(family, home / "base"))
    return family, home / "base", file


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny base of SD 1.x, and its checkpoint."""
    home = tmp_path_factory.mktemp("first")
    families()["sd"].write_tiny_base(home / "base")
    save_file(dict(load(families()["sd"], home / "base").single_file_state_dict()), home / "my.safetensors")
    return home / "base", home / "my.safetensors"


def find(file: Path, like: object, store: Path, **keys: object) -> FoundBase:
    return find_base(Base(path=str(file), like=str(like) if like else None, **keys), Path(), Store(store))


def test_a_checkpoint_is_the_base_in_its_folder_to_the_bit(pair: tuple[Family, Path, Path], tmp_path: Path) -> None:
    family, base, file = pair
    found = find(file, without_weights(base, tmp_path / "like"), tmp_path / "store", type=family.NAME).source
    assert found.folder is not None and (found.folder / CHECKPOINT).resolve() == file.resolve()
    ours, theirs = load(family, found.folder), load(family, base)
    for component in family.weight_components:
        own, other = ours.component(component).state_dict(), theirs.component(component).state_dict()
        assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)
        # as read, they lie at the places of their files in memory, by which some processors add up in another order
        for model in (ours, theirs):
            for weight in model.component(component).parameters():
                weight.data = weight.data.clone()
    x_t, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    outputs = []
    for model in (ours, theirs):
        condition = model.collate_conditions(model.encode_prompts(["a photo of sks dog"]))
        with torch.no_grad():
            outputs.append(model.predict(x_t, t, condition))
    assert torch.equal(*outputs)
    assert ours.diffusion_process().prediction == theirs.diffusion_process().prediction
    assert family.native_resolution(found.folder) == family.native_resolution(base)
    files = [path.relative_to(base).as_posix() for path in base.rglob("*.safetensors")]
    for component in family.components:
        assert _weight_shapes(found.folder, family, component, ()) == _weight_shapes(base, family, component, files)


def test_an_export_without_a_change_is_the_checkpoint_itself(pair: tuple[Family, Path, Path], tmp_path: Path) -> None:
    family, base, file = pair
    folder = find(file, base, tmp_path / "store", type=family.NAME).source.folder
    assert folder is not None
    (written,) = formats()["single_file"].write(tmp_path, family, {}, lambda: load(family, folder))
    assert written.read_bytes() == file.read_bytes()
    formats()["single_file"].read(tmp_path, load(family, folder), ("denoiser",))


def test_the_identity_is_the_content_of_file_and_tokenizer(first: tuple[Path, Path], tmp_path: Path) -> None:
    base, file = first
    like, store = without_weights(base, tmp_path / "like"), tmp_path / "store"
    identity = find(file, like, store).source.identity
    moved = shutil.copy(file, tmp_path / "moved.safetensors")
    assert identity.startswith("file:") and find(moved, base, store).source.identity == identity
    assert find(file, like, store, prediction="v_prediction").source.identity != identity
    config = like / "tokenizer" / "tokenizer_config.json"
    config.write_text(config.read_text().replace("77", "78"))
    assert find(file, like, store).source.identity != identity
    save_file({**load_file(file), "v_pred": torch.zeros(0)}, moved)
    folder = find(moved, base, store).source.folder
    assert folder is not None and families()["sd"].scheduler_config(folder)["prediction_type"] == "v_prediction"


@pytest.mark.parametrize(("like", "keys", "told", "fix"), [
    (None, {}, "holds no tokenizer", "write `base.like:` a folder"),
    ("owner/base", {}, "needs its commit behind it", "owner/base@COMMIT"),
    ("nowhere", {}, "neither a folder here", "write `base.like:`"),
    (".", {}, "has no tokenizer/tokenizer_config.json", "write `base.like:`"),
    (f"{REPO}@{COMMIT}", {}, "of another size than the published one", "a folder in diffusers format in `base.like`"),
    ("base", {"type": "sdxl"}, r"is a Stable Diffusion 1\.x checkpoint, and `base.type` is sdxl", "`base.type: sd`")])
def test_what_is_missing_is_said_with_what_to_write(first: tuple[Path, Path], tmp_path: Path, like: str | None,
                                                    keys: dict[str, str], told: str, fix: str) -> None:
    base, file = first
    recipe = Base(path=file.name, like=like, **keys)
    with pytest.raises(RecipeError, match=told) as raised:
        find_base(recipe, base.parent, Store(tmp_path))
    assert raised.value.fix is not None and fix in raised.value.fix


def test_a_pickle_and_a_file_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is a pickle"):
        find(tmp_path / "my.ckpt", None, tmp_path)
    with pytest.raises(RecipeError, match="is not there"):
        find(tmp_path / "my.safetensors", None, tmp_path)


def test_without_a_hint_the_plan_says_how_to_tell(first: tuple[Path, Path], tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    from dbrun.resolve import single_file

    base, file = first
    published = {"epsilon": str(base), "v_prediction": str(base)}
    layout = single_file.Layout(**{**vars(families()["sd"].checkpoint_layouts[0]), "configs": published,
                                   "doubtful": True})
    monkeypatch.setattr(single_file.Layout, "is_published_size", lambda *_: True)
    monkeypatch.setattr(type(families()["sd"]), "checkpoint_layouts", (layout,))
    (note,) = find(file, base, tmp_path).notes
    assert "epsilon is taken" in note and "`base.prediction: v_prediction`" in note
    assert find(file, base, tmp_path, prediction="epsilon").notes == ()


def test_tokenizers_of_the_hub_are_linked_once_they_are_fetched(
        first: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dbrun.resolve import single_file

    base, file = first
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(single_file, "_configs_of", lambda *_: base)
    found = find(file, f"{REPO}@{COMMIT}", tmp_path / "store")
    assert found.source.folder is None and found.unavailable_reason is None and found.source.incomplete is not None
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in (find(file, f"{REPO}@{COMMIT}", tmp_path / "store").unavailable_reason or "")
    # what `load` fetches
    snapshot = tmp_path / "hub" / f"models--{REPO.replace('/', '--')}" / "snapshots" / COMMIT
    shutil.copytree(base / "tokenizer", snapshot / "tokenizer")
    folder = verified_base_folder(found.source, Artifact(tmp_path / "no record", ""), Store(tmp_path / "store"))
    assert families()["sd"].prompt_limits(folder)[0].tokens == 75
    again = find(file, f"{REPO}@{COMMIT}", tmp_path / "store").source
    assert again.folder is not None and again.identity == found.source.identity


def test_a_base_of_a_command_line_gets_the_tokenizer_of_the_adapters_own(first: tuple[Path, Path],
                                                                        tmp_path: Path) -> None:
    base, file = first
    with pytest.raises(UsageError, match="holds no tokenizer") as raised:
        choose_base([], str(file), [], Store(tmp_path))
    assert raised.value.fix is not None and "--like FOLDER" in raised.value.fix
    chosen, _ = choose_base([], str(file), [], Store(tmp_path), like=str(base))
    assert chosen.family.NAME == "sd" and (chosen.folder / CHECKPOINT).exists()
    with pytest.raises(UsageError, match="which is for a base in a checkpoint"):
        choose_base([], str(base), [], Store(tmp_path), like=str(base))


def test_the_shipped_recipe_fits_a_checkpoint_of_sdxl(tmp_path: Path) -> None:
    families()["sdxl"].write_tiny_base(tmp_path / "base")
    tensors = load(families()["sdxl"], tmp_path / "base").single_file_state_dict()
    save_file(dict(tensors), tmp_path / "my.safetensors")
    overrides = [f"base.path={tmp_path / 'my.safetensors'}", f"base.like={tmp_path / 'base'}"]
    sources = resolve_sources(load_recipe(OWN_FILE, overrides), Store(tmp_path / "store")).sources
    assert sources.base.identity.startswith("file:") and sources.base.family == "sdxl"
    recipe = load_recipe(OWN_FILE).recipe
    assert recipe.base.like is not None and recipe.base.like.endswith("462165984030d82259a11f4367a4eed129e94a7b")
