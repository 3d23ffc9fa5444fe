"""Scores of adapters: their pictures are drawn, embedded and measured, each picture and embedding cached by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbrun.adapters.adapter_io import read_adapters
from dbrun.models.base import Model
from dbrun.models.prompt_encoding import KnownOutputs, frozen_encoders, learning_encoders
from dbrun.models.sampler import PictureBlocks, Sampler
from dbrun.models.scheduling import scheduler_changes
from dbrun.scores.base import EmbeddedPictures, References, Score, ScoreValue
from dbrun.scores.encoder import Role
from dbrun.stages.base import StageContext
from dbrun.stages.support.base_loading import load_base, sampling_precision
from dbrun.stages.support.candidates import content_digest
from dbrun.stages.support.drawing import attach_for_drawing, picture_key
from dbrun.stages.support.inputs import read_verified
from dbrun.stages.support.score_encoders import OpenEncoders
from dbrun.stages.support.scoring_params import ScoringParams

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Context = StageContext[Any]
PICTURE_FILE, EMBEDDING_FILE = "picture.png", "embedding.safetensors"
EMBEDDING = "embedding"
"""Name of the only tensor in the file of an embedding."""


@dataclass(frozen=True)
class Row:
    """Pictures of one adapter, or of the bare base.

    label: its name in results; identity: of the content, None for the base; scores: names of those to measure;
    attach: puts the adapter on the base once a picture is new, and returns what takes it off.
    """

    label: str
    identity: str | None
    scores: tuple[str, ...]
    attach: Callable[[Model], Callable[[], None]]


def stored_row(label: str, folder: Path, scores: tuple[str, ...]) -> Row:
    """The row of an adapter that a stage wrote into a folder."""
    def attach(model: Model) -> Callable[[], None]:
        from dbrun.formats.merge_weights import restore_base

        attach_for_drawing(model, read_adapters(folder))
        return partial(restore_base, model)

    # by content: the candidates of a longer training are those of a shorter one, and are not drawn again
    return Row(label, content_digest(folder), scores, attach)


def base_row(label: str, scores: tuple[str, ...]) -> Row:
    """The row of the bare base."""
    return Row(label, None, scores, lambda model: _nothing_to_take_off)


def _nothing_to_take_off() -> None:
    """Leave the base as it is."""


@dataclass(frozen=True)
class Measured:
    """A score of a row. value: its mean and spreads; per_picture: of each prompt, the value of each seed."""

    value: ScoreValue
    per_picture: tuple[tuple[float, ...], ...]


def score_rows(ctx: Context, params: ScoringParams, rows: Sequence[Row],
               components: Sequence[str]) -> dict[str, dict[str, Measured]]:
    """Draw and measure rows: label -> name of a score -> result. components: those that the adapters are on."""
    keys = _draw_rows(ctx, params, rows, components)
    with OpenEncoders(ctx, params.encoders, deterministic=params.deterministic) as encoders:
        embedder = _Embedder(ctx, params, encoders)
        results: dict[str, dict[str, Measured]] = {}
        for row in rows:
            results[row.label] = {}
            for name in row.scores:
                ctx.check_interrupt()
                score, role = params.scores[name]
                results[row.label][name] = _measure(params, embedder, score, role, keys[row.label])
    return results


RowKeys = Mapping[str, Mapping[int, Mapping[str, object]]]
"""Prompt -> seed -> cache key of the picture, of one row."""


def _draw_rows(ctx: Context, params: ScoringParams, rows: Sequence[Row],
               components: Sequence[str]) -> dict[str, RowKeys]:
    """Draw every picture that is not cached; label of a row -> the keys of its pictures."""
    drawer = _Drawer(ctx, params, components)
    total = sum(params.count_pictures(row.scores) for row in rows)
    done = 0
    keys: dict[str, RowKeys] = {}
    for row in rows:
        asked = list(product(params.prompts_for(row.scores), params.seeds))
        pictures = PictureBlocks(len(asked), params.block, partial(drawer.draw, row, asked))
        by_prompt: dict[str, dict[int, Mapping[str, object]]] = {prompt: {} for prompt, _ in asked}
        for number, (prompt, seed) in enumerate(asked):
            ctx.check_interrupt()
            ctx.progress(done, total, "pictures")
            key = picture_key(params, ctx.numerics, base=ctx.inputs["load"].digest, adapter=row.identity,
                              prompt=prompt, seed=seed)
            ctx.items.get(key, partial(_save, pictures, number))
            by_prompt[prompt][seed] = key
            done += 1
        keys[row.label] = by_prompt
    drawer.close()
    ctx.progress(total, total, "pictures")
    return keys


def _save(pictures: PictureBlocks, number: int, folder: Path) -> None:
    """Save the picture with this number into folder."""
    from dbrun.images.grid import save_png

    save_png(pictures[number], folder / PICTURE_FILE)


class _Drawer:
    """Draws pictures with one adapter after the other on one base, which is loaded at the first picture."""

    def __init__(self, ctx: Context, params: ScoringParams, components: Sequence[str]) -> None:
        self.ctx, self.params, self.components = ctx, params, components
        self.row: Row | None = None
        self.take_off: Callable[[], None] = _nothing_to_take_off
        self.sampler: Sampler | None = None

    @cached_property
    def model(self) -> Model:
        """The untouched base."""
        params = self.params
        precision = sampling_precision(params.precision, self.ctx.numerics)
        return load_base(self.ctx, precision, quantise=params.quantise, deterministic=params.deterministic)

    @cached_property
    def known(self) -> KnownOutputs:
        """What the text encoders that no adapter changes make of every prompt."""
        frozen = frozen_encoders(self.model.family, self.components)
        learning = learning_encoders(self.model.family, self.components)
        return self.model.encoder_outputs((*self.params.all_prompts, ""), frozen, learning)

    def draw(self, row: Row, asked: Sequence[tuple[str, int]], numbers: Sequence[int]) -> list[Image]:
        """Draw pictures of a row at once. asked: prompt and seed of each number."""
        params = self.params
        prompts, seeds = zip(*(asked[number] for number in numbers), strict=True)
        return self._sampler(row).draw_block(prompts, seeds=seeds, steps=params.steps, guidance=params.guidance,
                                             resolution=params.resolution, on_step=self.ctx.check_interrupt)

    def close(self) -> None:
        """Leave the base as it was loaded."""
        self.take_off()
        self.take_off = _nothing_to_take_off

    def _sampler(self, row: Row) -> Sampler:
        """The sampler of a row; the adapter of the row before is taken off."""
        if self.sampler is not None and self.row is row:
            return self.sampler
        # encoded on the bare base, before anything is attached
        known, model = self.known, self.model
        self.close()
        self.row = row
        self.take_off = row.attach(model)
        if row.identity is not None:
            changes = scheduler_changes(model.scheduler.config, self.params.prediction, self.params.zero_terminal_snr)
            model = model.with_scheduler_changes(changes)
        learning = learning_encoders(model.family, self.components)
        self.sampler = Sampler(model, self.params.all_prompts, known, learning)
        return self.sampler


class _Embedder:
    """Embeddings of pictures and texts, each an item of its own; an encoder is loaded at the first that is new."""

    def __init__(self, ctx: Context, params: ScoringParams, encoders: OpenEncoders) -> None:
        self.ctx, self.params, self.encoders = ctx, params, encoders

    def drawn(self, role: Role, key: Mapping[str, object]) -> Tensor:
        """Embedding [D] of a drawn picture. key: the picture's, which is cached."""
        def picture() -> Any:
            from PIL.Image import open as open_image

            return open_image(self.ctx.items.get(key, _never) / PICTURE_FILE)

        return self._item(role, {"picture": dict(key)},
                          lambda: self.encoders.open(role).embed_pictures([picture()]))

    def instances(self, role: Role) -> Tensor:
        """Embeddings [M, D] of the instance pictures, cropped to squares as in training."""
        import torch

        params = self.params
        rows: list[Tensor] = []
        for digest in params.pictures:
            key = {"instance": digest, "background": params.background, "resolution": params.resolution}
            rows.append(self._item(role, key, partial(self._embed_instance, role, digest)))
        return torch.stack(rows)

    def texts(self, role: Role) -> Tensor:
        """Embeddings [P, D] of the prompts' texts."""
        import torch

        rows: list[Tensor] = []
        for text in self.params.texts:
            rows.append(self._item(role, {"text": text}, partial(self._embed_text, role, text)))
        return torch.stack(rows)

    def _embed_instance(self, role: Role, digest: str) -> Tensor:
        from dbrun.images.pixels import read_square

        params = self.params
        name = self.ctx.files[digest].name
        square = read_square(read_verified(self.ctx.files, digest), params.resolution, params.background, name)
        return self.encoders.open(role).embed_pictures([square])

    def _embed_text(self, role: Role, text: str) -> Tensor:
        return self.encoders.open(role).embed_texts([text])

    def _item(self, role: Role, key: Mapping[str, object], embed: Callable[[], Tensor]) -> Tensor:
        """The embedding [D] with this key; `embed` gives it as [1, D] where it is new."""
        from safetensors.torch import load_file, save_file

        def make(folder: Path) -> None:
            save_file({EMBEDDING: embed()[0].contiguous()}, folder / EMBEDDING_FILE)

        folder = self.ctx.items.get({"encoder": dict(self.params.encoders[role]), **key}, make)
        return load_file(folder / EMBEDDING_FILE)[EMBEDDING]


def _never(folder: Path) -> None:
    raise AssertionError("every picture is drawn before it is embedded")


def _measure(params: ScoringParams, embedder: _Embedder, score: Score, role: Role, keys: RowKeys) -> Measured:
    """Measure one score of one row."""
    import torch

    prompts = params.prompts_of(score.PICTURES)
    vectors: list[Tensor] = []
    places: list[int] = []
    seeds: list[int] = []
    for place, prompt in enumerate(prompts):
        for seed in params.seeds:
            vectors.append(embedder.drawn(role, keys[prompt][seed]))
            places.append(place)
            seeds.append(seed)
    pictures = EmbeddedPictures(torch.stack(vectors), tuple(places), tuple(seeds))
    references = _references(embedder, score.REFERENCES, role, pictures.vectors)
    values: list[float] = score.per_picture(pictures, references).tolist()
    count = len(params.seeds)
    per_picture = tuple(tuple(values[place * count:(place + 1) * count]) for place in range(len(prompts)))
    return Measured(score.measure(pictures, references), per_picture)


def _references(embedder: _Embedder, kind: References, role: Role, pictures: Tensor) -> Tensor:
    """What a score compares with: embeddings [M, D]. pictures: given where it compares with nothing else."""
    if kind == "instances":
        return embedder.instances(role)
    if kind == "texts":
        return embedder.texts(role)
    return pictures
