"""The device is found without torch, as torch would find it."""

import subprocess
import sys

import pytest

from dbrun.plan import device
from dbrun.recipe.schema.launch import Launch

CUDA = "__version__ = '2.13.0+cu128'\ncuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n"
ROCM = "__version__ = '2.13.0+rocm'\ncuda: Optional[str] = None\nhip: Optional[str] = '6.4'\n"
CPU = "__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Make this machine look like another: torch's version file, device nodes."""
    (tmp_path / "dev").mkdir()

    def make(version, *nodes):
        for node in nodes:
            (tmp_path / "dev" / node).touch()
        monkeypatch.setattr(device, "_torch_version_text", lambda: version)
        monkeypatch.setattr(device, "DEV_FOLDER", tmp_path / "dev")
        monkeypatch.setattr(device.sys, "platform", "linux")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return make


@pytest.mark.parametrize(("version", "nodes", "found"), [
    (CUDA, ("nvidia0",), "cuda"), (CUDA, ("dxg",), "cuda"), (CUDA, (), "cpu"), (CUDA, ("nvidiactl",), "cpu"),
    (CPU, ("nvidia0",), "cpu"), (ROCM, ("kfd",), "cuda"), (ROCM, ("nvidia0",), "cpu"), ("", ("nvidia0",), "cpu")])
def test_auto_takes_what_torch_could_use(machine, version, nodes, found):
    machine(version, *nodes)
    assert device.resolve_device("auto") == found


@pytest.mark.parametrize("hidden", ["", "-1", " "])
def test_hidden_devices_are_not_there(machine, monkeypatch, hidden):
    machine(CUDA, "nvidia0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert device.resolve_device("auto") == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert device.resolve_device("auto") == "cuda"


def test_a_mac_with_its_own_chip_has_mps(machine, monkeypatch):
    machine(CPU)
    monkeypatch.setattr(device.sys, "platform", "darwin")
    monkeypatch.setattr(device.os, "uname", lambda: type("U", (), {"machine": "arm64"}))
    assert device.resolve_device("auto") == "mps"


def test_an_explicit_device_is_taken_at_its_word_and_its_lack_is_told(machine):
    machine(CPU)
    assert device.resolve_device("cuda") == "cuda"
    assert "no CUDA" in device.why_unavailable("cuda")
    assert device.why_unavailable("cpu") is None


def test_threads_count_on_a_cpu_only(machine):
    machine(CUDA, "nvidia0")
    assert device.resolve_numerics("cpu", 3).threads == 3
    assert device.resolve_numerics("auto", 3).threads == 0
    assert device.resolve_numerics("auto", "auto").threads == 0


@pytest.mark.parametrize(("launch", "threads"), [
    (Launch(), 8), (Launch(processes=2), 4), (Launch(processes=6, machines=2), 2), (Launch(processes=16), 1)])
def test_auto_threads_share_the_cores_of_a_machine(monkeypatch, launch, threads):
    monkeypatch.setattr(device, "available_cores", lambda: 8)
    assert device.resolve_numerics("cpu", "auto", launch).threads == threads


@pytest.mark.slow
def test_torch_agrees_and_was_not_imported():
    code = ("import sys; from dbrun.plan.device import resolve_device; found = resolve_device('auto');"
            "assert 'torch' not in sys.modules; import torch;"
            "print(found, 'cuda' if torch.cuda.is_available() else 'other')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found, says = done.stdout.split()
    assert (found == "cuda") == (says == "cuda")
