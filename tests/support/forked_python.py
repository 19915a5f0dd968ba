"""A Python that is quick to start: its processes are forks of one that has imported everything.

A new process that imports pytest, the SDKs and the plugin takes three seconds of a core before it
does anything; a fork of one that has done so takes a few hundredths. ``Launcher.executable`` is
used in place of ``sys.executable``: it asks the server (this file, run as a program) for a fork
that gets its arguments, environment, folder and standard streams, passes signals on to it, and
ends as it ended. What the server cannot imitate (an option of the interpreter such as ``-W``) is
left to the real Python.

A killed launcher takes its fork along, a moment later: read the output to its end (``communicate``)
to know that it is gone.
"""

from __future__ import annotations

import array
import contextlib
import gc
import json
import os
import random
import runpy
import selectors
import shlex
import shutil
import signal
import socket
import stat
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
OWNER = "owner"
STREAMS = ("stdin", "stdout", "stderr")


class Launcher:
    """The executable, in a folder of its own. The server starts with its first use."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="forked-python-"))
        self.executable = str(self.folder / "python")
        program = [sys.executable, "-IS", str(HERE / "launch.py"), str(self.folder), sys.executable]
        script = Path(self.executable)
        script.write_text(f'#!/bin/sh\nexec {shlex.join(program)} "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        # The server lives as long as somebody holds this end: even a killed owner ends it.
        os.mkfifo(self.folder / OWNER)
        self._owner = os.open(self.folder / OWNER, os.O_RDWR)

    def close(self) -> None:
        """End the server."""
        os.close(self._owner)
        shutil.rmtree(self.folder, ignore_errors=True)


class Server:
    """Forks a process for each launcher that connects."""

    def __init__(self, folder: Path, listener: socket.socket) -> None:
        self._folder, self._listener = folder, listener
        self._children: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()

    def serve(self) -> dict[str, Any] | None:
        """Serve until the owner is gone; in a fork, return its order."""
        owner = os.open(self._folder / OWNER, os.O_RDONLY)
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(owner, selectors.EVENT_READ, "owner")
        self._selector.register(woken, selectors.EVENT_READ, "ended")
        self._selector.register(self._listener, selectors.EVENT_READ, "order")
        while True:
            for key, _ in self._selector.select():
                if key.data == "owner":
                    for pid in self._children:
                        os.kill(pid, signal.SIGKILL)
                    return None
                if key.data == "ended":
                    os.read(woken, 4096)
                    self._reap()
                elif key.data == "order":
                    order = self._fork(owner, woken, wake)
                    if order is not None:
                        return order
                else:
                    self._launcher_is_gone(key.data)

    def _fork(self, *mine: int) -> dict[str, Any] | None:
        connection, _ = self._listener.accept()
        data, streams, _, _ = socket.recv_fds(connection, 1 << 20, len(STREAMS))
        while not data.endswith(b"\n"):
            data += connection.recv(1 << 20)
        pid = os.fork()
        if pid:
            for stream in streams:
                os.close(stream)
            self._children[pid] = connection
            self._selector.register(connection, selectors.EVENT_READ, pid)
            connection.sendall(array.array("i", [pid]).tobytes())
            return None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for other in self._children.values():
            other.close()
        self._selector.close()
        self._listener.close()
        connection.close()
        for descriptor in mine:
            os.close(descriptor)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        order: dict[str, Any] = json.loads(data)
        return order

    def _reap(self) -> None:
        for pid in list(self._children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                connection = self._children.pop(pid)
                with contextlib.suppress(KeyError):  # its launcher was killed
                    self._selector.unregister(connection)
                code = os.waitstatus_to_exitcode(status)
                with connection, contextlib.suppress(OSError):
                    connection.sendall(array.array("i", [code]).tobytes())

    def _launcher_is_gone(self, pid: int) -> None:
        self._selector.unregister(self._children[pid])
        os.kill(pid, signal.SIGKILL)


def run(order: dict[str, Any]) -> None:
    """Be the process that was asked for: ``-m module``, ``-c code`` or a script."""
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in enumerate(STREAMS):
        mode = "r" if name == "stdin" else "w"
        line_by_line = name == "stderr" or os.isatty(number)
        stream = open(number, mode, 1 if line_by_line else -1, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    random.seed()
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    given = os.environ.get("PYTHONPATH")
    sys.path[:0] = given.split(os.pathsep) if given else []
    sys.executable = order["executable"]
    if any(name.startswith("COVERAGE_PROCESS_") for name in os.environ):
        import coverage

        coverage.process_startup()
    option, *arguments = order["arguments"]
    if option == "-u":
        option, *arguments = arguments
    if option == "-m":
        sys.argv = arguments
        sys.path.insert(0, os.getcwd())
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif option == "-c":
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        sys.argv = ["-c", *arguments[1:]]
        sys.path.insert(0, "")
        exec(compile(arguments[0], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = [option, *arguments]
        sys.path.insert(0, str(Path(option).parent))
        runpy.run_path(option, run_name="__main__")


def main(folder: Path, listener: socket.socket) -> None:
    """Be the server, and in each fork the process that was asked for."""
    from libraries import warm_up

    sys.path.remove(str(HERE))

    warm_up()
    gc.collect()
    gc.freeze()
    order = Server(folder, listener).serve()
    if order is not None:
        run(order)


if __name__ == "__main__":
    main(Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])))
