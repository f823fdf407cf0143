"""What the script tests share: where things are, running the programs, reading what they leave behind.

Environment, set by ctest (cmake/targets.cmake): EMOE_SOURCE_DIR, EMOE_BIN_DIR, and EMOE_SHARED for the folder with the
reference results and models of other owners, which is not part of the repository (default: "shared" beside the clone; tests
that need it skip without it).
"""
import contextlib
import hashlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import uuid

import yaml

ROOT = pathlib.Path(os.environ.get("EMOE_SOURCE_DIR") or pathlib.Path(__file__).resolve().parents[2])
BIN = pathlib.Path(os.environ.get("EMOE_BIN_DIR") or ROOT / "build" / "bin")
SHARED = pathlib.Path(os.environ.get("EMOE_SHARED") or ROOT.parent / "shared")
FIXTURES = ROOT / "tests" / "reference" / "data"
TINY = FIXTURES / "tiny"  # the suite's own Llama: see tests/reference/make_fixtures.py
WORKER, COORDINATOR, EMOECTL = BIN / "emoe-worker", BIN / "emoe-coordinator", BIN / "emoectl"

MPI_ARGUMENTS = ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]  # as in cmake/targets.cmake
SKIPPED = 77
# Put before a command: it dies with this process, as when ctest kills a test past its limit. (Popen's preexec_fn would run
# Python in a fork of gRPC's threads.)
DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL"]

# Exit codes of the programs (the contract's list).
USAGE, DATA, INTERNAL, PEER_LOST, IO_ERROR, PREEMPTED, NON_FINITE, NO_MEMORY = 64, 65, 70, 71, 74, 75, 76, 77


class Finished:
    """A process that ended: exit code and what it printed."""

    def __init__(self, command, code, out, err, seconds):
        self.command, self.code, self.out, self.err, self.seconds = command, code, out, err, seconds

    @property
    def text(self):
        return self.out + self.err

    def expect(self, code=0):
        """Returns itself if the exit code is `code`; otherwise fails showing all that was printed."""
        assert self.code == code, f"exit code {self.code}, expected {code}: {' '.join(self.command)}\n{self.text}"
        return self


def environment(extra=None):
    """One thread a process unless a job says otherwise: the machine has few cores and the tests run side by side."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1", **(extra or {})}


def run(command, timeout=240, env=None, cwd=None, stdin=None):
    """Runs a command to its end. Past `timeout` its whole process group is killed and the test fails."""
    command = [str(part) for part in command]
    begin = time.monotonic()
    process = subprocess.Popen([*DIES_WITH_US, *command], stdin=stdin or subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, errors="replace", env=environment(env), cwd=cwd,
                               start_new_session=True)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"still running after {timeout} s: {' '.join(command)}\n{out}{err}") from None
    return Finished(command, process.returncode, out, err, time.monotonic() - begin)


def worker_command(*arguments, ranks=None):
    """`emoe-worker …`, alone or as `ranks` processes under mpirun."""
    prefix = ["mpirun", *MPI_ARGUMENTS, "-n", ranks] if ranks else []
    return [str(part) for part in (*prefix, WORKER, *arguments)]


def worker(*arguments, ranks=None, **options):
    return run(worker_command(*arguments, ranks=ranks), **options)


# ---------------------------------------------------------------- jobs
def tiny_job(**changes):
    """A job on the suite's own model that takes a second. `changes` as for changed(): train__max_steps=3 …"""
    spec = {
        "name": "tiny",
        "task": "train",
        "model": {"path": str(TINY), "dtype": "float32"},
        "data": {"train": str(FIXTURES / "rows.json"), "format": "alpaca", "max_length": 128, "packing": True,
                 "shuffle": True},
        "tuning": "lora",
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "v_proj"]},
        "optimizer": {"learning_rate": 5.0e-3, "schedule": "cosine", "warmup_ratio": 0.0},
        "train": {"max_steps": 4, "global_batch": 8, "seed": 7},
        "checkpoint": {"every_steps": 0},
        "parallel": {"ranks": 1},
        "export": {"dtype": "float32"},
        "resources": {"device": "cpu", "threads_per_rank": 1},
    }
    return changed(spec, **changes)


def as_evaluation(spec, **changes):
    """The task: evaluate with what a training job and an evaluation have in common."""
    common = {key: spec[key] for key in ("name", "model", "data", "emoe", "parallel", "resources") if key in spec}
    data = {key: value for key, value in spec["data"].items() if key not in ("train", "shuffle", "fraction")}
    return changed({**common, "task": "evaluate", "data": data}, **changes)


TINY_EMOE = {"experts": 8, "top_k": 3, "layers": {"list": [0, 2]},
             "partition": {"method": "kmeans", "restarts": 2, "seed": 0}, "selector": "top"}
ALL_LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def changed(spec, **changes):
    """A copy of a spec with keys set; `train__max_steps=3` is train.max_steps, None removes the key."""
    copy = json.loads(json.dumps(spec))
    for name, value in changes.items():
        *path, key = name.split("__")
        target = copy
        for part in path:
            target = target.setdefault(part, {})
        if value is None:
            target.pop(key, None)
        else:
            target[key] = value
    return copy


def write_yaml(path, document):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def write_json(path, document):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def run_job(folder, spec, ranks=None, code=0, **options):
    """Writes the spec, runs it without a coordinator, checks the exit code; returns the output folder."""
    folder = pathlib.Path(folder)
    job = write_yaml(folder / "job.yaml", spec)
    worker("run", job, "--out", folder / "out", ranks=ranks, **options).expect(code)
    return folder / "out"


# ---------------------------------------------------------------- results
def read_json(path):
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def read_lines(path):
    """A .jsonl file as a list."""
    return [json.loads(line) for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines()]


def exported_weights(out):
    """The bytes of every safetensors file of export/model, for comparisons bit by bit."""
    files = sorted((pathlib.Path(out) / "export" / "model").glob("*.safetensors"))
    assert files, f"nothing exported in {out}"
    return {file.name: file.read_bytes() for file in files}


def assert_same_training(out, undisturbed):
    """Weights bit by bit, and every step of the undisturbed run exactly once with the same numbers."""
    assert exported_weights(out) == exported_weights(undisturbed), "the exported weights differ"
    exact = lambda rows: [(r["step"], r["loss"], r["grad_norm"], r["learning_rate"], r["target_tokens"]) for r in rows]
    assert exact(read_lines(out / "metrics.jsonl")) == exact(read_lines(undisturbed / "metrics.jsonl"))


def valid_checkpoints(out):
    """Steps of the published checkpoint folders (no *.tmp), ascending."""
    return sorted(int(folder.name[5:]) for folder in (pathlib.Path(out) / "checkpoints").glob("step_*")
                  if folder.name[5:].isdigit() and (folder / "manifest.json").is_file())


# ---------------------------------------------------------------- processes
def wait_until(condition, timeout, what):
    """The first true value of condition(), asked every 20 ms; fails with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    late = False
    while True:
        value = condition()
        if value:
            return value
        if late:
            raise AssertionError(f"not within {timeout} s: {what() if callable(what) else what}")
        time.sleep(0.02)
        late = time.monotonic() >= deadline  # a machine that stood still meanwhile is asked once more


def mpi_folder_name(attempt):
    """What MPI's folders of an attempt are called, in /dev/shm and /tmp, as by launcher/local/attempt_files.cc."""
    return f"emoe-mpi-{hashlib.sha256(str(attempt).encode()).hexdigest()[:16]}"


def marked_processes(marker):
    """{pid: command} of the live processes whose environment carries `marker` (a whole family, whoever its parent is)."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            if state != "Z" and marker.encode() in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


class Background:
    """A command that runs beside the test, its output in a file. The block ends it and whatever came from it, all of which
    carry `marker` in their environment."""

    def __init__(self, command, log, marker=None, env=None):
        self.marker, self.log = marker or new_marker(), pathlib.Path(log)
        name, value = self.marker.split("=")
        with open(self.log, "wb") as file:
            self.process = subprocess.Popen([*DIES_WITH_US, *(str(part) for part in command)], stdin=subprocess.DEVNULL,
                                            stdout=file, stderr=file, env=environment({name: value, **(env or {})}),
                                            start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    @property
    def text(self):
        return self.log.read_text(errors="replace")

    def kill(self):
        """SIGKILL to the whole family; returns when none of it is left."""
        kill_marked(self.marker)
        self.process.wait()


class Holds:
    """Points at which the step loop of a run waits until it is released, so that a test can hurt it there: "step-25" (when
    25 steps are done), "export" (see worker/report/hold_sink.h). `env` is for the command's environment."""

    def __init__(self, folder, *points):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True)
        self.env = {"EMOE_TEST_HOLD": str(self.folder)}
        self.add(*points)

    def add(self, *points):
        for point in points:
            (self.folder / point).touch()

    def release(self, *points):
        """Those named, or all."""
        for point in points or os.listdir(self.folder):
            (self.folder / point).unlink()


def reserved_port(host="127.0.0.1"):
    """A socket bound to a free port of this host: while it is open nobody gets that port by chance, and a server that
    is told it may listen there (servers set SO_REUSEADDR, as this does)."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((host, 0))
    return holder


MEASURED = []  # what tests have measured; shown at pytest's end (tests/conftest.py)


def measured(text):
    MEASURED.append(text)


def new_marker():
    return f"EMOE_TEST_ID={uuid.uuid4()}"


def kill_marked(marker, timeout=60):
    """SIGKILL to every process that carries `marker`, again and again until there is none."""
    def none_left():
        for pid in (left := marked_processes(marker)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    wait_until(none_left, timeout, lambda: f"killed: {marked_processes(marker)}")


def assert_no_process(marker, timeout=60):
    wait_until(lambda: not marked_processes(marker), timeout,
               lambda: f"no process left; there are {marked_processes(marker)}")
