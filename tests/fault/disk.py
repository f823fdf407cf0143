"""A full disk while checkpointing, and checkpoint folders that are torn."""
import contextlib
import os
import pathlib
import resource
import signal
import subprocess

import pytest

import emoe_tools as tools
from emoe_api import Coordinator
from fault_support import assert_same_result, rank_pids, send, slow_job, undisturbed_run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return undisturbed_run(tmp_path_factory.mktemp("undisturbed"))


class SmallDisk:
    """A tmpfs of so many KiB; None where this user may not mount."""

    def __init__(self, folder, kibibytes):
        self.path = pathlib.Path(folder)
        self.path.mkdir(parents=True)
        made = tools.run(["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "emoe-test", self.path])
        if made.code != 0:
            pytest.skip(f"needs the right to mount a tmpfs: {made.text.strip()}")

    def grow(self, kibibytes):
        tools.run(["mount", "-o", f"remount,size={kibibytes}k", self.path]).expect()


@contextlib.contextmanager
def small_disk(folder, kibibytes):
    disk = SmallDisk(folder, kibibytes)
    try:
        yield disk
    finally:
        tools.run(["umount", "-l", disk.path])


def test_full_disk_keeps_older_checkpoints_and_says_so(tmp_path, undisturbed):
    with small_disk(tmp_path / "disk", 4096) as disk:
        job, out = tools.write_yaml(tmp_path / "job.yaml", slow_job()), disk.path / "out"
        (disk.path / "ballast").write_bytes(bytes(4096 * 1024 - 320 * 1024))
        full = tools.worker("run", job, "--out", out, ranks=2).expect(tools.IO_ERROR)
        assert "No space left" in full.text and "step_" in full.text, full.text
        left = sorted(p.name for p in (out / "checkpoints").iterdir())
        assert not [name for name in left if name.endswith(".tmp")], left
        before = tools.valid_checkpoints(out)
        (disk.path / "ballast").unlink()
        tools.worker("run", job, "--out", out, ranks=2).expect()
        tools.assert_same_training(out, undisturbed)
        assert len(before) <= 3


def test_file_size_limit_while_checkpointing(tmp_path):
    """The same by setrlimit, where nothing may be mounted: every file above 16 KiB fails with EFBIG."""
    job, out = tools.write_yaml(tmp_path / "job.yaml", slow_job(parallel__ranks=1, train__max_steps=12)), tmp_path / "out"

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))

    done = subprocess.run([str(c) for c in (tools.WORKER, "run", job, "--out", out)], preexec_fn=limit, capture_output=True,
                          text=True, timeout=60, env=tools.environment({"EMOE_CACHE_DIR": str(tmp_path / "cache")}))
    assert done.returncode == tools.IO_ERROR, done.stdout + done.stderr
    assert "File too large" in done.stderr, done.stderr
    assert tools.valid_checkpoints(out) == [] and not list(out.rglob("*.tmp"))
    tools.worker("run", job, "--out", out).expect()


def test_a_job_waits_for_room_and_goes_on(tmp_path, undisturbed):
    with small_disk(tmp_path / "disk", 4096) as disk:
        settings = {"output_root": str(disk.path / "outputs"), "liveness__retry_pause": "1s"}
        with Coordinator(tmp_path / "coordinator", **settings) as coordinator:
            api = coordinator.api
            (disk.path / "ballast").write_bytes(bytes(4096 * 1024 - 320 * 1024))
            job_id = api.create(slow_job(resources__max_attempts=10)).id
            job = tools.wait_until(lambda: failed_attempt(api, job_id), 60, "an attempt that met the full disk")
            assert api.reason_name(job.attempts[0].reason) == "REASON_IO", job.attempts[0].message
            (disk.path / "ballast").unlink()
            job = api.succeed(job_id)
            assert_same_result(api, job, undisturbed)


def failed_attempt(api, job_id):
    job = api.get(job_id)
    return job if job.attempts and job.attempts[0].HasField("end_time") else None


def truncate(path):
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


TEARS = {
    "manifest missing": lambda folder: (folder / "manifest.json").unlink(),
    "manifest cut": lambda folder: truncate(folder / "manifest.json"),
    "file missing": lambda folder: largest(folder).unlink(),
    "file cut": lambda folder: truncate(largest(folder)),
    "bit flipped": lambda folder: flip_a_bit(largest(folder)),
    "only a .tmp": lambda folder: folder.rename(folder.with_name(folder.name + ".tmp")),
}


def largest(folder):
    return max((p for p in folder.iterdir() if p.name != "manifest.json"), key=lambda p: p.stat().st_size)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped in the middle: job file and output folder, to be copied."""
    folder = tmp_path_factory.mktemp("stopped")
    job, out = tools.write_yaml(folder / "job.yaml", slow_job()), folder / "out"
    command = [str(c) for c in ("mpirun", *tools.MPI_ARGUMENTS, "-n", 2, tools.WORKER, "run", job, "--out", out)]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=tools.environment())
        tools.wait_until(lambda: len(tools.valid_checkpoints(out)) >= 3, 60, "three checkpoints")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return job, out


@pytest.mark.parametrize("tear", TEARS)
def test_a_torn_checkpoint_is_passed_over(tear, stopped, undisturbed, tmp_path):
    job, source = stopped
    tools.run(["cp", "-r", source, tmp_path / "out"]).expect()
    out = tmp_path / "out"
    steps = tools.valid_checkpoints(out)
    TEARS[tear](out / "checkpoints" / f"step_{steps[-1]:08d}")
    done = tools.worker("run", job, "--out", out, ranks=2).expect()
    tools.assert_same_training(out, undisturbed)
    if tear != "only a .tmp":
        assert f"step_{steps[-1]:08d}" in done.text, "says which checkpoint it did not use:\n" + done.text
    assert not list(out.rglob("*.tmp"))


def test_all_checkpoints_torn_starts_anew(stopped, undisturbed, tmp_path):
    job, source = stopped
    tools.run(["cp", "-r", source, tmp_path / "out"]).expect()
    for step in tools.valid_checkpoints(tmp_path / "out"):
        truncate(largest(tmp_path / "out" / "checkpoints" / f"step_{step:08d}"))
    tools.worker("run", job, "--out", tmp_path / "out", ranks=2).expect()
    tools.assert_same_training(tmp_path / "out", undisturbed)


def test_torn_under_a_coordinator(coordinator, undisturbed):
    api = coordinator.api
    job_id = api.create(slow_job()).id
    pids = rank_pids(api.wait_for_step(job_id, 35))
    out = pathlib.Path(api.get(job_id).output_dir)
    coordinator.kill()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            send(pid, signal.SIGKILL)
    tools.assert_no_process(coordinator.marker)
    steps = tools.valid_checkpoints(out)
    truncate(largest(out / "checkpoints" / f"step_{steps[-1]:08d}"))
    coordinator.start()
    job = coordinator.api.succeed(job_id)
    assert job.attempts[-1].resumed_from_step == steps[-2]
    assert_same_result(coordinator.api, job, undisturbed)
