"""A full disk while checkpointing, and checkpoint folders that are torn."""
import contextlib
import os
import pathlib
import signal

import pytest

import emoe_tools as tools
from emoe_api import ApiError, Coordinator
from fault_support import STEPS, Run, assert_same_result, hurt_job, rank_pids, send, steps_in, undisturbed_run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return undisturbed_run(tmp_path_factory.mktemp("undisturbed"))


class SmallDisk:
    """A tmpfs of so many MiB, for the length of a block; skips where none may be mounted (with_mounts.sh tries to make it so)."""

    def __init__(self, folder, mebibytes=4):
        self.path, self.mebibytes = pathlib.Path(folder), mebibytes
        self.ballast = self.path / "ballast"

    def __enter__(self):
        self.path.mkdir(parents=True)
        made = tools.run(["mount", "-t", "tmpfs", "-o", f"size={self.mebibytes}m", "emoe-test", self.path])
        if made.code != 0:
            pytest.skip(f"needs the right to mount a tmpfs: {made.text.strip()}")
        return self

    def __exit__(self, *_):
        tools.run(["umount", "-l", self.path])

    def fill(self, leave):
        """Writes until no more than `leave` bytes are free."""
        def filled():
            room = os.statvfs(self.path)
            more = room.f_bavail * room.f_bsize - leave
            with contextlib.suppress(OSError), open(self.ballast, "ab") as file:
                file.write(bytes(max(0, more)))
            return more <= 0

        tools.wait_until(filled, 60, f"{self.path} full")

    def empty(self):
        self.ballast.unlink()


def leave_half_a_checkpoint(disk, out):
    """Leaves room for half of a checkpoint such as that of step 10, which is there."""
    assert tools.valid_checkpoints(out) == [10]
    folder = out / "checkpoints" / "step_00000010"
    disk.fill(leave=sum(file.stat().st_size for file in folder.iterdir()) // 2)


def test_full_disk_at_a_checkpoint(tmp_path, undisturbed):
    """Training goes on with the checkpoints there are; the export, which finds no room either, ends the run with 74."""
    with SmallDisk(tmp_path / "disk") as disk, Run(tmp_path, hold=11, out=disk.path / "out") as run:
        run.held()
        leave_half_a_checkpoint(disk, run.out)
        run.holds.release()
        assert run.process.wait(120) == tools.IO_ERROR, run.text
        failures = [line for line in run.text.splitlines() if "training goes on without this checkpoint" in line]
        assert failures and all("No space left" in line and "step_" in line for line in failures), run.text
        assert tools.valid_checkpoints(run.out) == [10] and not list(run.out.rglob("*.tmp"))
        disk.empty()
        assert "resumed from the checkpoint of step 10" in run.again()
        tools.assert_same_training(run.out, undisturbed)


def test_file_size_limit_while_checkpointing(tmp_path):
    """The same by a limit, where nothing may be mounted: every file above 16 KiB fails with EFBIG."""
    job, out = tools.write_yaml(tmp_path / "job.yaml", hurt_job(parallel__ranks=1, train__max_steps=12)), tmp_path / "out"
    limited = ["prlimit", "--fsize=16384", "env", "--ignore-signal=XFSZ", *tools.worker_command("run", job, "--out", out)]
    done = tools.run(limited, env={"EMOE_CACHE_DIR": str(tmp_path / "cache")}).expect(tools.IO_ERROR)
    assert "File too large" in done.err and "training goes on without this checkpoint" in done.err, done.err
    assert tools.valid_checkpoints(out) == [] and not list(out.rglob("*.tmp"))
    told, = (w for w in tools.read_json(out / "warnings.json") if w["code"] == "CHECKPOINT_FAILED")
    assert told["where"] == "checkpoints" and told["text"].startswith(f"{told['count']} not written, "), told
    tools.worker("run", job, "--out", out).expect()


def test_a_job_waits_for_room_and_goes_on(tmp_path, undisturbed):
    with SmallDisk(tmp_path / "disk") as disk:
        settings = {"output_root": str(disk.path / "outputs"), "liveness__retry_pause": "1s"}
        with Coordinator(tmp_path / "coordinator", **settings) as coordinator:
            api = coordinator.api
            coordinator.holds.add("step-11")
            job_id = api.create(hurt_job(resources__max_attempts=10)).id
            leave_half_a_checkpoint(disk, pathlib.Path(api.wait_for_step(job_id, 11).output_dir))
            coordinator.holds.release()
            job = tools.wait_until(lambda: failed_attempt(api, job_id), 60, "an attempt that met the full disk")
            assert api.reason_name(job.attempts[0].reason) == "REASON_IO", job.attempts[0].message
            disk.empty()
            job = api.succeed(job_id)
            assert job.attempts[-1].resumed_from_step >= 10
            assert_same_result(api, job, undisturbed)


def test_full_disk_under_the_database(tmp_path, undisturbed):
    """A coordinator that cannot store refuses to take anything on, says why, and goes on when there is room; what ranks
    report meanwhile is not lost."""
    with SmallDisk(tmp_path / "disk", 32) as disk:  # SQLite's log alone may take 4
        state, outputs = disk.path / "state", str(tmp_path / "outputs")
        with Coordinator(tmp_path / "coordinator", state=state, output_root=outputs) as coordinator:
            api = coordinator.api
            coordinator.holds.add("step-10")
            job_id = api.create(hurt_job()).id
            job = api.wait_for_step(job_id, 10)
            pids, out = rank_pids(job), pathlib.Path(job.output_dir)
            disk.fill(leave=0)
            coordinator.holds.release()
            tools.wait_until(lambda: steps_in(out) > 10, 60, "training to go on")
            taken = []
            refused = tools.wait_until(lambda: refusal(api, taken), 60, "a job that is not taken")
            assert refused.reason == "STORE_FAILED" and "full" in refused.message.lower(), str(refused)
            assert api.get(job_id).id == job_id, "reading needs no room"
            disk.empty()
            for early in taken:
                api.call("CancelJob", id=early)
            accepted = api.create(tools.tiny_job(name="after")).id
            job = api.succeed(job_id)
            assert len(job.attempts) == 1 and {r.pid for r in job.attempts[0].ranks} == set(pids)
            assert_same_result(api, job, undisturbed)
            assert [e.step.step for e in api.events(job_id) if e.WhichOneof("kind") == "step"] == list(range(STEPS))
            api.succeed(accepted)
            jobs = {j.id for j in api.call("ListJobs", page_size=1000).jobs}
            assert jobs == {job_id, accepted, *taken}, "what was refused is not there"


def refusal(api, taken):
    """The error with which a job is refused; None if it was taken (as long as the database has room in its pages): then
    it is among `taken`, and waits, because the slots are another's."""
    try:
        taken.append(api.create(tools.tiny_job(name="refused", parallel__ranks=2)).id)
    except ApiError as error:
        return error
    return None


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
    """A run that was stopped in the middle, to be copied: job file and output folder."""
    with Run(tmp_path_factory.mktemp("stopped"), hold=31) as run:
        run.held()
        run.kill()
        assert tools.valid_checkpoints(run.out) == [10, 20, 30]
    return run.job, run.out


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
    coordinator.holds.add("step-41")
    job_id = api.create(hurt_job(checkpoint__every_steps=20)).id
    pids = rank_pids(api.wait_for_step(job_id, 41))
    out = pathlib.Path(api.get(job_id).output_dir)
    coordinator.kill()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            send(pid, signal.SIGKILL)
    tools.assert_no_process(coordinator.marker)
    coordinator.holds.release()
    assert tools.valid_checkpoints(out) == [20, 40]
    truncate(largest(out / "checkpoints" / "step_00000040"))
    coordinator.start()
    job = coordinator.api.succeed(job_id)
    assert job.attempts[-1].resumed_from_step == 20
    assert_same_result(coordinator.api, job, undisturbed)
