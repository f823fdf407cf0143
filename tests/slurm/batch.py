"""deploy/slurm/emoe.sbatch: the same job from the same spec without a coordinator."""
import pathlib
import time

import pytest

import emoe_tools as tools
from fault_support import hurt_job, steps_in, undisturbed_run

SCRIPT = tools.ROOT / "deploy" / "slurm" / "emoe.sbatch"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return undisturbed_run(tmp_path_factory.mktemp("undisturbed"))


class Batch:
    """The job, submitted; its ranks wait at `hold`."""

    def __init__(self, cluster, folder, *options, hold=None):
        self.cluster, self.out, self.log = cluster, folder / "job.out", folder / "slurm.log"
        self.job = tools.write_yaml(folder / "job.yaml", hurt_job())
        self.holds = tools.Holds(folder / "holds", *([f"step-{hold}"] if hold else []))
        self.number = cluster.command(
            "sbatch", "--parsable", "-o", self.log, *options, SCRIPT, self.job,
            env={**self.holds.env, "EMOE_BIN_DIR": str(tools.BIN)}).strip()

    def state(self):
        return self.cluster.jobs()[self.number]["JobState"]

    def at_step(self, step):
        tools.wait_until(lambda: steps_in(self.out) == step, 60, lambda: f"step {step}\n{self.text()}")

    def end(self, timeout=120):
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        tools.wait_until(lambda: self.state() in ended, timeout, lambda: f"{self.state()}\n{self.text()}")
        return self.cluster.jobs()[self.number]

    def text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@pytest.mark.parametrize("options", [["-n2"], ["-N2", "-n2"], []])
def test_the_same_job_from_the_same_spec(cluster, tmp_path, undisturbed, options):
    batch = Batch(cluster, tmp_path, *options)
    assert batch.end()["JobState"] == "COMPLETED", batch.text()
    tools.assert_same_training(batch.out, undisturbed)
    assert ("sbatch -n 2 gives each its own" in batch.text()) == (not options)


@pytest.mark.parametrize("how", ["warning", "administrator"])
def test_resumes_after_a_requeue(cluster, tmp_path, undisturbed, how):
    batch = Batch(cluster, tmp_path, "-n2", hold=23)
    batch.at_step(23)
    began = time.monotonic()
    if how == "warning":
        cluster.command("scancel", "--signal=USR1", batch.number)
    else:
        cluster.command("scontrol", "requeue", batch.number)
    time.sleep(1)
    batch.holds.release()
    tools.wait_until(lambda: steps_in(batch.out) > 24, 90, lambda: f"the next start\n{batch.text()}")
    tools.measured(f"KILL → NEXT STEP emoe.sbatch: {how}: {time.monotonic() - began:.1f} s")
    ended = batch.end()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), batch.text()
    assert "resumed from the checkpoint of step 24" in batch.text(), batch.text()
    tools.assert_same_training(batch.out, undisturbed)


def test_another_number_of_tasks_than_the_job_has_ranks(cluster, tmp_path):
    batch = Batch(cluster, tmp_path, "-n3")
    assert batch.end()["ExitCode"] == "64:0", batch.text()
    assert "parallel.ranks is 2, but SLURM" in batch.text() and "=3" in batch.text(), batch.text()


def test_srun_without_pmix_is_told_in_one_sentence(cluster, tmp_path):
    job = tools.write_yaml(tmp_path / "job.yaml", hurt_job())
    done = tools.run(["srun", "-n2", "--mpi=none", tools.WORKER, "run", job, "--out", tmp_path / "out"], env=cluster.env)
    assert done.code == tools.USAGE, done.text
    lines = [line for line in done.text.splitlines() if "emoe-worker: " in line]
    assert lines and all(line.endswith("start it with srun --mpi=pmix") for line in lines), done.text
    assert "MPI_Init" not in done.text and not (tmp_path / "out" / "job.yaml").exists()
    alone = tools.run(["srun", "-n1", "--mpi=none", tools.WORKER, "run", job, "--out", tmp_path / "one", "--set",
                       "parallel.ranks=1", "--set", "train.max_steps=2"], env=cluster.env)
    assert alone.code == 0, alone.text
