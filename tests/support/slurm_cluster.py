"""A real Slurm of one's own on this machine: the fixture slurm-single-node.sh of EMOE_SHARED, two nodes, as long as a test."""
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

import pytest

import emoe_tools as tools
from emoe_api import Coordinator

SCRIPT = tools.SHARED / "fixtures" / "slurm-single-node.sh"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue")


def missing():
    """Why there can be no Slurm here; empty where there can."""
    if not SCRIPT.is_file():
        return f"no {SCRIPT}"
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    absent = [name for name in PROGRAMS if not shutil.which(name, path=path)]
    return f"no {', '.join(absent)}: tools/setup/setup.sh slurm installs them" if absent else ""


class Cluster:
    """Two nodes n1 and n2. `env` is for whoever talks to it."""

    def __init__(self, extra=(), **knobs):
        if why := missing():
            pytest.skip(why)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="emoe-slurm-"))  # short: its sockets lie there
        self.folder.chmod(0o755)
        settings = {f"SLURM_FIXTURE_{key.upper()}": str(value) for key, value in knobs.items()}
        if extra:
            (self.folder / "extra.conf").write_text("\n".join(extra) + "\n")
            settings["SLURM_FIXTURE_EXTRA"] = str(self.folder / "extra.conf")
        self.control("start", env=settings)
        self.env = {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.control("stop")
        shutil.rmtree(self.folder, ignore_errors=True)

    def control(self, action, *arguments, env=None):
        """Daemons keep open what they inherit: their output goes to a file."""
        with open(self.folder / "control.log", "ab") as log:
            done = subprocess.run([SCRIPT, action, self.folder, *arguments], stdin=subprocess.DEVNULL, stdout=log,
                                  stderr=log, env={**os.environ, **(env or {})}, timeout=60, check=False)
        assert done.returncode == 0, (self.folder / "control.log").read_text()

    def command(self, *command, code=0, env=None, **options):
        options.setdefault("cwd", self.folder)  # where sbatch leaves the output of what has no place for it
        return tools.run(command, env={**self.env, **(env or {})}, **options).expect(code).out

    def queue(self):
        """What squeue shows: [(id, name, state, reason)] of jobs that have not ended."""
        lines = self.command("squeue", "--noheader", "--format=%i|%j|%T|%r").splitlines()
        return [tuple(line.split("|")) for line in lines]

    def jobs(self):
        """{id: {key: value}} of all jobs that Slurm remembers."""
        found = {}
        for line in self.command("scontrol", "--oneliner", "show", "job").splitlines():
            fields = dict(part.split("=", 1) for part in line.split() if "=" in part)
            if "JobId" in fields:
                found[fields["JobId"]] = fields
        return found

    def nodes(self):
        """{name: state}, as sinfo writes it: idle, alloc, drained, down* …"""
        return dict(line.split("|") for line in self.command("sinfo", "--noheader", "--Node", "--format=%N|%t").splitlines())

    def make_ready(self):
        """Takes away what a test that failed has left: Slurm drains a node whose processes do not die in time."""
        for job, *_ in self.queue():
            self.command("scancel", job)
        ended = time.monotonic() + 60
        while time.monotonic() < ended and any(state != "idle" for state in self.nodes().values()):
            for node, state in self.nodes().items():
                if state.startswith(("drain", "drng", "down")):
                    print(f"node {node} is {state}: resumed", flush=True)
                    tools.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], env=self.env, cwd=self.folder)
            time.sleep(1)

    def update(self, job, change):
        self.command("scontrol", "update", f"JobId={job}", change)

    def coordinator(self, folder, **settings):
        """A coordinator that starts its jobs here; it asks often, so that a test need not wait."""
        quick = {"launcher__kind": "slurm", "launcher__slurm__poll_interval": "0.5s", "launcher__slurm__command_limit": "5s",
                 "slots": 0, "liveness__stop_grace": "8s"}
        return Coordinator(folder, env=self.env, **{**quick, **settings})
