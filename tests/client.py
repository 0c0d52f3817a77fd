"""Asks a server (`served.py`) for a run of camcli, and behaves as the process itself would.

As a program, `client.py SOCKET ARGUMENT…`, it imports little, so that it starts at once.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

NORMAL = {
    "limits": {},
    "powerless": False,
    "lost_cwd": False,
    "unordered": False,
    "interval": None,
}


def asked(path, wanted, streams):
    """The connection to a run that has been started, and its process number."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    socket.send_fds(connection, [b"\n"], streams)
    connection.sendall(json.dumps(NORMAL | wanted).encode() + b"\n")
    return connection, number(connection)


def number(connection):
    """What the server says next."""
    line = b""
    while not line.endswith(b"\n"):
        part = connection.recv(1)
        if not part:
            raise ConnectionResetError("the server has gone")
        line += part
    return int(line)


def main():
    path, *arguments = sys.argv[1:]
    wanted = {"arguments": arguments, "cwd": os.getcwd(), "environment": dict(os.environ)}
    connection, pid = asked(path, wanted, [0, 1, 2])
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), lambda received, _: os.kill(pid, received))
    status = number(connection)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main()
