"""The stage `load`: selects the files of the base, verifies them and records their digests."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from dbrun.errors import RecipeError, StageFailed
from dbrun.finite_weights import check_finite
from dbrun.input_file import file_exists, open_file, read_json
from dbrun.models.base import Family, families, no_op
from dbrun.models.configs import LICENCE_FILE, read_config
from dbrun.models.ldm_layouts import CHECKPOINT
from dbrun.models.prompt_length import PromptLimit
from dbrun.models.prompt_reading import USUAL_READING, PromptReading
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.base import Stage, StageContext
from dbrun.stages.sources import Artifact, Sources
from dbrun.stages.support.tokenizer_links import (
    download_tokenizers,
    hub_tokenizers,
    link_tokenizers,
    tokenizer_files,
)
from dbrun.workload import Workload

BASE_FILE = "base.json"
is_licence_file = re.compile(rf"README\.md|{LICENCE_FILE.pattern}", LICENCE_FILE.flags).fullmatch
"""Whether a file states the licence; it is fetched with a base, but is not part of its identity."""
ALLOWED_LIBRARIES = ("diffusers", "transformers")
"""The libraries whose classes model_index.json may name."""
CONFIG_ENDINGS = ("model_index.json", "/config.json", "/scheduler_config.json")
"""Endings of the small files that say whether a base can be trained; they are fetched first."""
MODULAR_INDEX = "modular_model_index.json"
"""Index of a pipeline of diffusers that is made of blocks."""
BLOB_NAME = re.compile(r"[0-9a-f]{64}")
"""The name of a large file in the Hub's cache: its sha256."""
WEIGHTS = re.compile(r"[A-Za-z0-9_]+(?:\.(?P<variant>[A-Za-z0-9_]+))?(?:-\d+-of-\d+)?\.safetensors")


@dataclass(frozen=True)
class LoadParams:
    """The params of the stage `load`.

    identity: as in `BaseSource`; family, variant: how its files are read; reading: how the base reads prompts.
    """

    NEUTRAL: ClassVar[Mapping[str, object]] = {"reading": USUAL_READING}
    WORDS: ClassVar[Mapping[str, str]] = {"identity": "base", "family": "base.type", "variant": "base.variant",
                                          "reading": "base.prompt_chunks"}

    identity: str
    family: str
    variant: str | None
    reading: PromptReading = USUAL_READING


def prompt_limits(family: Family, folder: Path, chunks: int) -> tuple[PromptLimit, ...]:
    """How much of a prompt each text encoder of a base reads in this many pieces."""
    limits = family.prompt_limits(folder)
    return tuple(limit._replace(tokens=chunks * limit.tokens) for limit in limits)


@dataclass(frozen=True)
class BaseRecord:
    """The content of base.json, which `load` writes. files: relative name -> sha256."""

    family: Family
    variant: str | None
    files: Mapping[str, str]
    reading: PromptReading

    def prompt_limits(self, folder: Path) -> tuple[PromptLimit, ...]:
        """How much of a prompt each text encoder reads, in all pieces together. folder: the base's."""
        return prompt_limits(self.family, folder, self.reading.chunks)


class Load(Stage[LoadParams]):
    """Verifies the base's files and records their digests; it copies none of them."""

    NAME: ClassVar[str] = "load"
    modules: ClassVar[tuple[str, ...]] = (
        "dbrun.models", "dbrun.safetensors_header", "dbrun.stages.support.download",
        "dbrun.stages.support.tokenizer_links")
    device_dependent: ClassVar[bool] = False

    def params(self, recipe: Recipe, sources: Sources) -> LoadParams:
        """The base's identity, family and variant, and how it reads prompts."""
        base = sources.base
        return LoadParams(base.identity, base.family, base.variant, recipe.base.prompt_reading)

    def workload(self, recipe: Recipe, sources: Sources) -> Workload:
        """The base itself: the same base always takes the same time."""
        return Workload(like=(sources.base.identity,))

    def run(self, ctx: StageContext[LoadParams]) -> None:
        """Write base.json: family, variant, and the digest of every file that is read, but no path."""
        family = families()[ctx.params.family]
        folder = self._folder(ctx, family)
        names: list[str] = []
        for inner in ("", *family.subfolders):
            for path in (folder / inner).glob("*"):
                if file_exists(path):
                    names.append(path.relative_to(folder).as_posix())
        names.sort()
        wanted = select_files(names, family.subfolders, ctx.params.variant)
        check_layout(folder, family, wanted, names)
        family.check_configs(folder)
        files: dict[str, str] = {}
        for done, name in enumerate(wanted):
            ctx.check_interrupt()
            ctx.progress(done, len(wanted), "files")
            if name.endswith(".safetensors"):
                # raises where the file is cut short, too
                check_finite(folder / name, ctx.check_interrupt)
            with open_file(folder / name) as file:
                files[name] = hashlib.file_digest(file, "sha256").hexdigest()
            # in the Hub's cache a file is a link to a blob that is named by its sha256
            blob = (folder / name).resolve()
            if BLOB_NAME.fullmatch(blob.name) and blob.name != files[name]:
                raise StageFailed(f"{folder / name} is damaged: its content does not match its name in the Hub's cache",
                                  fix=f"delete {blob}, then run the same command again")
        write_base_record(ctx.out, BaseRecord(family, ctx.params.variant, files, ctx.params.reading))
        ctx.progress(len(wanted), len(wanted), "files")

    def _folder(self, ctx: StageContext[LoadParams], family: Family) -> Path:
        """The folder of the base, after fetching it, or its tokenizers, if it comes from the Hub."""
        kind, _, place = ctx.params.identity.partition(":")
        if kind != "hub":
            if ctx.base is None:
                raise StageFailed(f"the base {ctx.params.identity} has no folder", fix="check `base.path`")
            self._fetch_tokenizers(ctx, ctx.base, family)
            return ctx.base
        repo, _, commit = place.partition("@")
        ctx.note(f"fetching {repo} at {commit[:12]}")

        def seen(done: int, total: int) -> None:
            ctx.check_interrupt()
            ctx.progress(done, total, "files")

        try:
            return download_base(repo, commit, family, ctx.params.variant, seen, ctx.check_interrupt, ctx.note)
        except StageFailed:
            # without the network, use what an earlier run fetched: its files are verified all the same
            if ctx.base is None:
                raise
            return ctx.base


    def _fetch_tokenizers(self, ctx: StageContext[LoadParams], base: Path, family: Family) -> None:
        """Complete the folder of a checkpoint of one file whose tokenizers are on the Hub, where they are missing."""
        place = hub_tokenizers(ctx.params.identity)
        if place is None or tokenizer_files(base, family):
            return
        repo, commit = place
        ctx.note(f"fetching the tokenizer of {repo} at {commit[:12]}")
        link_tokenizers(base, download_tokenizers(repo, commit, family, ctx.check_interrupt), family)


def no_progress(done: int, total: int) -> None:
    """Report nothing."""


def download_base(repo: str, commit: str, family: Family, variant: str | None,
                  seen: Callable[[int, int], None] = no_progress, poll: Callable[[], object] = no_op,
                  note: Callable[[str], object] = no_op) -> Path:
    """Fetch a base, with the files that state its licence, and return its folder in the Hub's cache.

    seen, poll, note: as in `download`. Raises RecipeError before the weights where the configs say that it cannot be
    trained.
    """
    from dbrun.stages.support import download

    def check(folder: Path) -> None:
        check_pipeline(folder, family)
        family.check_configs(folder)

    return download.download(repo, commit, partial(_fetched_files, repo, family, variant), seen, poll=poll,
                             check=download.FirstFiles(CONFIG_ENDINGS, check), note=note)


def describe_base_download(repo: str, revision: str, family: Family, variant: str | None) -> str | None:
    """Text on the size of what `download_base` would fetch; None for nothing. Errors as those of `describe_download`.
    """
    from dbrun.stages.support.download import describe_download

    return describe_download(repo, revision, partial(_fetched_files, repo, family, variant))


def _fetched_files(repo: str, family: Family, variant: str | None, names: Sequence[str]) -> Sequence[str]:
    """The files of a base that are fetched: those that are read, and those that state the licence."""
    refuse_modular(repo, names)
    return (*select_files(names, family.subfolders, variant), *filter(is_licence_file, names))


def select_files(names: Iterable[str], folders: Sequence[str], variant: str | None) -> tuple[str, ...]:
    """The files of a base that are read: model_index.json, and of each folder configs, vocabularies and weights.

    names: all files, relative, with `/`. Configs and vocabularies are `.json`, `.txt`, `.model` (sentencepiece)
    and `.jinja` (chat templates); weights are safetensors: those of the variant where a folder has them, else those
    without a variant. Raises RecipeError where no folder has weights of the variant.
    """
    names, found_variant = set(names), variant is None
    chosen = {name for name in names if name in ("model_index.json", CHECKPOINT)}
    for folder in folders:
        inside = {name for name in names if name.rpartition("/")[0] == folder}
        chosen |= {name for name in inside if name.endswith((".json", ".txt", ".model", ".jinja"))}
        weights: dict[str, str | None] = {}
        for name in inside:
            match = WEIGHTS.fullmatch(name.rpartition("/")[2])
            if match is not None:
                weights[name] = match["variant"]
        # per folder: a base may have weights of the variant for some of its components only
        kind = variant if variant in weights.values() else None
        found_variant |= kind is not None
        chosen |= {name for name, own_variant in weights.items() if own_variant == kind}
    if not found_variant:
        raise RecipeError(f"the base has no weights of the variant {variant!r}", fix="leave `base.variant` out")
    return tuple(sorted(chosen))


def check_layout(folder: Path, family: Family, wanted: Sequence[str], names: Sequence[str]) -> None:
    """Raise RecipeError unless the folder holds a whole base of this family with safetensors weights.

    wanted: what `select_files` gave; names: all files, relative.
    """
    check_pipeline(folder, family)
    index = read_config(folder / "model_index.json")
    for part in family.subfolders:
        inside = [name for name in names if name.startswith(part + "/")]
        if not inside and index.get(part, part) in (None, [None, None]):
            raise RecipeError(f"the base has no {part}, which `base.type: {family.NAME}` needs",
                              fix="choose another base")
        if not inside:
            raise RecipeError(f"the base lacks the folder {part}/", fix="fetch the whole base again")
        weights = [name for name in wanted if name.startswith(part + "/") and name.endswith(".safetensors")]
        # tokenizers and schedulers have neither config.json nor weights
        has_config = f"{part}/config.json" in inside
        if weights and not has_config:
            raise RecipeError(f"the base lacks {part}/config.json", fix="fetch the whole base again")
        if has_config and not weights and CHECKPOINT not in names:
            others = ", ".join(name.rpartition("/")[2] for name in inside if not name.endswith(".json"))
            raise RecipeError(f"{part}/ has no safetensors weights; it holds {others or 'only configs'}",
                              fix="set `base.variant` if they have one; pickled weights are never read")


def refuse_modular(where: object, names: Iterable[str]) -> None:
    """Raise RecipeError for a modular pipeline, whose folder has another index and is assembled from blocks of code.

    where: the folder or repository, for the message; names: its files.
    """
    if MODULAR_INDEX in names and "model_index.json" not in names:
        raise RecipeError(f"{where} is a modular pipeline ({MODULAR_INDEX}), such as FLUX.3 and Anima, which dbrun "
                          "does not train yet: it has no model_index.json",
                          fix="choose a base in diffusers format, such as black-forest-labs/FLUX.1-dev")


def check_pipeline(folder: Path, family: Family) -> None:
    """Raise RecipeError unless model_index.json names a pipeline of this family, and only libraries that are known."""
    if not file_exists(folder / "model_index.json"):
        refuse_modular(folder, [MODULAR_INDEX] if file_exists(folder / MODULAR_INDEX) else [])
        raise RecipeError(f"{folder} has no model_index.json, so it is not a base in diffusers format",
                          fix="name a folder written by `save_pretrained` in `base.path`")
    try:
        index = read_json(folder / "model_index.json")
        pipeline = index["_class_name"]
        if not isinstance(pipeline, str):
            raise TypeError(f"_class_name: {type(pipeline).__name__}")
        homes = {part: index[part][0] for part in family.subfolders if index.get(part)}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RecipeError(f"{folder / 'model_index.json'} names no pipeline",
                          fix="fetch the base again") from error
    # any other library would be code that the base brings along
    for part, home in homes.items():
        if home not in (None, *ALLOWED_LIBRARIES):
            raise RecipeError(f"{folder / 'model_index.json'} takes {part} from {home}, but dbrun runs only code of "
                              f"{' and '.join(ALLOWED_LIBRARIES)}", fix="choose another base")
    for other in families().values():
        if pipeline in other.refused_pipelines:
            raise RecipeError(f"the base is a {pipeline}, {other.refused_pipelines[pipeline]}",
                              fix="choose a base that draws pictures from text alone")
    if pipeline not in family.pipeline_classes:
        fitting = [name for name, other in families().items() if pipeline in other.pipeline_classes]
        fix = f"write `base.type: {fitting[0]}`" if fitting else "choose another base"
        raise RecipeError(f"the base is a {pipeline}; `base.type: {family.NAME}` reads "
                          f"{', '.join(family.pipeline_classes)}", fix=fix)


def write_base_record(folder: Path, base: BaseRecord) -> None:
    """Write base.json into a folder."""
    record = {"format_version": 1, "family": base.family.NAME, "variant": base.variant, "files": dict(base.files)}
    # left out where it is the usual one, so that older records stay as they were
    if base.reading != USUAL_READING:
        record["reading"] = asdict(base.reading)
    (folder / BASE_FILE).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_base_record(artifact: Artifact) -> BaseRecord:
    """The base's family, variant, file digests and reading of prompts, from an artifact of `load`."""
    record = read_json(artifact.path / BASE_FILE)
    reading = PromptReading(**record.get("reading", {}))
    return BaseRecord(families()[record["family"]], record["variant"], record["files"], reading)
