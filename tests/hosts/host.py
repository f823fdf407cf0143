#!/usr/bin/env python3
"""A host's remote shell, for tests where network namespaces are the hosts.

  host.py serve ADDRESS            the first process of a host: does what it is told over TCP
  host.py ssh [OPTION…] HOST TEXT  what emoe-coordinator and mpirun call: runs TEXT by sh on HOST, as ssh does
"""
import json
import os
import signal
import socket
import subprocess
import sys
import threading

PORT = 22
CLEAN = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "SHELL": "/bin/sh",
         "TMPDIR": "/run"}


def answer(connection):
    with connection, connection.makefile("rwb") as stream:
        text = json.loads(stream.readline())
        # Like sshd's: nothing of the caller's environment comes along.
        done = subprocess.run(["/bin/sh", "-c", text], env=CLEAN, cwd="/", stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, check=False)
        code = done.returncode if done.returncode >= 0 else 128 - done.returncode
        stream.write(json.dumps([code, done.stdout.decode(errors="replace")]).encode() + b"\n")


def serve(address):
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with socket.create_server((address, PORT)) as server:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=answer, args=(connection,), daemon=True).start()


def ssh(arguments):
    while arguments[0].startswith("-"):
        arguments = arguments[2:] if arguments[0] in ("-o", "-l", "-p") else arguments[1:]
    host, *words = arguments
    try:
        connection = socket.create_connection((host, PORT), timeout=1)
    except OSError as error:
        print(f"ssh: connect to host {host} port {PORT}: {os.strerror(error.errno) if error.errno else error}", file=sys.stderr)
        return 255
    connection.settimeout(None)
    with connection, connection.makefile("rwb") as stream:
        stream.write(json.dumps(" ".join(words)).encode() + b"\n")
        stream.flush()
        line = stream.readline()
    if not line:
        return 255
    code, text = json.loads(line)
    sys.stdout.write(text)
    return code


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    sys.exit(ssh(sys.argv[2:]))
