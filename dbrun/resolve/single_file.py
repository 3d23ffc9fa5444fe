"""A checkpoint of one file as a base: what it is, and a folder that shows it in diffusers format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from dbrun.diffusion.prediction import PredictionType
from dbrun.errors import RecipeError
from dbrun.models.base import Family, families
from dbrun.models.configs import read_config
from dbrun.models.ldm_layouts import (
    CHECKPOINT,
    PUBLISHED,
    Hints,
    Layout,
    read_checkpoint,
    read_hints,
    recognise,
    scheduler_config,
)
from dbrun.naming import CHECKPOINT_SUFFIXES, COMMIT, HUB_ID
from dbrun.recipe.schema.model import Base
from dbrun.resolve import hub
from dbrun.stages.sources import BaseSource
from dbrun.stages.support.tokenizer_links import link_tokenizers, tokenizer_files
from dbrun.store.canonical import digest, to_json_value
from dbrun.store.store import Store


@dataclass(frozen=True)
class SingleFileBase:
    """Base in a checkpoint of one file. notes: texts for people; unavailable_reason: as in `FoundBase`."""

    source: BaseSource
    notes: tuple[str, ...]
    unavailable_reason: str | None


@dataclass(frozen=True)
class Like:
    """Where the tokenizers are. folder: None while they are not downloaded; repo, commit: on the Hub, else None."""

    folder: Path | None
    repo: str | None = None
    commit: str | None = None


def is_checkpoint_path(path: Path) -> bool:
    """Whether a path names a checkpoint of one file, and no folder."""
    return path.name.lower().endswith(CHECKPOINT_SUFFIXES) and not path.is_dir()


def checkpoint_family(file: Path) -> str:
    """Family of the base in a checkpoint. Raises RecipeError where the file holds none."""
    return _recognised(file)[0]


def find_single_file(base: Base, file: Path, relative_to: Path, store: Store) -> SingleFileBase:
    """Find the base in a checkpoint of one file. relative_to: folder that a relative `base.like` starts from.

    Raises RecipeError for another kind of file than `base.type`, and without the tokenizers or configs it needs.
    """
    family_name, layout = _recognised(file)
    if family_name != base.type:
        raise RecipeError(f"{file} is a {layout.title} checkpoint, and `base.type` is {base.type}",
                          fix=f"write `base.type: {family_name}`")
    family = families()[family_name]
    header, shapes = read_checkpoint(file)
    like = find_like(base, file, relative_to, family)
    if layout.is_published_size(shapes):
        hints = read_hints(header)
        prediction, notes = _choose_prediction(base, hints, layout)
        configs = PUBLISHED / layout.configs[prediction]
        scheduler = scheduler_config(configs, prediction, hints.zero_snr)
    else:
        configs, notes, hints = _configs_of(like, file, layout, family), [], read_hints(header)
        own: PredictionType = read_config(configs / "scheduler" / "scheduler_config.json").get(
            "prediction_type", "epsilon")
        scheduler = scheduler_config(configs, base.prediction or hints.prediction or own, hints.zero_snr)
    texts = dict(_config_texts(configs, family))
    texts["scheduler/scheduler_config.json"] = _as_text(scheduler)
    files = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    files[CHECKPOINT] = store.digests.sha256(file)
    identity = ""
    if like.repo is not None:
        identity = f"+hub:{like.repo}@{like.commit}"
    elif like.folder is not None:
        files |= {name: store.digests.sha256(like.folder / name) for name in tokenizer_files(like.folder, family)}
    folder = Path(_lay_out(tuple(sorted(texts.items())), file.resolve(), digest(to_json_value(files))).name)
    if like.folder is not None:
        link_tokenizers(folder, like.folder, family)
    unavailable_reason = None
    if like.folder is None and hub.is_offline():
        unavailable_reason = (f"the tokenizer of {like.repo} at {like.commit} is not in {hub.cache_folder()}, and "
                              "HF_HUB_OFFLINE is set")
    source = BaseSource(identity=f"file:{digest(to_json_value(files))}{identity}", family=family_name,
                        folder=None if like.folder is None else folder, variant=None, files=files,
                        sampling=family.default_sampling, incomplete=folder)
    return SingleFileBase(source, tuple(notes), unavailable_reason)


def find_like(base: Base, file: Path, relative_to: Path, family: Family) -> Like:
    """The folder or Hub repository that `base.like` names. Raises RecipeError without one that has the tokenizers."""
    advice = ("write `base.like:` a folder in diffusers format, or OWNER/NAME@COMMIT of a base on the Hub of the same "
              "kind, of which only the tokenizer is fetched")
    if base.like is None:
        raise RecipeError(f"{file} holds no tokenizer: a checkpoint of one file never does", fix=advice)
    # imported here: the embedded base is a small package of its own
    from dbrun.embedded import weights_path

    folder = weights_path() if base.like == "embedded" else relative_to / Path(base.like).expanduser()
    if folder.is_dir():
        for name in family.tokenizers:
            if not (folder / name / "tokenizer_config.json").is_file():
                raise RecipeError(f"`base.like` names {folder}, which has no {name}/tokenizer_config.json", fix=advice)
        return Like(folder)
    repo, _, commit = base.like.partition("@")
    if not HUB_ID.fullmatch(repo):
        raise RecipeError(f"found {base.like!r} as `base.like`, which is neither a folder here ({folder}) nor a Hub id",
                          fix=advice)
    if not COMMIT.fullmatch(commit):
        raise RecipeError(f"found {base.like!r} as `base.like`: a Hub id needs its commit behind it, 40 hex digits",
                          fix=f"write `base.like: {repo}@COMMIT`; the page of its files on the Hub shows the commit")
    snapshot: Path | None = hub.snapshot_folder(repo, commit)
    if not all(hub.is_fetched(repo, commit, f"{name}/tokenizer_config.json") for name in family.tokenizers):
        snapshot = None
    return Like(snapshot, repo, commit)


def _recognised(file: Path) -> tuple[str, Layout]:
    readable, *_ = CHECKPOINT_SUFFIXES
    if file.suffix.lower() != readable:
        raise RecipeError(f"{file} is a pickle, which can run code when it is read; only {readable} files are read",
                          fix=f"name the {readable} file of the same model")
    if not file.is_file():
        raise RecipeError(f"{file} is not there", fix="check `base.path`")
    header, _ = read_checkpoint(file)
    return recognise(file, header, {name: family.checkpoint_layouts for name, family in families().items()})


def _choose_prediction(base: Base, hints: Hints, layout: Layout) -> tuple[PredictionType, list[str]]:
    """Prediction type of a base of published size, and notes about the choice."""
    usual = next(iter(layout.configs))
    chosen = base.prediction or hints.prediction
    if base.prediction and hints.prediction and base.prediction != hints.prediction:
        return base.prediction, [f"`base.prediction` is {base.prediction}, but the file says {hints.prediction}"]
    if chosen is not None:
        return chosen, []
    if not layout.doubtful:
        return usual, []
    other = next(name for name in layout.configs if name != usual)
    return usual, [f"the file does not say what it predicts, so {usual} is taken: if its page names {other}, or if "
                   f"`dbrun sample` draws only noise or grey, write `base.prediction: {other}`"]


def _configs_of(like: Like, file: Path, layout: Layout, family: Family) -> Path:
    """Folder of `base.like` as the source of configs. Raises RecipeError where it has none."""
    folder = like.folder
    needed = ["model_index.json", "scheduler/scheduler_config.json"]
    needed += [f"{name}/config.json" for name in family.weight_components]
    if folder is None or not all((folder / name).is_file() for name in needed):
        raise RecipeError(f"{file} is a {layout.title} checkpoint of another size than the published one",
                          fix="name a folder in diffusers format in `base.like` whose configs are of this size")
    return folder


def _config_texts(folder: Path, family: Family) -> Iterator[tuple[str, str]]:
    """Yield relative name and text of the configs of a base, without those of tokenizers and schedulers."""
    for name in ("model_index.json", *(f"{component}/config.json" for component in family.weight_components)):
        yield name, _as_text(read_config(folder / name))


def _as_text(config: Mapping[str, object]) -> str:
    return json.dumps(config, indent=1, sort_keys=True) + "\n"


@cache
def _lay_out(texts: tuple[tuple[str, str], ...], file: Path, content: str) -> TemporaryDirectory[str]:
    """Folder with these configs and a link to the checkpoint, for the rest of the process.

    content: digest of all files, so that other tokenizers get another folder.
    """
    # a link and a few small files: nothing of the checkpoint is copied or converted
    temporary = TemporaryDirectory(prefix="dbrun-base-")
    folder = Path(temporary.name)
    (folder / CHECKPOINT).symlink_to(file)
    for name, text in texts:
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return temporary
