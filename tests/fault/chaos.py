#!/usr/bin/env python3
"""Kills at random, for as long as you like: jobs must come out as if nothing had happened.

    tests/fault/chaos.py [--seconds 600] [--seed N] [--only ACTION…] [--keep]        (`make chaos`)

One job after the other under a coordinator; each is hurt a few times at random moments: the coordinator, a rank, mpirun or
a supervisor killed, stopped for a while or asked to end, everything killed at once with the newest checkpoint torn. Then the
job is left alone (in between it was paused and resumed, made room for jobs of higher priority, and had checkpoints exported), and
must be what the undisturbed run is: weights bit by bit, every step once in its files and in the
store, every checkpoint told, a history without gaps, no process and no shared memory left.
Timing decides what a seed does, so a failure may not come again; the folder that is printed stays and tells.
"""
import argparse
import contextlib
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

import fault_support as support  # puts tests/support on the path
import emoe_tools as tools
from emoe_api import ENDED, ApiError, Coordinator

STEPS, EVERY = 200, 10
HURTS = 5  # of one job


class Chaos:
    def __init__(self, folder, seed, only=()):
        self.actions = {action: weight for action, weight in self.ACTIONS.items() if not only or action.__name__ in only}
        self.folder, self.random = folder, random.Random(seed)
        self.job = support.hurt_job(train__max_steps=STEPS, train__global_batch=64, checkpoint__every_steps=EVERY, resources__max_attempts=100)
        self.undisturbed = tools.run_job(folder / "undisturbed", self.job, ranks=2)
        self.coordinator = Coordinator(folder, liveness__progress_timeout="10s", queue__preempt="true", queue__min_run="0s")
        self.torn = False
        self.urgent, self.exports = [], []  # ids of jobs beside the one that is hurt
        self.counts = dict.fromkeys(["paused", "displaced", "exported"], 0)

    def pick(self, *words):
        """A random living process of the coordinator's whose command has one of the words, or any; None if there is none."""
        found = [pid for pid, name in self.coordinator.processes().items() if not words or any(w in name for w in words)]
        return self.random.choice(sorted(found)) if found else None

    def send(self, pid, number):
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    # What may happen; each returns when the coordinator is there again.
    def coordinator_killed(self):
        self.coordinator.kill()
        time.sleep(self.random.choice([0, 0.3, 2]))
        self.coordinator.start()

    def coordinator_ended(self):
        self.coordinator.terminate()
        self.coordinator.start()

    def coordinator_stopped(self):
        self.send(self.coordinator.process.pid, signal.SIGSTOP)
        time.sleep(self.random.uniform(0.2, 3))
        self.send(self.coordinator.process.pid, signal.SIGCONT)

    def process_killed(self):
        self.send(self.pick(), signal.SIGKILL)

    def rank_killed(self):
        self.send(self.pick("emoe-worker run"), signal.SIGKILL)

    def supervisor_killed(self):
        self.send(self.pick("emoe-supervise attempt"), signal.SIGKILL)

    def preempted(self):
        self.send(self.pick("emoe-supervise attempt"), signal.SIGTERM)

    def all_asked_to_end(self):
        for pid in self.coordinator.processes():
            self.send(pid, signal.SIGTERM)

    def rank_hangs(self):
        self.send(self.pick("emoe-worker run"), signal.SIGSTOP)

    def asked(self, method, **fields):
        """The answer; None where the job's state does not allow it (it may have ended meanwhile)."""
        try:
            return self.coordinator.api.call(method, **fields)
        except ApiError as error:
            if error.code not in ("FAILED_PRECONDITION", "NOT_FOUND"):
                raise
            return None

    def paused(self):
        if self.asked("PauseJob", id=self.job_id) is None:
            return
        self.counts["paused"] += 1
        time.sleep(self.random.choice([0, 0.5, 2]))
        if self.random.random() < 0.5:
            self.coordinator_killed()
        # From PAUSING or PAUSED; what ended first needs nothing.
        self.asked("ResumeJob", id=self.job_id)

    def displaced(self):
        job = tools.tiny_job(name="urgent", parallel__ranks=2, resources__priority=5, resources__max_attempts=100)
        self.urgent.append(self.coordinator.api.create(job).id)
        self.counts["displaced"] += 1
        if self.random.random() < 0.3:
            self.coordinator_killed()

    def exported(self):
        job = self.asked("ExportCheckpoint", id=self.job_id)
        if job is not None and job.id not in self.exports:
            self.exports.append(job.id)
            self.counts["exported"] += 1

    def power_cut(self):
        if self.random.random() < 0.5:
            self.coordinator.kill()
            time.sleep(self.random.uniform(0, 1.5))  # the ranks go on alone for a while
        tools.kill_marked(self.coordinator.marker)
        if self.random.random() < 0.5:
            self.tear()
        self.coordinator.start()

    def tear(self):
        """A file of the newest checkpoint loses its second half, as on a disk that lied."""
        for path in sorted(self.out.glob("checkpoints/step_*"))[-1:]:
            file = self.random.choice(sorted(path.iterdir()))
            os.truncate(file, file.stat().st_size // 2)
            self.torn = True
            print(f"    torn: {file.relative_to(self.out)}", flush=True)

    ACTIONS = {coordinator_killed: 4, coordinator_ended: 2, coordinator_stopped: 1, process_killed: 4, rank_killed: 3,
               supervisor_killed: 2, preempted: 2, all_asked_to_end: 1, rank_hangs: 1, power_cut: 4, paused: 4, displaced: 3,
               exported: 4}

    def wait_a_while(self, job_id):
        """For a moment, or for some steps (not for ever: what was done to it may hold it up)."""
        api, steps = self.coordinator.api, self.random.choice([0, 1, 5, 15, 40])
        end = time.monotonic() + (8 if steps else 3 * self.random.random())
        begin = api.get(job_id).progress.step
        while time.monotonic() < end:
            job = api.get(job_id)
            if api.state_name(job.state) in ENDED or (steps and job.progress.step >= begin + steps):
                break
            time.sleep(0.02)
        time.sleep(0.05 * self.random.random())
        return api.get(job_id)

    def run_one(self):
        job = self.coordinator.api.create(self.job)
        job_id, self.out, self.torn = job.id, pathlib.Path(job.output_dir), False
        self.job_id, self.urgent, self.exports = job_id, [], []
        print(f"  {job_id}", flush=True)
        for _ in range(HURTS):
            job = self.wait_a_while(job_id)
            if self.coordinator.api.state_name(job.state) in ENDED:
                break
            action = self.random.choices(list(self.actions), self.actions.values())[0]
            print(f"    {self.coordinator.api.state_name(job.state):<10} step {job.progress.step:>3} attempt "
                  f"{len(job.attempts)}: {action.__name__.replace('_', ' ')}", flush=True)
            action(self)
        self.check(self.coordinator.api.succeed(job_id, timeout=300))
        self.check_others()

    def check_others(self):
        """Jobs that it made room for, and exports of its checkpoints, succeed, too. (An export of a torn checkpoint says so.)"""
        api = self.coordinator.api
        for job_id in self.urgent:
            api.succeed(job_id, timeout=120)
        for job_id in self.exports:
            done = api.wait(job_id, timeout=120)
            if not (self.torn and api.state_name(done.state) == "FAILED"):
                assert api.state_name(done.state) == "SUCCEEDED" and done.merge.verified, f"{job_id}: {done.message}"
        tools.wait_until(lambda: not self.coordinator.processes(), 30, lambda: f"none left: {self.coordinator.processes()}")

    def check(self, job):
        api = self.coordinator.api
        support.assert_same_result(api, job, self.undisturbed, STEPS)
        events = api.events(job.id)
        assert [e.sequence for e in events] == list(range(1, len(events) + 1)), "the history has a gap"
        told = [e.checkpoint.step for e in events if e.WhichOneof("kind") == "checkpoint"]
        wanted = set(range(EVERY, STEPS + 1, EVERY))  # and those at which it was preempted
        assert wanted <= set(told), f"checkpoints nobody was told of: {sorted(wanted - set(told))}"
        assert self.torn or len(told) == len(set(told)), f"checkpoints told twice: {told}"
        for attempt in self.coordinator.state.glob(f"jobs/{job.id}/attempt_*"):
            for root in ("/dev/shm", "/tmp"):
                left = pathlib.Path(root) / tools.mpi_folder_name(attempt)
                assert not left.exists(), f"{left} of {attempt.name} is left"
        print(f"    as undisturbed, after {len(job.attempts)} attempts", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="no new job after so many seconds (600)")
    parser.add_argument("--seed", type=int, default=None, help="of what happens when (random)")
    parser.add_argument("--only", nargs="*", default=[], choices=[action.__name__ for action in Chaos.ACTIONS], help="what may happen (all)")
    parser.add_argument("--keep", action="store_true", help="keep the folder of a run that passed, too")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    folder = pathlib.Path(tempfile.mkdtemp(prefix="emoe-chaos-"))
    print(f"seed {seed}, folder {folder}", flush=True)
    chaos = Chaos(folder, seed, options.only)
    try:
        end, jobs = time.monotonic() + options.seconds, 0
        while time.monotonic() < end:
            chaos.run_one()
            jobs += 1
    finally:
        chaos.coordinator.close()
    print(f"{jobs} jobs came out as if nothing had happened; {chaos.counts}", flush=True)
    if not options.keep:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
