"""Jobs that are paused, and that make room for others, with the coordinator killed -9 at each step of it: bit-equal results."""
import pytest

import emoe_tools as tools
from emoe_api import ApiError, Coordinator
from fault_support import assert_same_result, hurt_job, undisturbed_run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return undisturbed_run(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def coordinator(tmp_path):
    with Coordinator(tmp_path, slots=2, queue__preempt="true", queue__min_run="0s") as coordinator:
        yield coordinator


def restarted(coordinator):
    """The coordinator killed -9 and there again."""
    coordinator.kill()
    coordinator.start()
    return coordinator.api


def test_paused_and_resumed_with_the_coordinator_killed_at_every_commit(coordinator, undisturbed):
    coordinator.holds.add("step-23")
    job_id = coordinator.api.create(hurt_job()).id
    coordinator.api.wait_for_step(job_id, 23)
    paused = coordinator.api.call("PauseJob", id=job_id, request_id="p")
    assert coordinator.api.state_name(paused.state) == "PAUSING"
    api = restarted(coordinator)  # PAUSING is stored, the ranks have not heard of it
    assert api.call("PauseJob", id=job_id, request_id="p") == paused, "the first answer"
    coordinator.holds.release("step-23")
    job = api.wait(job_id, "PAUSED")
    api = restarted(coordinator)
    assert api.state(job_id) == "PAUSED" and coordinator.processes() == {}
    assert api.call("GetServerInfo").slots_free == 2
    assert not job.attempts[0].counted and api.reason_name(job.attempts[0].reason) == "REASON_PAUSED"
    assert 24 in tools.valid_checkpoints(job.output_dir), "at the step edge, not where one was due"
    coordinator.holds.add("step-30")
    api.call("ResumeJob", id=job_id)
    api = restarted(coordinator)  # QUEUED again, or started
    coordinator.holds.release("step-30")
    job = api.succeed(job_id)
    assert len(job.attempts) == 2 and job.attempts[1].resumed_from_step == 24
    assert_same_result(api, job, undisturbed)
    with pytest.raises(ApiError) as refused:
        api.call("PauseJob", id=job_id)
    assert (refused.value.code, refused.value.reason) == ("FAILED_PRECONDITION", "WRONG_STATE")


def test_a_job_of_higher_priority_takes_the_slots(coordinator, undisturbed):
    coordinator.holds.add("step-12")
    low = coordinator.api.create(hurt_job()).id
    coordinator.api.wait_for_step(low, 12)
    high = coordinator.api.create(tools.tiny_job(name="urgent", parallel__ranks=2, resources__priority=5)).id
    coordinator.api.wait(low, "RECOVERING")
    api = restarted(coordinator)  # the displacement is stored; its ranks may not have heard of it
    coordinator.holds.release("step-12")
    urgent = api.succeed(high)
    job = api.succeed(low)
    assert [a.counted for a in job.attempts] == [False, False], "nobody's fault"
    assert api.reason_name(job.attempts[0].reason) == "REASON_PREEMPTED"
    assert job.attempts[1].resumed_from_step == 13
    assert urgent.end_time.ToNanoseconds() <= job.attempts[1].start_time.ToNanoseconds()
    assert_same_result(api, job, undisturbed)
