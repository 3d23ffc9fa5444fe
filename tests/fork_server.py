"""`python -m dbrun` without its imports: a server that has them made forks a process for each command.

Two thirds of the time of a test that starts dbrun went into importing torch, diffusers, transformers and peft. The
server imports them once; a command that is forked from it has the arguments, folder, environment and files that it
would have as a process of its own. It is one for each process of pytest, and ends with it.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import dbrun

ENVIRONMENT = dict(os.environ)
"""The environment of the server: that of pytest before any test changed it."""
READ_BY_IMPORTS = ("ACCELERATE_", "BNB_", "CUDA_", "DIFFUSERS_", "HF_", "HOME", "HUGGING", "KMP_", "LANG", "LC_", "LD_",
                   "MKL_", "OMP_", "OPENBLAS_", "PATH", "PEFT_", "PYDANTIC_", "PYTHON", "PYTORCH_", "SAFETENSORS_",
                   "TMPDIR", "TOKENIZERS_", "TORCH", "TRANSFORMERS_", "TZ", "XDG_")
"""How variables begin that an imported module may have read already."""
READ_LATE = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "TORCHINDUCTOR_CACHE_DIR"}
"""What of these is read when it is used; torch itself sets the last in any process that imports all of it."""
SET_BY_DBRUN = {"OMP_WAIT_POLICY": "PASSIVE", "PYDANTIC_DISABLE_PLUGINS": "__all__"}
"""What dbrun itself sets before it imports torch and pydantic."""
MODULES = (
    "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors.torch", "huggingface_hub", "rich.progress",
    "numpy.ctypeslib", "PIL.Image", "PIL.ImageDraw", "PIL.PngImagePlugin", "PIL.JpegImagePlugin", "PIL.BmpImagePlugin",
    "PIL.GifImagePlugin", "PIL.PpmImagePlugin", "typer", "typer._adapters", "pydantic", "yaml", "omegaconf",
    "diffusers.guiders", "diffusers.loaders.lora_pipeline", "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion", "diffusers.pipelines.deepfloyd_if.pipeline_if",
    "peft.tuners.lora.bnb", "transformers.models.clip.modeling_clip", "transformers.models.clip.tokenization_clip",
    "transformers.models.t5.modeling_t5")
"""What a run imports of others, apart from what these import; of dbrun it is every module."""
NOT_IMPORTED = ("dbrun.__main__", "dbrun.embedded.making")


def can_fork(environment: Mapping[str, str]) -> bool:
    """Whether a process of this environment would import the same modules in the same state as the server has."""
    # a command that ran within pytest's own process has set these in its environment, as the server does in its own
    asked, server = ({**SET_BY_DBRUN, **given} for given in (environment, ENVIRONMENT))
    names = {*asked, *server} - READ_LATE
    return all(asked.get(name) == server.get(name) for name in names if name.startswith(READ_BY_IMPORTS))


def run_dbrun(words: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None,
              timeout: float | None = None, real: bool = False) -> subprocess.CompletedProcess[str]:
    """`python -m dbrun WORDS` with its output captured, forked where that makes no difference.

    env: the whole environment, None for that of now; real: never forked.
    """
    environment = dict(os.environ if env is None else env)
    command = [sys.executable, "-m", "dbrun", *words]
    if real or not can_fork(environment):
        return subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True, timeout=timeout)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        forked = start_dbrun(words, cwd or Path.cwd(), environment, out.fileno(), err.fileno())
        code = forked.wait(timeout)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode().replace("\r\n", "\n"))
    return subprocess.CompletedProcess(command, code, *texts)


def start_dbrun(words: Sequence[str], cwd: Path, env: Mapping[str, str], stdout: int | None = None,
                stderr: int | None = None) -> Forked:
    """A command that writes to these file descriptors, None for nowhere; it may go on after this returns."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(server_address())
    with Path(os.devnull).open("r+b", buffering=0) as nowhere:
        request = json.dumps({"words": list(words), "cwd": str(cwd), "env": dict(env)}).encode()
        head = len(request).to_bytes(8, "big")
        files = [nowhere.fileno() if file is None else file for file in (None, stdout, stderr)]
        socket.send_fds(connection, [head], files)
        connection.sendall(request)
    pid = int.from_bytes(_receive(connection, 8), "big")
    return Forked(pid, connection)


@dataclass
class Forked:
    """A command that the server forked."""

    pid: int
    connection: socket.socket

    def send_signal(self, signum: int) -> None:
        """Send it a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signum)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, negative for a signal. Raises subprocess.TimeoutExpired, after it killed the command."""
        self.connection.settimeout(timeout)
        try:
            code = int.from_bytes(_receive(self.connection, 8), "big", signed=True)
        except TimeoutError:
            self.send_signal(signal.SIGKILL)
            raise subprocess.TimeoutExpired("dbrun", timeout or 0) from None
        self.connection.close()
        return code


@cache
def server_address() -> str:
    """The address of this process's server, which is started when it is asked for first."""
    folder = tempfile.mkdtemp(prefix="dbrun-fork-server-")
    address = str(Path(folder) / "socket")
    life, ours = os.pipe()
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from fork_server import serve; " \
              f"serve({address!r}, {life})"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               env={**ENVIRONMENT, **SET_BY_DBRUN}, pass_fds=[life])
    os.close(life)
    owner = os.getpid()

    def end() -> None:
        # a process that a test forked from pytest leaves the server to pytest
        if os.getpid() == owner:
            os.close(ours)
            process.wait(10)
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n", "the server did not start"
    process.stdout.close()
    return address


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionError("the server of the tests has gone")
        data += part
    return data


def serve(address: str, life: int) -> None:
    """Fork a command for each connection, until the other end of the pipe `life` is closed; in a command, run it."""
    own = [module.name for module in pkgutil.walk_packages(dbrun.__path__, "dbrun.")]
    for name in (*MODULES, *own):
        if not name.startswith(NOT_IMPORTED):
            importlib.import_module(name)
    for name in SET_BY_DBRUN:
        del os.environ[name]
    # what is collected in a child would be copied page by page
    gc.freeze()
    threads = list(Path("/proc/self/task").iterdir())
    assert len(threads) == 1, "only a process of one thread can be forked safely"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(16)
    with open(1, "wb", closefd=False) as answer:
        answer.write(b"ready\n")
    _point(1, os.devnull)
    waiting = selectors.DefaultSelector()
    waiting.register(listener, selectors.EVENT_READ)
    waiting.register(life, selectors.EVENT_READ)
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for key, _ in waiting.select():
            if key.fd == life:
                os._exit(0)
            if key.fd in running:
                waiting.unregister(key.fd)
                pid, connection = running.pop(key.fd)
                os.close(key.fd)
                _tell_end(pid, connection)
                continue
            connection, _ = listener.accept()
            words, cwd, environment, files = _read_request(connection)
            pid = os.fork()
            if not pid:
                others = [life, listener.fileno(), connection.fileno(), waiting.fileno(), *running,
                          *(other.fileno() for _, other in running.values())]
                _become(words, cwd, environment, files, others)
            for file in files:
                os.close(file)
            connection.sendall(pid.to_bytes(8, "big"))
            ended = os.pidfd_open(pid)
            running[ended] = (pid, connection)
            waiting.register(ended, selectors.EVENT_READ)


def _tell_end(pid: int, connection: socket.socket) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    # a test that was interrupted does not wait for its command
    with contextlib.suppress(OSError):
        connection.sendall(code.to_bytes(8, "big", signed=True))
    connection.close()


def _read_request(connection: socket.socket) -> tuple[list[str], str, dict[str, str], list[int]]:
    head, files, _, _ = socket.recv_fds(connection, 8, 3)
    head += _receive(connection, 8 - len(head))
    request = json.loads(_receive(connection, int.from_bytes(head, "big")))
    return request["words"], request["cwd"], request["env"], files


def _point(number: int, path: str) -> None:
    file = os.open(path, os.O_RDWR)
    os.dup2(file, number)
    os.close(file)


def _become(words: list[str], cwd: str, environment: dict[str, str], files: list[int], others: list[int]) -> None:
    """Be the process `python -m dbrun WORDS`, and end as it ends."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    for file in (*files, *others):
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:2] = [cwd]
    sys.argv = ["-m", *words]
    sys.orig_argv = [sys.executable, "-m", "dbrun", *words]
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=stream is sys.stderr or stream.isatty())  # type: ignore[union-attr]
    del sys.modules["fork_server"]
    gc.unfreeze()
    code = _exit_code()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        code = code or 120
    os._exit(code)


def _exit_code() -> int:
    """What the interpreter would exit with."""
    try:
        runpy._run_module_as_main("dbrun")  # type: ignore[attr-defined]
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return int(end.code or 0) & 0xFF
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
