"""The launcher of ``forked_python``: gets a fork from the server, and stands for it.

It is started as ``python -IS launch.py FOLDER PYTHON ARGUMENTS`` and imports little: a start takes
two hundredths of a second.
"""

import array
import fcntl
import json
import os
import signal
import socket
import sys

IMITATED = ("-m", "-c", "-u")


def connect(folder: str, python: str) -> socket.socket:
    """Connect to the server; the first who comes starts it."""
    connection = socket.socket(socket.AF_UNIX)
    address = os.path.join(folder, "socket")
    try:
        connection.connect(address)
        return connection
    except OSError:
        pass
    with open(os.path.join(folder, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(address):
            start(folder, python, address)
    connection.connect(address)
    return connection


def start(folder: str, python: str, address: str) -> None:
    """Start the server; it listens from here on, and answers once all is imported."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    if os.fork():
        listener.close()
        return
    os.setsid()  # a Ctrl-C at the terminal is for the tests
    nothing = os.open(os.devnull, os.O_RDWR)
    log = os.open(os.path.join(folder, "log"), os.O_WRONLY | os.O_CREAT)
    for number, stream in enumerate((nothing, log, log)):
        os.dup2(stream, number)
    os.set_inheritable(listener.fileno(), True)
    server = os.path.join(os.path.dirname(__file__), "forked_python.py")
    mine = ("COVERAGE_", "PYTHONPATH")  # each fork has its own
    environment = {k: v for k, v in os.environ.items() if not k.startswith(mine)}
    os.execve(python, [python, server, folder, str(listener.fileno())], environment)


def main(folder: str, python: str, arguments: list[str]) -> None:
    """Be ``python ARGUMENTS``."""
    if arguments and arguments[0].startswith("-m") and arguments[0] != "-m":
        arguments[:1] = ["-m", arguments[0][2:]]
    options = [one for one in arguments[:1] if one.startswith("-")]
    if not arguments or not set(options) <= set(IMITATED) or "PYTHONHASHSEED" in os.environ:
        os.execv(python, [python, *arguments])
    connection = connect(folder, python)
    order = {
        "arguments": arguments,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "executable": os.path.join(folder, "python"),
    }
    socket.send_fds(connection, [json.dumps(order).encode() + b"\n"], [0, 1, 2])
    pid = number(connection)
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda received, _: os.kill(pid, received))
    code = number(connection)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def number(connection: socket.socket) -> int:
    """Receive a number."""
    data = connection.recv(4, socket.MSG_WAITALL)
    if len(data) < 4:
        raise SystemExit("the server of forks is gone: see its log beside its socket")
    return array.array("i", data)[0]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
