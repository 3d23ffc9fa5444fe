"""Is it understood which launcher is at work, and refused where it would do something else than was asked?"""

import re

import pytest
from accelerate.commands.launch import launch_command_parser
from accelerate.utils.launch import prepare_simple_launcher_cmd_env
from stub_world import make_home

from dbrun.errors import UsageError
from dbrun.plan import device
from dbrun.recipe.load import load_recipe
from dbrun.workers.env import (
    DistributedEnv,
    _first_host,
    check_launcher,
    clear_launcher_variables,
    has_launcher,
    read_distributed_env,
)

# the second process of the second machine: its place in the run is not its place on the machine
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1",
            "MASTER_PORT": "29500", "GROUP_RANK": "0", "ROLE_NAME": "default", "TORCHELASTIC_RUN_ID": "none"}
ACCELERATE = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO", "ACCELERATE_USE_CPU": "False",
              "ACCELERATE_DYNAMO_MODE": "default", "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False"}


@pytest.fixture
def recipe(fresh):
    home = make_home(fresh / "home")
    return lambda *words: load_recipe(home / "r.yaml", words).recipe


def refused(words, *args):
    with pytest.raises(UsageError, match=words) as error:
        check_launcher(*args)
    assert error.value.fix and error.value.exit_code == 2


def test_the_environment_tells_the_place():
    assert read_distributed_env({}) is None and read_distributed_env({"PATH": "/bin"}) is None
    assert read_distributed_env(TORCHRUN) == DistributedEnv(3, 4, 1, 2, "10.0.0.1", 29500)
    assert read_distributed_env(TORCHRUN | {"DBRUN_PROCESS_OF": "77"}).started_by_dbrun


def test_half_a_launcher_is_none():
    with pytest.raises(UsageError, match="not LOCAL_RANK, MASTER_PORT"):
        read_distributed_env({k: v for k, v in TORCHRUN.items() if k not in ("LOCAL_RANK", "MASTER_PORT")})


def test_accelerate_may_start_a_single_process_but_not_where_more_were_asked_for(recipe):
    assert read_distributed_env(ACCELERATE) is None and has_launcher(ACCELERATE) and not has_launcher({"PATH": "/bin"})
    check_launcher(recipe(), None, ACCELERATE)
    refused("asks for ACCELERATE_MIXED_PRECISION=fp16", recipe(), None, ACCELERATE | {
        "ACCELERATE_MIXED_PRECISION": "fp16"})
    with pytest.raises(UsageError, match="started a single process where several were asked for") as error:
        read_distributed_env(ACCELERATE | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})
    assert "launch.processes=N" in error.value.fix


def test_what_accelerate_says_to_a_single_process_is_understood(recipe):
    # what the command fills in by itself where there is no file with its configuration
    defaults = ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    arguments = launch_command_parser().parse_args(["--cpu", *defaults, "-m", "dbrun"])
    environment = prepare_simple_launcher_cmd_env(arguments)[1]
    assert has_launcher(environment) and read_distributed_env(environment) is None
    check_launcher(recipe(), None, environment)


def test_the_tasks_of_a_step_of_slurm_are_one_run():
    step = {"SLURM_STEP_NUM_TASKS": "5", "SLURM_STEP_NUM_NODES": "3", "SLURM_PROCID": "2", "SLURM_LOCALID": "0",
            "SLURM_NODEID": "1", "SLURM_STEP_NODELIST": "gpu[03-05,9],login", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
            "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "3"}
    assert read_distributed_env(step) == DistributedEnv(2, 5, 0, 2, "gpu03", 21103, started_by_srun=True)
    last = read_distributed_env(step | {"SLURM_PROCID": "4", "SLURM_NODEID": "2", "MASTER_ADDR": "here"})
    assert (last.rank, last.local_size, last.address) == (4, 1, "here")
    # a launcher that srun started on each machine counts, and neither the script of a job nor a step of one task
    assert read_distributed_env(step | TORCHRUN).size == 4
    assert read_distributed_env({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}) is None
    assert read_distributed_env(step | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    clear_launcher_variables(step)
    assert read_distributed_env(step) is None


@pytest.mark.parametrize(("nodes", "first"), [
    ("gpu03", "gpu03"), ("a-1,b-2", "a-1"), ("node[1,7]", "node1"), ("r[07-09]c1,x", "r07c1"), ("gpu[003]", "gpu003")])
def test_the_first_node_holds_the_rendezvous(nodes, first):
    assert _first_host(nodes) == first


def test_as_many_processes_run_as_were_asked_for(recipe):
    here = read_distributed_env(TORCHRUN)
    check_launcher(recipe("train.accumulation=4"), here, TORCHRUN)
    check_launcher(recipe("train.accumulation=4", "launch={processes: 4, machines: 2}"), here, TORCHRUN)
    refused(r"started 4 processes, but the recipe asks for 2", recipe("train.accumulation=4", "launch.processes=2"),
            here, {})
    refused(r"started 4 processes, but the recipe asks for 2", recipe("launch={processes: 2, reduce: fast}"), here, {})
    refused("2 machines, but the recipe asks for 4", recipe(
        "train.accumulation=4", "launch={processes: 4, machines: 4}"), here, {})
    refused("cannot be split evenly over 4", recipe("train.accumulation=2"), here, {})
    # a step of one micro-batch gets one for each process
    check_launcher(recipe(), here, TORCHRUN)
    single = DistributedEnv(0, 1, 0, 1, "", 1)
    refused("started 1 process, but", recipe("train.accumulation=2", "launch.processes=2"), single, {})


def test_several_machines_want_a_launcher_on_each(recipe):
    asked = recipe("train.accumulation=4", "launch={processes: 4, machines: 2}")
    refused("needs a launcher on each machine", asked, None, {})
    with pytest.raises(UsageError, match=re.escape("torchrun --nnodes 2 --node-rank 0 (1, …) --nproc-per-node 2")):
        check_launcher(asked, None, {})


@pytest.mark.parametrize(("setting", "value"), [
    ("ACCELERATE_MIXED_PRECISION", "bf16"), ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR"),
    ("ACCELERATE_USE_DEEPSPEED", "true"), ("ACCELERATE_USE_FSDP", "true")])
def test_what_would_change_the_arithmetic_is_refused(recipe, setting, value):
    environment = TORCHRUN | ACCELERATE
    check_launcher(recipe("train.accumulation=4"), read_distributed_env(TORCHRUN), environment)
    refused(f"asks for {setting}={value}", recipe("train.accumulation=4"), read_distributed_env(TORCHRUN),
            environment | {setting: value})


def test_the_precision_that_the_recipe_says_too_is_no_contradiction(recipe):
    check_launcher(recipe("train.accumulation=4", "train.precision=bf16"), read_distributed_env(TORCHRUN),
                   TORCHRUN | {"ACCELERATE_MIXED_PRECISION": "bf16"})


def test_no_library_finds_the_launchers_words_later():
    environment = {**TORCHRUN, **ACCELERATE, "DBRUN_PROCESS_OF": "1", "PATH": "/bin", "DBRUN_STORE": "x"}
    clear_launcher_variables(environment)
    assert environment == {"PATH": "/bin", "DBRUN_STORE": "x"}


def test_each_process_wants_a_gpu_of_its_own(monkeypatch, fresh):
    monkeypatch.setattr(device, "DEV_FOLDER", fresh)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (fresh / name).touch()
    assert device.why_too_few_gpus("cuda", 2) is None and device.why_too_few_gpus("cpu", 9) is None
    assert device.why_too_few_gpus("cuda", 3) == "each process needs a GPU: found 2 for 3 processes"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert device.why_too_few_gpus("cuda", 2) == "each process needs a GPU: found 1 for 2 processes"
