"""A Slurm cluster of two nodes on this machine, with all its files in one folder: `python slurm_cluster.py FOLDER`.

Needs Debian's packages slurmctld, slurmd, slurm-client and munge, and runs as root.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
NODES = ("n1", "n2")
START_SECONDS = 300.0
CONFIGURATION = """\
ClusterName=dbrun
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
# a lost node is given up after these seconds; Slurm asks for it at a third of them
SlurmdTimeout=30
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=16000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=16000
PartitionName=all Nodes=ALL Default=YES DefMemPerNode=100 State=UP
"""


class SlurmCluster:
    """A started cluster. environment: with which Slurm's programs find it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start munge, the controller and both nodes, and wait until jobs can run."""
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        text = CONFIGURATION.format(host=socket.gethostname(), folder=self.folder, ports=_free_ports(3))
        (self.folder / "slurm.conf").write_text(text)
        at = self.folder
        # --force: a folder below /tmp is no place for the socket of a real cluster
        self._start("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={at / 'munge.socket'}",
                    f"--pid-file={at / 'munge.pid'}", f"--seed-file={at / 'munge.seed'}",
                    f"--log-file={at / 'munge.log'}")
        self.wait_for(lambda: (at / "munge.socket").exists(), "munge")
        self._start("slurmctld", "-D")
        for node in NODES:
            self._start("slurmd", "-D", "-N", node, name=node)
        self.wait_for(lambda: self._ask("sinfo", "--noheader", "--Node", "--format=%T").split() == ["idle"] * 2,
                       "its nodes")

    def runs_job(self, node: str) -> bool:
        """Whether a job's processes run on a node now."""
        return any(self._processes(node))

    def kill_node(self, node: str) -> None:
        """End a node as a power cut would: its daemon and all processes of its jobs by SIGKILL."""
        self._daemons.pop(node).kill()
        jobs = list(self._processes(node))
        # first what would report the end of a job to the controller
        for process in jobs:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.ppid() > 1 and psutil.Process(process.ppid()).name().startswith("slurmstepd"):
                    psutil.Process(process.ppid()).kill()
        for process in jobs:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def stop(self) -> None:
        """End all daemons, and what is left of jobs."""
        for node in NODES:
            if node in self._daemons:
                self.kill_node(node)
        for daemon in reversed(self._daemons.values()):
            daemon.send_signal(signal.SIGTERM)
            daemon.wait()

    def wait_for(self, is_ready: Callable[[], bool], what: str) -> None:
        """Wait until something is so. Raises RuntimeError if a daemon ends before, or after minutes."""
        until = time.monotonic() + START_SECONDS
        while not is_ready():
            for name, daemon in self._daemons.items():
                if daemon.poll() is not None:
                    raise RuntimeError(f"{name} ended: {(self.folder / f'{name}.out').read_text()[-2000:]}")
            if time.monotonic() > until:
                raise RuntimeError(f"Slurm does not come up: {what}; see {self.folder}/*.log")
            time.sleep(0.5)

    def _start(self, program: str, *words: str, name: str | None = None) -> None:
        with (self.folder / f"{name or program}.out").open("wb") as out:
            self._daemons[name or program] = subprocess.Popen(
                [_path(program), *words], env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def _processes(self, node: str) -> Iterator[psutil.Process]:
        """Processes of this cluster's jobs on a node."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                environment = process.environ()
                if (environment.get("SLURMD_NODENAME") == node
                        and environment.get("SLURM_CONF") == self.environment["SLURM_CONF"]):
                    yield process

    def _ask(self, *words: str) -> str:
        return subprocess.run(words, env=self.environment, capture_output=True, text=True).stdout


@contextlib.contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """Context manager: a running cluster with its files in an empty folder."""
    cluster = SlurmCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def missing_programs() -> list[str]:
    """Programs of Slurm that this machine does not have."""
    return [name for name in PROGRAMS if _path(name) == name]


def _path(program: str) -> str:
    # daemons are in folders that are on root's PATH only
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or program


def _free_ports(count: int) -> list[int]:
    # all are open at the same time, so that they differ
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


if __name__ == "__main__":
    home = Path(sys.argv[1]).absolute()
    home.mkdir(parents=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), slurm_cluster(home) as running:
        print(f"export SLURM_CONF={running.environment['SLURM_CONF']}", flush=True)
        signal.pause()
