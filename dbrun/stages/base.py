"""The base class of all stages, and the context that a stage's run gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from dbrun.config_types import subclasses
from dbrun.events import Emit, Note, Progress
from dbrun.options.packages import OptionalPackage
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.sources import Artifact, Numerics, Sources
from dbrun.stages.support.memory import NO_MEMORY, CountedMemory
from dbrun.stages.support.process_group import ProcessGroup
from dbrun.stages.support.resident import ResidentBase

if TYPE_CHECKING:
    from dbrun.stages.support.sample_spec import SampleSpec
    from dbrun.training.dry_run import DryRun
    from dbrun.workload import Workload


DRAWING_PRECISION = "drawing_precision"
"""Entry of a cache key's numerics: the precision of pictures that are drawn on a CPU, where it is not fp32."""


@dataclass(frozen=True)
class RuntimeOptions:
    """Options of a run that change no result, and so are in no cache key.

    checkpoint_every: steps between checkpoints; keep: number of checkpoints to keep; gradient_checkpointing: recompute
    activations instead of storing them; offload: keep the denoiser's blocks in CPU memory where a GPU computes;
    samples: pictures to draw while training, None for none; trackers: names of trackers; run_folder: the run's folder,
    for files that only people read, None for no such files; name: the run's; steps_per_epoch: converts steps to epochs.
    """

    checkpoint_every: int
    keep: int
    gradient_checkpointing: bool = False
    offload: bool = False
    samples: SampleSpec | None = None
    trackers: tuple[str, ...] = ()
    run_folder: Path | None = None
    name: str = ""
    steps_per_epoch: float = 1.0


class ItemCache(Protocol):
    """The cache of a stage's items (a class image, an encoded picture), each with a trace of its own."""

    def get(self, key: Mapping[str, object], make: Callable[[Path], None]) -> Path:
        """The read-only folder of the item with this key; if it is new, `make(folder)` fills it first."""

    def reuse_stored(self) -> None:
        """Use stored items from now on, even under `--force`: other processes of this run have just made them."""


P = TypeVar("P")


@dataclass(frozen=True)
class StageContext(Generic[P]):
    """Everything that a stage's run can see.

    stage: its name; params: frozen; numerics: device and threads; inputs: upstream artifacts by stage name; out: an
    empty folder to fill; work: a folder that survives a crash (checkpoints); files: sha256 -> a file with that content;
    base: the folder of the verified base, None where it is gone; items: the item cache; runtime: options that change no
    result; emit: sends an event to the run's listeners; process_group: the processes that share the work.
    """

    # What is neither in params nor in inputs cannot influence the output: this makes the cache key sound. `base` is no
    # exception, since the artifact of `load` holds the digests of its files.

    stage: str
    params: P
    numerics: Numerics
    inputs: Mapping[str, Artifact]
    out: Path
    work: Path
    files: Mapping[str, Path]
    base: Path | None
    items: ItemCache
    runtime: RuntimeOptions
    emit: Emit
    stop_signal: Callable[[], int]
    """The number of the signal that asked to stop, or 0."""
    process_group: ProcessGroup = field(default_factory=ProcessGroup)
    resident: ResidentBase = field(default_factory=ResidentBase)
    """What the stages of a run keep of the base in memory; it changes no result."""

    def progress(self, done: int, total: int, unit: str, **metrics: float) -> None:
        """Report that `done` of `total` units are ready. metrics: further numbers of this moment."""
        self.emit(Progress(self.stage, done, total, unit, metrics))

    def note(self, text: str, level: str = "info") -> None:
        """Show the user a text. level: `info` or `warning`."""
        self.emit(Note(self.stage, text, level))

    def check_interrupt(self) -> None:
        """Raise Interrupted if a signal asked to stop. Call it where stopping loses no work."""
        from dbrun.errors import Interrupted

        signum = self.stop_signal()
        if signum:
            raise Interrupted(signum)


class Stage(Generic[P]):
    """One step of a run. Each subclass has a file of its own in `dbrun/stages` and sets NAME."""

    NAME: ClassVar[str]
    VERSION: ClassVar[int] = 1
    """Part of the cache key; raise it whenever the same params and inputs give other bytes."""
    needs: ClassVar[tuple[str, ...]] = ()
    """The names of the stages whose artifacts it reads."""
    runs_after: ClassVar[tuple[str, ...]] = ()
    """Stages that run first where the recipe has them, although nothing of them is read."""
    libraries: ClassVar[tuple[str, ...]] = ()
    """Packages whose minor versions are part of the cache key, since they can change the output."""
    modules: ClassVar[tuple[str, ...]] = ()
    """Modules of dbrun, besides its own, whose code makes the output; a test reports each change of them."""
    device_dependent: ClassVar[bool] = True
    """Whether the device and the number of threads can change the output; they are then part of the cache key."""
    multi_process: ClassVar[bool] = False
    """Whether several processes can share the work; the result must not depend on their number."""
    delivers: ClassVar[bool] = False
    """Whether its files are copied to `outputs/<name>/`."""
    writes_formats: ClassVar[bool] = False
    """Whether it writes the recipe's export formats, each with its provenance."""

    def applies_to(self, recipe: Recipe) -> bool:
        """Whether this recipe has this stage."""
        return True

    def params(self, recipe: Recipe, sources: Sources) -> P:
        """The frozen params: all that the stage uses of the recipe and its sources. Must not import torch."""
        raise NotImplementedError

    def extendable_params(self, params: P) -> tuple[str, ...]:
        """Names of params that only lengthen the work: a larger value resumes the work of a smaller one."""
        return ()

    def restarts_on(self, params: P) -> Mapping[str, str]:
        """Params that a user expects to be extendable but are not: name -> the reason why the stage starts anew."""
        return {}

    def required_packages(self, params: P) -> tuple[OptionalPackage, ...]:
        """Optional packages that these params compute with, in addition to `libraries`."""
        return ()

    def optional_packages(self, recipe: Recipe) -> tuple[OptionalPackage, ...]:
        """Optional packages that this recipe uses without an effect on the result, such as trackers."""
        return ()

    def item_keys(self, params: P, inputs: Mapping[str, str], numerics: Numerics) -> Sequence[Mapping[str, object]]:
        """Keys of its slow items, where known before it runs. inputs: stage name -> digest of its artifact."""
        return ()

    def key_numerics(self, params: P, numerics: Numerics) -> Mapping[str, str]:
        """Further entries of the numerics in its cache key, where params and device together decide the arithmetic."""
        return {}

    def workload(self, recipe: Recipe, sources: Sources) -> Workload:
        """The sizes that its time, memory and disk grow with, to estimate them. Must not import torch."""
        from dbrun.workload import Workload

        return Workload()

    def count_memory(self, recipe: Recipe, sources: Sources, dry_run: DryRun) -> CountedMemory:
        """Peak bytes on the device, counted in a dry run of the base; the default is for a stage without tensors."""
        return NO_MEMORY

    def memory_advice(self, recipe: Recipe, device: str) -> tuple[str, ...]:
        """Changes of the recipe that make this stage need less memory, the most useful first. device: cuda, mps or cpu.

        Empty where the recipe has no say. Must not import torch.
        """
        return ()

    def max_disk_bytes(self, ctx: StageContext[P]) -> int:
        """An upper bound of the bytes of its result and its work folder, before it runs. Must not import torch."""
        return 2**20

    def delivered_names(self, files: Iterable[str], run_name: str) -> Mapping[str, str]:
        """File of its artifact -> the file's name in `outputs/<run_name>/`; both are relative paths."""
        return {file: file for file in files}

    def write_run_name(self, copy: Path, run_name: str, names: Mapping[str, str]) -> bool:
        """Write the run's name into a delivered copy that shows it; returns whether the copy changed.

        The artifact has no name: recipes that differ in nothing else share it. names: what `delivered_names` gave.
        """
        return False

    def complete_delivery(self, folder: Path) -> tuple[str, ...]:
        """Add to the delivered copies of other stages what its result says of them; returns the names of those.

        folder: with the copies of all stages, before it is `outputs/<run_name>/`.
        """
        return ()

    def run(self, ctx: StageContext[P]) -> None:
        """Fill ctx.out. Raises DbrunError for what a user can mend; any other exception is a bug."""
        raise NotImplementedError


def stages() -> Mapping[str, Stage[Any]]:
    """Every stage with a file in `dbrun/stages`, by name."""
    return {c.NAME: c() for c in subclasses("dbrun.stages", Stage)}
