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
PATIENCE = 10.0  # seconds from SIGTERM to SIGKILL


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


def end_all(folder):
    """Returns when none is left. SIGTERM lets a supervisor remove its ranks and their shared memory; SIGKILL is for what
    does not listen."""
    deadline, asked = time.monotonic() + PATIENCE, set()
    while left := of(folder):
        late = time.monotonic() > deadline
        for pid in left if late else left - asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        asked |= left
        time.sleep(0.05)
