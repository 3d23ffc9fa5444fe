"""Which process of a run is this, as whoever started it says in the environment?"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from dbrun.errors import UsageError
from dbrun.recipe.schema.launch import even_split_fix, uneven_split_reason
from dbrun.recipe.schema.model import Recipe

PARENT_PID_VARIABLE = "DBRUN_PROCESS_OF"
"""Set for the processes that a run starts itself, to its own process id."""
LAUNCHER_VARIABLES = re.compile(r"(ACCELERATE|TORCHELASTIC|MASTER|ROLE|GROUP)_.+|(LOCAL_)?(RANK|WORLD_SIZE)|"
                                + PARENT_PID_VARIABLE)
"""What launchers set; libraries that read it later would think that they are to spread the work themselves."""
HARMLESS_SETTINGS = re.compile(r"ACCELERATE_(DEBUG_MODE|CPU_AFFINITY|DYNAMO_(MODE|USE_.+))")
"""What of accelerate's settings changes no arithmetic, while its compiler is off."""
NEUTRAL_VALUES = {"ACCELERATE_USE_CPU": ("false", "true"), "ACCELERATE_DYNAMO_BACKEND": ("no",)}
"""Settings of accelerate and the values that ask for nothing, whatever the recipe says."""
START_HINT = ("start dbrun itself: `dbrun run RECIPE launch.processes=N`, or `torchrun --nproc-per-node N -m dbrun run "
              "RECIPE`")


@dataclass(frozen=True)
class DistributedEnv:
    """One of the processes that a launcher started. rank: which; size: how many; local_rank, local_size: the same on
    its machine; address, port: where they meet; started_by_dbrun: started by the run's own first process."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int
    started_by_dbrun: bool = False


def read_distributed_env(environment: Mapping[str, str]) -> DistributedEnv | None:
    """The place that the environment tells, None where no launcher is at work. Raises UsageError."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if not any(name in environment for name in names[:2]):
        if strange := next((name for name in environment if name.startswith("ACCELERATE_")), None):
            raise UsageError("`accelerate launch` started a single process, as with --cpu it does whatever "
                             f"--num_processes says, or its settings stand in the environment ({strange} …)",
                             fix=f"{START_HINT}; the recipe decides how to compute, so unset ACCELERATE_*")
        return None
    if missing := [name for name in names if not environment.get(name)]:
        raise UsageError(f"a launcher set some of {', '.join(names)}, but not {', '.join(missing)}",
                         fix=f"unset them, or {START_HINT}")
    rank, size, local_rank, local_size, port = (int(environment[name]) for name in (*names[:4], names[5]))
    return DistributedEnv(rank, size, local_rank, local_size, environment["MASTER_ADDR"], port,
                          PARENT_PID_VARIABLE in environment)


def check_launcher(recipe: Recipe, here: DistributedEnv | None, environment: Mapping[str, str]) -> None:
    """Raise UsageError where the recipe asks for other processes than there are, or a launcher for other results."""
    asked, machines = recipe.launch.processes, recipe.launch.machines
    if here is None:
        if machines > 1:
            raise UsageError(f"`launch.machines: {machines}` wants a launcher on each machine",
                             fix=f"there: torchrun --nnodes {machines} --node-rank 0 (1, …) --nproc-per-node "
                             f"{asked // machines} --master-addr ADDRESS --master-port 29500 -m dbrun run RECIPE, "
                             "with DBRUN_STORE in a folder that all machines see")
        return
    if asked > 1 and asked != here.size:
        raise UsageError(f"the launcher started {here.size} process{'es' if here.size > 1 else ''}, but the recipe "
                         f"asks for {asked} (`launch.processes`)",
                         fix=f"start {asked}, or write `launch.processes={here.size}`")
    there = here.size // here.local_size
    if machines > 1 and machines != there:
        raise UsageError(f"the launcher uses {there} machine{'s' if there > 1 else ''}, but the recipe asks for "
                         f"{machines} (`launch.machines`)", fix=f"write `launch.machines={there}`")
    if why := uneven_split_reason(here.size, recipe.train.accumulation):
        raise UsageError(why, fix=even_split_fix(here.size, recipe.train.accumulation))
    _check_launcher_settings(recipe, environment)


def _check_launcher_settings(recipe: Recipe, environment: Mapping[str, str]) -> None:
    precision = "no" if recipe.train.precision == "fp32" else recipe.train.precision
    silent = {**NEUTRAL_VALUES, "ACCELERATE_MIXED_PRECISION": ("no", precision)}
    strange = sorted(f"{name}={value}" for name, value in environment.items()
                     if name.startswith("ACCELERATE_") and not HARMLESS_SETTINGS.fullmatch(name)
                     and value.lower() not in silent.get(name, ()))
    if strange:
        raise UsageError(f"the launcher asks for {', '.join(strange)}, but the recipe decides how to compute "
                         f"(`train.precision: {recipe.train.precision}`)",
                         fix="start it without these settings, such as with `torchrun --nproc-per-node N -m dbrun …`")


def clear_launcher_variables(environment: MutableMapping[str, str]) -> None:
    """Take the launcher's words out of the environment, once they are understood."""
    for name in [name for name in environment if LAUNCHER_VARIABLES.fullmatch(name)]:
        del environment[name]
