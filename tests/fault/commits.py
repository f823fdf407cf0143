"""A coordinator killed -9 before each commit that pauses, resumes, preempts or exports a job: what was asked for happens,
once, and the results are those of a run that nobody disturbed. (A death before a commit is one behind the commit before it.)

The coordinator kills itself (EMOE_TEST_DIE_AT_COMMIT, server/commit_death.h): a test says how many commits from now.
EMOE_COMMITS=20:40 takes only those of a test, for who has no half hour in one piece.
"""
import os
import pathlib
import time

import pytest

import emoe_tools as tools
from emoe_api import ApiError, Coordinator
from fault_support import assert_same_result, hurt_job, undisturbed_run

STEPS, HOLD = 40, 3
MOST = 80  # commits that what is asked for may take


class Mortal(Coordinator):
    """Dies at a commit when told so, and is started again by whoever waits for something."""

    def __init__(self, folder, **settings):
        self.death = pathlib.Path(folder) / "die"
        self.deaths = 0
        super().__init__(folder, env={"EMOE_TEST_DIE_AT_COMMIT": str(self.death)}, **settings)

    def die_before(self, commits):
        self.death.write_text(f"{commits}\n")

    def live_on(self):
        """True if it has died since die_before()."""
        died = not self.death.exists()
        self.death.unlink(missing_ok=True)
        return died

    def raise_the_dead(self):
        if self.process.poll() is not None:
            assert self.process.returncode == -9, self.output()
            self.deaths += 1
            self.kill()
            self.start()

    def try_(self, work):
        """What work(api) returns, asked again of the next coordinator where this one dies over it."""
        deadline = time.monotonic() + 60
        while True:
            self.raise_the_dead()
            try:
                return work(self.api)
            except ApiError as error:
                if error.code not in ("UNAVAILABLE", "CANCELLED") or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def until(self, job_id, *states, step=0):
        """The job in one of these states (and with so many steps done)."""
        def reached():
            job = self.try_(lambda api: api.get(job_id))
            return job if self.api.state_name(job.state) in states and job.progress.step >= step else None
        return tools.wait_until(reached, 120, lambda: f"{job_id} in {states}\n{self.try_(lambda api: api.get(job_id))}")


def job_of(**changes):
    return hurt_job(**{"train__max_steps": STEPS, "checkpoint__every_steps": 0, **changes})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return undisturbed_run(tmp_path_factory.mktemp("undisturbed"), train__max_steps=STEPS, checkpoint__every_steps=0)


@pytest.fixture
def coordinator(tmp_path):
    with Mortal(tmp_path, slots=2, queue__preempt="true", queue__min_run="0s") as running:
        yield running


def held_job(coordinator, **changes):
    """A job that waits behind step HOLD."""
    coordinator.holds.add(f"step-{HOLD}")
    job_id = coordinator.api.create(job_of(**changes)).id
    coordinator.api.wait_for_step(job_id, HOLD)
    return job_id


def each_commit(scenario):
    """scenario(n) once for each commit: it says whether the coordinator died before its n-th. How many there are."""
    first, last = (int(n) for n in os.environ.get("EMOE_COMMITS", f"0:{MOST}").split(":"))
    n = first
    while n < last and scenario(n):
        n += 1
    assert n < MOST
    print(f"\n{scenario.__name__}: killed before each of the commits from {first} to {n}")
    return n


def test_pause_and_resume(coordinator, undisturbed):
    def pausing(n):
        job_id = held_job(coordinator)
        coordinator.die_before(n)
        first = coordinator.try_(lambda api: api.call("PauseJob", id=job_id, request_id=f"pause {n}"))
        assert coordinator.api.state_name(first.state) == "PAUSING"
        coordinator.holds.release()
        paused = coordinator.until(job_id, "PAUSED")
        died = coordinator.live_on()
        left_at, = tools.valid_checkpoints(paused.output_dir)
        assert HOLD < left_at < STEPS
        assert len(paused.attempts) == 1 and not paused.attempts[0].counted
        tools.wait_until(lambda: not coordinator.processes(), 30, "no process of a paused job")
        return died, job_id, left_at

    def resuming(n, job_id, left_at):
        coordinator.holds.add(f"step-{left_at + 1}")
        coordinator.die_before(n)
        coordinator.try_(lambda api: api.call("ResumeJob", id=job_id, request_id=f"resume {n}"))
        coordinator.until(job_id, "RUNNING", step=left_at + 1)
        died = coordinator.live_on()
        coordinator.holds.release()
        job = coordinator.until(job_id, "SUCCEEDED")
        assert len(job.attempts) == 2 and job.attempts[1].resumed_from_step == left_at
        assert_same_result(coordinator.api, job, undisturbed, STEPS)
        return died

    def pause_and_resume(n):
        paused, *job = pausing(n)
        resumed = resuming(n, *job)
        return paused or resumed
    assert each_commit(pause_and_resume) >= 4


def test_preemption(coordinator, undisturbed):
    displaced = []

    def preemption(n):
        low = held_job(coordinator)
        urgent = tools.tiny_job(name="urgent", parallel__ranks=2, resources__priority=5, train__max_steps=1,
                                export={"merged": False})
        coordinator.die_before(n)
        high = coordinator.try_(lambda api: api.create(urgent, request_id=f"urgent {n}")).id
        coordinator.until(low, "RECOVERING", "QUEUED")
        coordinator.holds.release(f"step-{HOLD}")
        ended = coordinator.until(high, "SUCCEEDED")
        coordinator.until(low, "RUNNING", "EXPORTING", "SUCCEEDED", step=HOLD + 1)
        died = coordinator.live_on()
        job = coordinator.until(low, "SUCCEEDED")
        assert not any(attempt.counted for attempt in job.attempts), "nobody's fault"
        assert_same_result(coordinator.api, job, undisturbed, STEPS)
        # Ranks that hear of it late, for nobody was there to tell them, may have done all their work by then.
        assert len(job.attempts) <= 2
        if len(job.attempts) == 2:
            displaced.append(job.attempts[1].resumed_from_step)
            assert HOLD < displaced[-1] <= STEPS
            assert ended.end_time.ToNanoseconds() <= job.attempts[1].start_time.ToNanoseconds()
        return died
    assert each_commit(preemption) >= 4
    assert len(displaced) >= 3


def test_export(coordinator):
    trained = coordinator.api.succeed(coordinator.api.create(
        job_of(train__max_steps=24, checkpoint__every_steps=1, checkpoint__keep=30)).id)
    digests = {}

    def export(n):
        step = n % 24 + 1
        coordinator.die_before(n)
        asked = coordinator.try_(lambda api: api.call("ExportCheckpoint", id=trained.id, step=step, request_id=f"export {n}"))
        done = coordinator.until(asked.id, "SUCCEEDED")
        died = coordinator.live_on()
        assert done.merge.verified and done.export_of.step == step
        exports = [job for job in coordinator.api.call("ListJobs", page_size=200).jobs if job.export_of.step == step]
        assert len(exports) == 1, "asked for once, made once"
        digests[step] = tools.exported_weights(done.output_dir)
        return died
    assert each_commit(export) >= 4
    assert len({str(sorted(weights.items())) for weights in digests.values()}) == len(digests), "each step has its own"
    assert coordinator.api.state(trained.id) == "SUCCEEDED"
