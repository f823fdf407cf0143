"""Ends every process that a demo started, whoever its parent is by now: they all carry a variable with the demo's folder.

The coordinator and an attempt's supervisor outlive their parents on purpose, so neither process groups nor children's ids
find them when an earlier demo was killed.
"""
import contextlib
import os
import pathlib
import signal
import time

VARIABLE = "EMOE_DEMO_DIR"
PATIENCE = 4.0  # seconds from SIGTERM to SIGKILL, and as many until a supervisor gets one too


def of(folder):
    """Ids of the living processes of the demo in `folder`, without this one."""
    marker = f"{VARIABLE}={folder}".encode()
    found = set()
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):  # ended meanwhile, or somebody else's
                if marker in (entry / "environ").read_bytes().split(b"\0"):
                    found.add(int(entry.name))
    return found


def supervises(pid):
    """Whether this is the supervisor of an attempt, which follows its ranks by itself and removes their shared memory."""
    with contextlib.suppress(OSError):
        command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return command[0].endswith(b"/emoe-supervise") and command[1:2] == [b"attempt"]
    return False


def end_all(folder):
    """Returns when none is left. SIGTERM lets ranks write a checkpoint; SIGKILL is for what does not listen, and for ranks
    that wait for a coordinator which does not come back."""
    began, asked = time.monotonic(), set()
    while left := of(folder):
        waited = time.monotonic() - began
        killed = {pid for pid in left if waited > PATIENCE * (2 if supervises(pid) else 1)}
        for pid in killed | (left - asked):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if pid in killed else signal.SIGTERM)
        asked |= left
        time.sleep(0.05)
