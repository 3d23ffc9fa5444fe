"""The base that an adapter is used on: the one it was trained on, or one that the user names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dbrun.errors import RecipeError, UsageError
from dbrun.input_file import file_exists, read_json
from dbrun.models.base import Family, Model, families
from dbrun.models.prompt_reading import USUAL_READING, PromptReading
from dbrun.naming import HUB_ID
from dbrun.plan.device import resolve_numerics
from dbrun.recipe.schema.model import Base
from dbrun.resolve.base import EMBEDDED, find_base, parse_hub_identity, remembered_folder
from dbrun.resolve.single_file import checkpoint_family, is_checkpoint_path
from dbrun.safetensors_header import read_records
from dbrun.stages.load import download_base
from dbrun.stages.sources import BaseSource
from dbrun.stages.support.tokenizer_links import download_tokenizers, hub_tokenizers, link_tokenizers
from dbrun.store.store import Store


@dataclass(frozen=True)
class LocalBase:
    """A base on this machine.

    asked: its name as the user or a recipe wrote it; identity: its content, independent of its place;
    folder, variant: the files to load; reading: how it reads prompts, as the first adapter was trained.
    """

    family: Family
    asked: str
    identity: str
    folder: Path
    variant: str | None
    reading: PromptReading = USUAL_READING

    def load(self, precision: str = "fp32", device: str = "auto", threads: int = 1) -> Model:
        """Load the base; precision: fp32, fp16 or bf16; device: auto, cpu, cuda or mps; threads: on a CPU."""
        from dbrun.training.device import DTYPES, set_up_device

        torch_device = set_up_device(resolve_numerics(device, threads))
        model = self.family.load(self.folder, device=torch_device, dtype=DTYPES[precision], variant=self.variant)
        model.prompt_reading = self.reading
        return model

    @contextmanager
    def opened(self, precision: str = "fp32") -> Iterator[Model]:
        """Context manager: the loaded base; torch's settings are as before on exit. precision: as in `load`."""
        from dbrun.training.device import restored_settings

        with restored_settings():
            yield self.load(precision)


def choose_base(documents: Sequence[Mapping[str, Any]], asked: str | None, places: Sequence[Path],
                store: Store, like: str | None = None) -> tuple[LocalBase, tuple[str, ...]]:
    """The base, and a note for each other base that an adapter was trained on. Raises UsageError if none is known.

    documents: the adapters' provenance; asked: the base that the user named; places: paths of the adapters; like: where
    the tokenizers are, for a checkpoint of one file.
    """
    if like is not None and (asked is None or not is_checkpoint_path(Path(asked).expanduser())):
        raise UsageError(f"found --like {like}, which is for a base in a checkpoint of one file",
                         fix="leave it out, or name the file: --base FILE.safetensors")
    trained: list[Mapping[str, Any]] = []
    for document in documents:
        trained += _training_bases(document)
    if asked is not None:
        base = _base_of_option(asked, trained, places, store, like)
    elif trained:
        base = _base_of_provenance(trained[0], places, store)
    else:
        raise UsageError("no adapter records the base that it was trained on",
                         fix="name it: --base embedded, a folder in diffusers format, a checkpoint of one file, or "
                             "owner/name@revision")
    base = replace(base, reading=_trained_reading(trained, base.family))
    # A note, no error: an adapter often works on another fine-tune of its base.
    others = dict.fromkeys(record["identity"] for record in trained if record["identity"] != base.identity)
    return base, tuple(f"an adapter was trained on another base than {base.asked}: {other}" for other in others)


def _trained_reading(trained: Sequence[Mapping[str, Any]], family: Family) -> PromptReading:
    """How the first adapter's base read prompts in training; the usual reading for an adapter of another family."""
    if not trained or trained[0]["type"] != family.NAME:
        return USUAL_READING
    return PromptReading(int(trained[0].get("prompt_chunks", 1)), int(trained[0].get("clip_skip", 1)))


def _training_bases(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the recorded base of an adapter, and of the adapters that it was merged from."""
    base = document.get("recipe", {}).get("base")
    if base:
        yield base
    for part in document.get("merged", {}).get("of", ()):
        yield from _training_bases(part.get("provenance", {}))


def _base_of_provenance(recorded: Mapping[str, Any], places: Sequence[Path], store: Store) -> LocalBase:
    """The recorded base: from the Hub, the embedded one, or a folder that a run's record names.

    Raises UsageError if it is a folder that is not found.
    """
    hub = parse_hub_identity(recorded["identity"])
    if hub:
        repo, commit = hub
        return _find_or_download(_recorded_base(recorded, repo, revision=commit), store)
    candidates = [_recorded_base(recorded, EMBEDDED)]
    # Records have no absolute paths, as they are shared; the store of this machine knows them.
    place = remembered_folder(recorded["identity"], store)
    if place is not None:
        candidates.append(_recorded_base(recorded, place))
    for record in _recorded_bases(places):
        candidates.append(_recorded_base(recorded, record["path"], like=record.get("like"),
                                         prediction=record.get("prediction")))
    changed: list[str] = []
    for one in candidates:
        try:
            candidate = _find_or_download(one, store)
        except RecipeError:
            continue
        # A path proves nothing: other weights may be there now.
        if candidate.identity == recorded["identity"]:
            return candidate
        changed.append(one.path)
    raise UsageError(f"the adapter was trained on a base in a folder ({recorded['identity'][:18]}…), and "
                     f"{_why_lost([one.path for one in candidates], changed)}",
                     fix="name it: --base FOLDER")


def _why_lost(places: Sequence[str], changed: Sequence[str]) -> str:
    """Clause on why a base in a folder is not found. places: where it was; changed: those that hold another one."""
    for place in places:
        if place == EMBEDDED:
            continue
        if place in changed:
            return f"{place}, where it was, holds another one now"
        return f"{place}, where it was, holds it no longer"
    return "no record names its path"


def _recorded_base(recorded: Mapping[str, Any], path: str, **settings: Any) -> Base:
    """The recorded base at a path; settings: further fields of it. Raises RecipeError for what no recipe may hold."""
    try:
        return Base(type=recorded["type"], path=path, variant=recorded["variant"], **settings)
    except ValidationError as error:
        raise RecipeError(f"an adapter was trained on a base that this dbrun does not know: type "
                          f"{recorded['type'][:40]!r}, {path[:80]!r}", fix="name a base: --base FOLDER") from error


def _recorded_bases(places: Sequence[Path]) -> list[Mapping[str, Any]]:
    """Bases with a path in the records that runs delivered together with their adapters."""
    bases: list[Mapping[str, Any]] = []
    for place in places:
        # Three levels up: `outputs/NAME/peft/denoiser/adapter_model.safetensors` is the deepest file of a delivery.
        for record in read_records((place, *place.absolute().parents[:3])):
            with suppress(KeyError, TypeError):
                # an empty path would be the current folder
                if str(record["recipe"]["base"]["path"]).strip():
                    bases.append(record["recipe"]["base"])
    return bases


def _base_of_option(asked: str, trained: Sequence[Mapping[str, Any]], places: Sequence[Path], store: Store,
                    like: str | None) -> LocalBase:
    """The base that the user named; its family is read from its files, or is that of the adapters."""
    if not asked.strip():
        raise UsageError("found an empty path as the base", fix="name it: --base FOLDER, or --base OWNER/NAME")
    path, _, revision = asked.partition("@")
    folder = Path(asked).expanduser()
    if is_checkpoint_path(folder):
        family = checkpoint_family(folder)
        like = like or _known_tokenizers(trained, places, family)
        if like is None:
            raise UsageError(f"{asked} holds no tokenizer: a checkpoint of one file never does",
                             fix="say where it is: --like FOLDER in diffusers format, or --like OWNER/NAME@COMMIT")
        return _find_or_download(Base(type=family, path=asked, like=like), store)
    # A folder wins over a repository: `owner/name` can be both.
    if file_exists(folder / "model_index.json") or not HUB_ID.fullmatch(path):
        return _find_or_download(Base(type=_detect_family(folder) or _base_type(trained), path=asked), store)
    return _find_or_download(Base(type=_base_type(trained), path=path, revision=revision or None), store)


def _known_tokenizers(trained: Sequence[Mapping[str, Any]], places: Sequence[Path], family: str) -> str | None:
    """Value for `base.like`: the base of the same family that the adapters were trained on; None without one."""
    for base in trained:
        place = str(base["identity"]).rpartition("hub:")[2]
        if base["type"] == family and "hub:" in base["identity"]:
            return place
    for record in _recorded_bases(places):
        if record.get("like") and record.get("type", family) == family:
            return str(record["like"])
    return None


def _base_type(trained: Sequence[Mapping[str, Any]]) -> str:
    """Family that the adapters were trained on; without provenance the first that other programs train for, too."""
    if trained:
        return _recorded_base(trained[0], EMBEDDED).type
    return next(family.NAME for family in families().values() if family.checkpoint_layouts)


def _detect_family(folder: Path) -> str | None:
    """Family of a pipeline in a folder, by its class name; None if it is no pipeline of a known class."""
    try:
        pipeline = read_json(folder / "model_index.json")["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    for family in families().values():
        if pipeline in family.pipeline_classes:
            return family.NAME
    return None


def _find_or_download(base: Base, store: Store) -> LocalBase:
    """The base on this machine, downloaded from the Hub if necessary."""
    found = find_base(base, Path(), store)
    source = found.source
    if source.folder is None:
        source = _download(base, source, found.unavailable_reason)
    assert source.folder is not None
    return LocalBase(families()[base.type], base.path, source.identity, source.folder, base.variant)


def _download(base: Base, source: BaseSource, unavailable_reason: str | None) -> BaseSource:
    """The source with its folder after a download. Raises RecipeError if there may be none, such as offline."""
    from dbrun.stages.support import download

    if unavailable_reason:
        raise RecipeError(unavailable_reason, fix="unset HF_HUB_OFFLINE, or name a base on this machine")
    family = families()[base.type]
    tokenizers = hub_tokenizers(source.identity)
    if source.incomplete is not None and tokenizers is not None:
        link_tokenizers(source.incomplete, download_tokenizers(*tokenizers, family), family)
        return replace(source, folder=source.incomplete)
    # The commit is fixed first: the files must be of one state although the branch may move meanwhile.
    commit = download.resolve_commit(base.path, base.revision)
    folder = download_base(base.path, commit, family, base.variant)
    return replace(source, folder=folder, identity=f"hub:{base.path}@{commit}")
