"""Place of this process in a distributed run, read from the environment variables that launchers set."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from dbrun.errors import UsageError
from dbrun.recipe.schema.launch import even_split_fix, uneven_split_reason
from dbrun.recipe.schema.model import Recipe

ADDRESS, PORT = "MASTER_ADDR", "MASTER_PORT"
"""Variables for the place where the processes of a run meet."""
PARENT_PID_VARIABLE = "DBRUN_PROCESS_OF"
"""Variable that a run sets for the processes it starts itself, to its own process id."""
LAUNCHER_VARIABLES = re.compile(r"(ACCELERATE|TORCHELASTIC|MASTER|ROLE|GROUP|PMI|PMIX)_.+|(LOCAL_)?(RANK|WORLD_SIZE)|"
                                r"SLURM_(PROCID|STEP_NUM_TASKS)|" + PARENT_PID_VARIABLE)
"""Variables that launchers set; removed once read, because libraries that see them distribute work themselves."""
HARMLESS_SETTINGS = re.compile(r"ACCELERATE_(DEBUG_MODE|CPU_AFFINITY|DYNAMO_(MODE|USE_.+))")
"""Settings of accelerate that change no arithmetic while its compiler is off."""
NEUTRAL_VALUES = {"ACCELERATE_USE_CPU": ("false", "true"), "ACCELERATE_DYNAMO_BACKEND": ("no",)}
"""Settings of accelerate → lower-case values that change nothing, whatever the recipe says."""
FIRST_SLURM_PORT, SLURM_PORTS = 15000, 15000
"""Ports of which a step of Slurm takes the one that its number leads to; systems give others to whoever wants any."""
START_HINT = ("start dbrun itself: `dbrun run RECIPE launch.processes=N`, or `torchrun --nproc-per-node N -m dbrun run "
              "RECIPE`")


def let_idle_threads_sleep() -> None:
    """Set the wait policy of OpenMP, unless the user has. Call it before torch is imported, which reads it.

    Threads that spin while they wait slow each other down manyfold on a busy machine.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@dataclass(frozen=True)
class DistributedEnv:
    """Place of one process among those that a launcher started.

    rank: 0 to size - 1; size: number of processes; local_rank, local_size: the same on this machine; address, port:
    of the rendezvous; started_by_dbrun: started by process 0 of the run itself, not by a launcher; started_by_srun: by
    Slurm, which opens no rendezvous: process 0 does.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int
    started_by_dbrun: bool = False
    started_by_srun: bool = False


def read_distributed_env(environment: Mapping[str, str]) -> DistributedEnv | None:
    """Place of this process; None if no launcher started it. Raises UsageError for variables that are incomplete."""
    counts = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    names = (*counts, ADDRESS, PORT)
    # MASTER_ADDR alone is no launcher: some clusters set it for every job
    if "RANK" not in environment and "WORLD_SIZE" not in environment:
        # accelerate sets the port only where it was asked for several processes
        if _has_accelerate_settings(environment) and PORT in environment:
            raise UsageError("`accelerate launch` started a single process where several were asked for, as it does "
                             "with --cpu", fix=START_HINT)
        return _read_slurm_step(environment)
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise UsageError(f"a launcher set some of {', '.join(names)}, but not {', '.join(missing)}",
                         fix=f"unset them, or {START_HINT}")
    rank, size, local_rank, local_size = (int(environment[name]) for name in counts)
    port = int(environment["MASTER_PORT"])
    return DistributedEnv(rank, size, local_rank, local_size, environment["MASTER_ADDR"], port,
                          PARENT_PID_VARIABLE in environment)


def has_launcher(environment: Mapping[str, str]) -> bool:
    """Whether a launcher started this process, accelerate's for a single process included. Raises UsageError."""
    return read_distributed_env(environment) is not None or _has_accelerate_settings(environment)


def _has_accelerate_settings(environment: Mapping[str, str]) -> bool:
    return any(name.startswith("ACCELERATE_") for name in environment)


def _read_slurm_step(environment: Mapping[str, str]) -> DistributedEnv | None:
    """Place of this process among the tasks of a step of Slurm (`srun -n N`); None outside one, and in a step of one.

    The script of a batch job is no step, whatever number of tasks the job has.
    """
    size = int(environment.get("SLURM_STEP_NUM_TASKS") or 1)
    if size == 1 or "SLURM_PROCID" not in environment:
        return None
    nodes = int(environment.get("SLURM_STEP_NUM_NODES") or 1)
    address = environment.get(ADDRESS) or "127.0.0.1"
    if nodes > 1 and ADDRESS not in environment:
        address = _first_host(environment["SLURM_STEP_NODELIST"])
    number = 100 * int(environment.get("SLURM_JOB_ID") or 0) + int(environment.get("SLURM_STEP_ID") or 0)
    port = environment.get(PORT) or FIRST_SLURM_PORT + number % SLURM_PORTS
    per_node = _tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE") or str(size))
    return DistributedEnv(int(environment["SLURM_PROCID"]), size, int(environment["SLURM_LOCALID"]),
                          per_node[int(environment.get("SLURM_NODEID") or 0)], address, int(port), started_by_srun=True)


def _first_host(nodes: str) -> str:
    """First name of a list of nodes as Slurm writes it: `gpu03` of `gpu[03-05,9],login`."""
    first = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\](\S*?))?(?:,|$)", nodes)
    if first is None:
        raise UsageError(f"found SLURM_STEP_NODELIST={nodes}, which is no list of nodes",
                         fix=f"set {ADDRESS} to the name of the first node")
    return "".join(part or "" for part in first.groups())


def _tasks_per_node(text: str) -> list[int]:
    """Number of tasks of each node, as Slurm writes it: [2, 2, 1] of `2(x2),1`."""
    counts: list[int] = []
    for part in text.split(","):
        tasks, _, nodes = part.rstrip(")").partition("(x")
        counts += [int(tasks)] * int(nodes or 1)
    return counts


def check_launcher(recipe: Recipe, here: DistributedEnv | None, environment: Mapping[str, str]) -> None:
    """Raise UsageError if a launcher started other processes than the recipe asks for, or changes how it computes."""
    processes, machines = recipe.launch.processes, recipe.launch.machines
    _check_launcher_settings(recipe, environment)
    if here is None:
        # dbrun starts processes on its own machine only
        if machines > 1:
            raise UsageError(f"`launch.machines: {machines}` needs a launcher on each machine",
                             fix=f"there: torchrun --nnodes {machines} --node-rank 0 (1, …) --nproc-per-node "
                             f"{processes // machines} --master-addr ADDRESS --master-port 29500 -m dbrun run RECIPE, "
                             "with DBRUN_STORE in a folder that all machines see")
        return
    # 1 is the default of a recipe: then the launcher alone decides
    if processes > 1 and processes != here.size:
        plural = "es" if here.size > 1 else ""
        raise UsageError(f"the launcher started {here.size} process{plural}, but the recipe asks for {processes} "
                         "(`launch.processes`)", fix=f"start {processes}, or write `launch.processes={here.size}`")
    used_machines = here.size // here.local_size
    if machines > 1 and machines != used_machines:
        plural = "s" if used_machines > 1 else ""
        raise UsageError(f"the launcher uses {used_machines} machine{plural}, but the recipe asks for {machines} "
                         "(`launch.machines`)", fix=f"write `launch.machines={used_machines}`")
    accumulation = recipe.shared_by(here.size).train.accumulation
    uneven = uneven_split_reason(here.size, accumulation)
    if uneven:
        raise UsageError(uneven, fix=even_split_fix(here.size, accumulation))


def _check_launcher_settings(recipe: Recipe, environment: Mapping[str, str]) -> None:
    """Raise UsageError for settings of accelerate that the run would not follow.

    The recipe alone decides about results, because only the recipe is in the cache keys.
    """
    precision = "no" if recipe.train.precision == "fp32" else recipe.train.precision
    neutral = {**NEUTRAL_VALUES, "ACCELERATE_MIXED_PRECISION": ("no", precision)}
    refused: list[str] = []
    for name, value in environment.items():
        if not name.startswith("ACCELERATE_") or HARMLESS_SETTINGS.fullmatch(name):
            continue
        if value.lower() not in neutral.get(name, ()):
            refused.append(f"{name}={value}")
    if refused:
        raise UsageError(f"the launcher asks for {', '.join(sorted(refused))}, but the recipe decides how to compute "
                         f"(`train.precision: {recipe.train.precision}`)",
                         fix="start it without these settings, such as with `torchrun --nproc-per-node N -m dbrun …`")


def clear_launcher_variables(environment: MutableMapping[str, str]) -> None:
    """Remove the launcher's variables from the environment, once they were read."""
    launcher_names = [name for name in environment if LAUNCHER_VARIABLES.fullmatch(name)]
    for name in launcher_names:
        del environment[name]
