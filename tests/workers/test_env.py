"""Is it understood which launcher is at work, and refused where it would do something else than was asked?"""

import re

import pytest
from stub_world import make_home

from dbrun.errors import UsageError
from dbrun.plan import device
from dbrun.recipe.load import load_recipe
from dbrun.workers.env import DistributedEnv, check_launcher, clear_launcher_variables, read_distributed_env

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


def test_accelerate_that_started_a_single_process_is_told(recipe):
    with pytest.raises(UsageError, match=r"a single process \(with --cpu it ignores --num_processes\)") as error:
        read_distributed_env(ACCELERATE)
    assert "launch.processes=N" in error.value.fix


def test_as_many_processes_run_as_were_asked_for(recipe):
    here = read_distributed_env(TORCHRUN)
    check_launcher(recipe("train.accumulation=4"), here, TORCHRUN)
    check_launcher(recipe("train.accumulation=4", "launch={processes: 4, machines: 2}"), here, TORCHRUN)
    refused(r"started 4 processes, but the recipe asks for 2", recipe("train.accumulation=4", "launch.processes=2"),
            here, {})
    refused("2 machines, but the recipe asks for 4", recipe(
        "train.accumulation=4", "launch={processes: 4, machines: 4}"), here, {})
    refused("cannot be split evenly over 4", recipe("train.accumulation=2"), here, {})
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
