"""What a stage is: a name, a version, what it needs, the params it picks, and a run that sees nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from dbrun.config_types import subclasses
from dbrun.events import Emit, Note, Progress
from dbrun.options.packages import OptionalPackage
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.sources import Artifact, Numerics, Sources
from dbrun.stages.support.process_group import ProcessGroup

if TYPE_CHECKING:
    from dbrun.stages.support.sample_spec import SampleSpec
    from dbrun.workload import Workload


@dataclass(frozen=True)
class RuntimeOptions:
    """How a stage looks after itself; it can change no result.

    checkpoint_every: steps between checkpoints; keep: how many;
    gradient_checkpointing: activations, rather than keep them;
    samples: what is drawn while training; trackers: what is told of it; run_folder: the run's folder, for what people
    look at and no result depends on; name: the run's; steps_per_epoch: to count epochs by.
    """

    checkpoint_every: int
    keep: int
    gradient_checkpointing: bool = False
    samples: SampleSpec | None = None
    trackers: tuple[str, ...] = ()
    run_folder: Path | None = None
    name: str = ""
    steps_per_epoch: float = 1.0


class ItemCache(Protocol):
    """The cache of a stage's single items (a class image, an encoded picture), each with a trace of its own."""

    def get(self, key: Mapping[str, object], make: Callable[[Path], None]) -> Path:
        """The read-only folder of the item with this key; made by `make(folder)` and published if it is new."""

    def reuse_stored(self) -> None:
        """Count as made what stands in the store from now on, also where all was to be made again."""


P = TypeVar("P")


@dataclass(frozen=True)
class StageContext(Generic[P]):
    """All that a stage's run can see.

    params: its frozen choices; inputs: upstream artifacts by stage name; out: an empty folder to fill;
    work: a folder that survives a crash (checkpoints); files: sha256 -> a file with that content;
    base: where the verified base stands (its content is the digest of the `load` artifact);
    stop_signal: whether a signal asked to stop; process_group: the processes that share the work.
    """

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

    def progress(self, done: int, total: int, unit: str, **metrics: float) -> None:
        """Report that done of total units are ready."""
        self.emit(Progress(self.stage, done, total, unit, metrics))

    def note(self, text: str, level: str = "info") -> None:
        """Tell the user something."""
        self.emit(Note(self.stage, text, level))

    def check_interrupt(self) -> None:
        """Raise Interrupted if a signal asked to stop; called where nothing would be lost."""
        from dbrun.errors import Interrupted

        if signum := self.stop_signal():
            raise Interrupted(signum)


class Stage(Generic[P]):
    """One step of a run; a subclass lives in a file of its own and sets NAME.

    VERSION goes up whenever the same params and inputs give other bytes. libraries: the packages whose minor
    versions can change the output. modules: the dbrun modules, besides its own, whose code makes the output.
    """

    NAME: ClassVar[str]
    VERSION: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ()
    libraries: ClassVar[tuple[str, ...]] = ()
    modules: ClassVar[tuple[str, ...]] = ()
    device_dependent: ClassVar[bool] = True
    """Whether device and thread count can change the output."""
    multi_process: ClassVar[bool] = False
    """Whether several processes can share the work; its result is then the same however many they are."""
    delivers: ClassVar[bool] = False
    """Whether its files go to `outputs/<name>/`, beside those of the other stages that deliver."""
    writes_formats: ClassVar[bool] = False
    """Whether it writes the export formats of a recipe, each with its provenance."""

    oom_fix: ClassVar[str] = "free some memory, or lower `images.resolution`"
    """What to do where it runs out of memory."""

    def applies_to(self, recipe: Recipe) -> bool:
        """Whether this recipe has this stage at all."""
        return True

    def params(self, recipe: Recipe, sources: Sources) -> P:
        """The frozen dataclass of all that this stage takes from the recipe and its sources; without torch."""
        raise NotImplementedError

    def extendable_params(self, params: P) -> tuple[str, ...]:
        """Names of params that only lengthen the work, so that it may go on from the work folder of a shorter run."""
        return ()

    def restarts_on(self, params: P) -> Mapping[str, str]:
        """Names of params that could lengthen the work but do not, each with the reason why it begins anew."""
        return {}

    def required_packages(self, params: P) -> tuple[OptionalPackage, ...]:
        """What these params compute with beside `libraries`, which not everybody has installed."""
        return ()

    def optional_packages(self, recipe: Recipe) -> tuple[OptionalPackage, ...]:
        """What else this recipe needs here that not everybody has installed; it changes no result."""
        return ()

    def item_keys(self, params: P, inputs: Mapping[str, str], numerics: Numerics) -> Sequence[Mapping[str, object]]:
        """Keys of the items that take up its time, where they are known before it runs. inputs: digests by stage."""
        return ()

    def workload(self, recipe: Recipe, sources: Sources) -> Workload:
        """What its time, memory and disk grow with, so that they can be told from earlier work; without torch."""
        from dbrun.workload import Workload

        return Workload()

    def max_disk_bytes(self, ctx: StageContext[P]) -> int:
        """Bytes that its result and its work can take at most; told before it runs, without torch."""
        return 2**20

    def run(self, ctx: StageContext[P]) -> None:
        """Fill ctx.out. Raises DbrunError; anything else is a bug."""
        raise NotImplementedError


def stages() -> Mapping[str, Stage[Any]]:
    """Every stage that has a file here, by name."""
    return {c.NAME: c() for c in subclasses("dbrun.stages", Stage)}
