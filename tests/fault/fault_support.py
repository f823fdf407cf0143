"""Jobs that are hurt while they wait at a hold point, and the same job left alone to compare with."""
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import emoe_tools as tools  # noqa: E402

STEPS = 50


def hurt_job(**changes):
    """Two ranks, with everything in it that must survive: dropout, shuffling, experts, a schedule."""
    return tools.tiny_job(**{
        "train__max_steps": STEPS, "train__global_batch": 16, "lora__targets": tools.ALL_LINEARS, "lora__dropout": 0.1,
        "emoe": tools.TINY_EMOE, "parallel__ranks": 2, "checkpoint__every_steps": 10, "checkpoint__keep": 3,
        "resources__max_attempts": 3, **changes})


def undisturbed_run(folder, **changes):
    return tools.run_job(folder, hurt_job(**changes), ranks=2)


def steps_in(out):
    """Optimiser steps whose metrics are in an output folder, also of a run under way."""
    metrics = out / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.exists() else 0


class Run(tools.Background):
    """The job without a coordinator, in the background: `job` and `out` are its file and its output folder. It waits at
    `hold` until it is released."""

    def __init__(self, folder, hold, out=None, ranks=2, **changes):
        folder = pathlib.Path(folder)
        self.ranks, self.out = ranks, out or folder / "out"
        self.job = tools.write_yaml(folder / "job.yaml", hurt_job(parallel__ranks=ranks, **changes))
        self.step, self.holds = hold, tools.Holds(folder / "holds", f"step-{hold}")
        command = tools.worker_command("run", self.job, "--out", self.out, ranks=ranks)
        super().__init__(command, folder / "run.log", env=self.holds.env)

    def held(self):
        """Process ids of the ranks once they wait."""
        return tools.wait_until(lambda: self.steps_done() == self.step and self.rank_pids(), 120,
                                lambda: f"{self.ranks} ranks after step {self.step}\n{self.text}")

    def steps_done(self):
        return steps_in(self.out)

    def rank_pids(self):
        pids = sorted(pid for pid, name in tools.marked_processes(self.marker).items()
                      if "mpirun" not in name and "emoe-worker" in name)
        return pids if len(pids) == self.ranks else None

    def again(self, *options, ranks=2):
        """The same command once more, to its end; returns what it printed."""
        return tools.worker("run", self.job, "--out", self.out, *options, ranks=ranks).expect().text


def rank_pids(job):
    """Process ids of the ranks of a job's newest attempt, by rank."""
    pids = [r.pid for r in sorted(job.attempts[-1].ranks, key=lambda r: r.rank)]
    assert pids and all(pathlib.Path(f"/proc/{pid}").exists() for pid in pids), pids
    return pids


def send(pid, number):
    os.kill(pid, number)


def steps_of(api, job_id):
    return [s.step for s in api.call("ListMetrics", id=job_id, page_size=10000).steps]


def assert_same_result(api, job, undisturbed, steps=STEPS):
    """Weights, metrics file and the store's metrics of a disturbed job are those of the undisturbed one."""
    out = pathlib.Path(job.output_dir)
    tools.assert_same_training(out, undisturbed)
    assert steps_of(api, job.id) == list(range(steps)), "steps in the coordinator's store"
    assert job.merge.verified


def next_step(api, job_id, attempt, began, what):
    """Waits for the first step of this attempt or a later one, and says how long after `began` it was reported."""
    def done():
        return [s for s in api.call("ListMetrics", id=job_id, page_size=10000).steps if s.attempt >= attempt]
    tools.wait_until(done, 120, lambda: f"a step of attempt {attempt}\n{api.get(job_id)}")
    tools.measured(f"KILL → NEXT STEP {what}: {time.monotonic() - began:.1f} s")
