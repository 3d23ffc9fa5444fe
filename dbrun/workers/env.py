"""Place of this process in a distributed run, read from the environment variables that launchers set."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from dbrun.errors import UsageError
from dbrun.recipe.schema.launch import even_split_fix, uneven_split_reason
from dbrun.recipe.schema.model import Recipe

PARENT_PID_VARIABLE = "DBRUN_PROCESS_OF"
"""Variable that a run sets for the processes it starts itself, to its own process id."""
LAUNCHER_VARIABLES = re.compile(r"(ACCELERATE|TORCHELASTIC|MASTER|ROLE|GROUP)_.+|(LOCAL_)?(RANK|WORLD_SIZE)|"
                                + PARENT_PID_VARIABLE)
"""Variables that launchers set; removed once read, because libraries that see them distribute work themselves."""
HARMLESS_SETTINGS = re.compile(r"ACCELERATE_(DEBUG_MODE|CPU_AFFINITY|DYNAMO_(MODE|USE_.+))")
"""Settings of accelerate that change no arithmetic while its compiler is off."""
NEUTRAL_VALUES = {"ACCELERATE_USE_CPU": ("false", "true"), "ACCELERATE_DYNAMO_BACKEND": ("no",)}
"""Settings of accelerate → lower-case values that change nothing, whatever the recipe says."""
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
    of the rendezvous; started_by_dbrun: started by process 0 of the run itself, not by a launcher.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int
    started_by_dbrun: bool = False


def read_distributed_env(environment: Mapping[str, str]) -> DistributedEnv | None:
    """Place of this process; None if no launcher started it. Raises UsageError for variables that are incomplete."""
    counts = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    names = (*counts, "MASTER_ADDR", "MASTER_PORT")
    # MASTER_ADDR alone is no launcher: some clusters set it for every job
    if "RANK" not in environment and "WORLD_SIZE" not in environment:
        setting = next((name for name in environment if name.startswith("ACCELERATE_")), None)
        if setting is not None:
            raise UsageError("`accelerate launch` started a single process (with --cpu it ignores --num_processes), "
                             f"or its settings are in the environment ({setting} …)",
                             fix=f"{START_HINT}; the recipe decides how to compute, so unset ACCELERATE_*")
        return None
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise UsageError(f"a launcher set some of {', '.join(names)}, but not {', '.join(missing)}",
                         fix=f"unset them, or {START_HINT}")
    rank, size, local_rank, local_size = (int(environment[name]) for name in counts)
    port = int(environment["MASTER_PORT"])
    return DistributedEnv(rank, size, local_rank, local_size, environment["MASTER_ADDR"], port,
                          PARENT_PID_VARIABLE in environment)


def check_launcher(recipe: Recipe, here: DistributedEnv | None, environment: Mapping[str, str]) -> None:
    """Raise UsageError if a launcher started other processes than the recipe asks for, or changes how it computes."""
    processes, machines = recipe.launch.processes, recipe.launch.machines
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
    uneven = uneven_split_reason(here.size, recipe.train.accumulation)
    if uneven:
        raise UsageError(uneven, fix=even_split_fix(here.size, recipe.train.accumulation))
    _check_launcher_settings(recipe, environment)


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
