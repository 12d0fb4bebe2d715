"""Run a script of runs/ whose `diffaug` is the command line of this process, which has imported torch already."""

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from diffaug.cli.main import main

RUNS = Path(__file__).parents[2] / "runs"
COMMAND = """\
import json, socket, sys
with socket.create_connection(("127.0.0.1", {port})) as asked:
    asked.sendall(json.dumps(sys.argv[1:]).encode() + b"\\n")
    status, printed = json.loads(asked.makefile(encoding="utf-8").readline())
sys.stdout.write(printed)
sys.exit(status)
"""


def run_script(name: str, *words: str, **variables: str) -> str:
    """Run a script with these words and environment variables, and return what it printed; it must end with 0."""
    with TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        (Path(folder) / "ask.py").write_text(COMMAND.format(port=server.getsockname()[1]))
        command = Path(folder) / "diffaug"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{folder}/ask.py" "$@"\n')
        command.chmod(0o755)
        path = os.pathsep.join([folder, os.environ["PATH"]])
        with (Path(folder) / "printed").open("w+") as printed:
            script = ["sh", str(RUNS / name), *words]
            running = subprocess.Popen(script, env={**os.environ, "PATH": path, **variables}, stdout=printed)
            while running.poll() is None:
                with contextlib.suppress(TimeoutError):
                    _answer(server.accept()[0])
            printed.seek(0)
            text = printed.read()
    assert running.returncode == 0
    return text


def _answer(asked: socket.socket) -> None:
    """Run the command whose words were sent, and send its exit status and what it printed."""
    printed, status = io.StringIO(), 0
    with asked, asked.makefile("rw", encoding="utf-8") as stream:
        words = json.loads(stream.readline())
        with contextlib.redirect_stdout(printed):
            try:
                main(words)
            except SystemExit as end:
                status = int(end.code or 0)
        stream.write(json.dumps([status, printed.getvalue()]) + "\n")
