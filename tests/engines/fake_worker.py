"""A process of the engine `local` that does what the names of its jobs say, and writes down what it ran."""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

connection = socket.socket(fileno=int(sys.argv[1]))
stopped = []
signal.signal(signal.SIGTERM, lambda signum, frame: stopped.append(signum))


def send(**report: object) -> None:
    connection.sendall(json.dumps(report).encode() + b"\n")


for line in connection.makefile("rb"):
    name = json.loads(line)["overrides"][0].partition("=")[2]
    with Path("ran").open("a") as ran:
        ran.write(f"{os.getpid()} {name} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
    send(text=f"train of {name}")
    if name.startswith("dies") or (name.startswith("lost") and not Path(name).exists()):
        Path(name).touch()
        print("the last words", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    while name.startswith("long") and not stopped:
        time.sleep(0.02)
    if name.startswith("fails"):
        send(ended=1, text="no loss", fix="another rate")
    elif stopped:
        send(ended=143, text="interrupted", fix=None)
        sys.exit(143)
    else:
        send(ended=0, text="", fix=None)
