"""Bad luck under a real Slurm and a coordinator. The weights at the end are those of an undisturbed local run, bit by bit;
`KILL → NEXT STEP` lines at the end tell how long a job stood still."""
import os
import pathlib
import stat
import time

import pytest

import emoe_tools as tools
from elastic_support import check_shrunk_and_grown, elastic_job, of_attempt, undisturbed_elastic_run
from fault_support import STEPS, assert_same_result, hurt_job, next_step, rank_pids, steps_in, undisturbed_run
from slurm_cluster import Cluster


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return undisturbed_run(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def undisturbed_elastic(tmp_path_factory):
    return undisturbed_elastic_run(tmp_path_factory.mktemp("elastic"))


@pytest.fixture(scope="module")
def spread():
    """Options that put the two ranks on two nodes."""
    return {"launcher__slurm__ranks_per_node": 1}


def held_job(coordinator, step, **changes):
    """A job whose ranks wait after `step` steps; (job, output folder)."""
    coordinator.holds.add(f"step-{step}")
    job = coordinator.api.wait_for_step(coordinator.api.create(hurt_job(**changes)).id, step)
    return job, pathlib.Path(job.output_dir)


def slurm_job(cluster, job_id, attempt=1):
    """The number of the Slurm job of an attempt."""
    number, = [number for number, found in cluster.jobs().items() if found["JobName"] == f"{job_id}.{attempt}"]
    return number


def reasons(api, job):
    return [(api.reason_name(a.reason), a.counted) for a in job.attempts]


def assert_nothing_left(cluster, coordinator):
    tools.wait_until(lambda: cluster.queue() == [], 30, lambda: f"squeue empty: {cluster.queue()}")
    tools.wait_until(lambda: coordinator.processes() == {}, 10, coordinator.processes)


def test_a_rank_killed_in_a_step(cluster, coordinator, undisturbed):
    api = coordinator.api
    job, _ = held_job(coordinator, 33)
    began = time.monotonic()
    os.kill(rank_pids(job)[1], 9)
    coordinator.holds.release()
    next_step(api, job.id, 2, began, "slurm: rank killed")
    job = api.succeed(job.id)
    assert reasons(api, job)[0] == ("REASON_PEER_LOST", True), job.attempts[0].message
    assert "rank 1" in job.attempts[0].message and "signal 9" in job.attempts[0].message, job.attempts[0].message
    assert job.attempts[1].resumed_from_step == 30
    assert_same_result(api, job, undisturbed)
    assert_nothing_left(cluster, coordinator)


def test_a_node_lost_in_a_step(cluster, spread, tmp_path, undisturbed):
    with cluster.coordinator(tmp_path, **spread) as coordinator:
        api = coordinator.api
        job, _ = held_job(coordinator, 33)
        began = time.monotonic()
        cluster.control("fail", "n2")
        coordinator.holds.release()
        time.sleep(1)  # what is killed must not be revived in the same moment: its processes are being reaped
        cluster.control("revive", "n2")
        next_step(api, job.id, 2, began, "slurm: node lost and back")
        job = api.succeed(job.id)
        assert reasons(api, job)[0] == ("REASON_PEER_LOST", True), job.attempts[0].message
        assert_same_result(api, job, undisturbed)
        assert_nothing_left(cluster, coordinator)


def test_a_node_that_stays_away_is_done_without(cluster, spread, tmp_path, undisturbed_elastic):
    """With one rank on the node that is left, and with both again at the next attempt, when the node is back."""
    with cluster.coordinator(tmp_path, queue__elastic_wait="3s", **spread) as coordinator:
        api = coordinator.api
        coordinator.holds.add("step-15", "step-25")
        job_id = api.create(elastic_job()).id
        of_attempt(api, job_id, 1, 15)
        began = time.monotonic()
        cluster.control("fail", "n2")
        tools.wait_until(lambda: "starts with 1 of 2 ranks in" in api.get(job_id).message, 120, lambda: api.get(job_id))
        next_step(api, job_id, 3, began, "slurm: node lost for good, with fewer ranks")
        of_attempt(api, job_id, 3, 15)
        coordinator.holds.release("step-15")
        alone = rank_pids(of_attempt(api, job_id, 3, 25))
        cluster.control("revive", "n2")
        tools.wait_until(lambda: "idle" in cluster.command("sinfo", "--noheader", "--nodes=n2", "--format=%T"), 60, "n2 idle")
        os.kill(alone[0], 9)
        coordinator.holds.release()
        job = check_shrunk_and_grown(coordinator, job_id, undisturbed_elastic, [(2, 0), (1, 10), (2, 20)])
        given_up = job.attempts[1]
        assert given_up.message.startswith("there is no room for 2 ranks, the next attempt starts with 1: Slurm job "), given_up
        assert api.reason_name(given_up.reason) == "REASON_START_FAILED" and not given_up.counted
        assert len(job.attempts) == 4
        assert_nothing_left(cluster, coordinator)


def test_the_controller_is_away_for_a_minute(cluster, coordinator, undisturbed):
    """Training goes on, nothing is lost or started twice, and what ended meanwhile is seen when it is back."""
    api = coordinator.api
    job, out = held_job(coordinator, 20)
    cluster.control("ctld-down")
    coordinator.holds.add("step-40")
    coordinator.holds.release("step-20")
    api.wait_for_step(job.id, 40)
    away = time.monotonic()
    waiting = api.create(tools.tiny_job(name="submitted meanwhile")).id
    time.sleep(55)
    assert api.state(job.id) == "RUNNING" and api.state(waiting) in ("QUEUED", "STARTING")
    coordinator.holds.release()
    tools.wait_until(lambda: steps_in(out) == STEPS, 60, "the end of the training without a controller")
    cluster.control("ctld-up")
    job = api.succeed(job.id)
    tools.measured(f"slurm: controller away {time.monotonic() - away:.0f} s")
    assert len(job.attempts) == 1
    assert_same_result(api, job, undisturbed)
    assert all(not counted for _, counted in reasons(api, api.succeed(waiting))[:-1])
    assert_nothing_left(cluster, coordinator)


def test_the_time_limit_warns_and_is_not_counted(cluster, tmp_path, undisturbed):
    """The warning signal comes some seconds after the start already: Slurm is not exact."""
    with cluster.coordinator(tmp_path, launcher__slurm__warning_time="50s") as coordinator:
        api = coordinator.api
        coordinator.holds.add("step-12")
        job_id = api.create(hurt_job(resources__max_attempts=1, resources__slurm={"time_limit": "60s"})).id
        api.wait_for_step(job_id, 12)
        number = slurm_job(cluster, job_id)
        assert cluster.jobs()[number]["TimeLimit"] == "00:01:00"
        time.sleep(25)  # the signal waits for the ranks, which are held
        began = time.monotonic()
        coordinator.holds.release()
        next_step(api, job_id, 2, began, "slurm: time limit's warning")
        job = api.succeed(job_id)
        assert reasons(api, job)[0] == ("REASON_PREEMPTED", False), job.attempts[0].message
        assert job.attempts[1].resumed_from_step == 13
        assert_same_result(api, job, undisturbed)
        assert_nothing_left(cluster, coordinator)


def test_requeued_by_an_administrator(cluster, coordinator, undisturbed):
    api = coordinator.api
    job, _ = held_job(coordinator, 23, resources__max_attempts=1)
    began = time.monotonic()
    cluster.command("scontrol", "requeue", slurm_job(cluster, job.id))
    time.sleep(1)  # Slurm's SIGTERM is on its way to the ranks
    coordinator.holds.release()
    next_step(api, job.id, 2, began, "slurm: requeued")
    job = api.succeed(job.id)
    assert reasons(api, job)[0] == ("REASON_PREEMPTED", False), job.attempts[0].message
    assert job.attempts[1].resumed_from_step == 24, "checkpointed at the next step edge"
    assert_same_result(api, job, undisturbed)
    assert_nothing_left(cluster, coordinator)


def test_cancelled_by_hand(cluster, coordinator):
    api = coordinator.api
    job, _ = held_job(coordinator, 23)
    cluster.command("scancel", slurm_job(cluster, job.id))
    coordinator.holds.release()
    job = api.wait(job.id)
    assert api.state_name(job.state) == "CANCELLED" and api.reason_name(job.reason) == "REASON_CANCELLED"
    assert "CANCELLED" in job.message and len(job.attempts) == 1, job.message
    assert_nothing_left(cluster, coordinator)


@pytest.mark.parametrize("moment", ["pending", "running"])
def test_cancel_leaves_nothing_in_squeue(cluster, coordinator, moment):
    api = coordinator.api
    if moment == "pending":
        job_id = api.create(hurt_job(resources__slurm={"ranks_per_node": 1}, parallel__ranks=3)).id  # there are two nodes
        waits = tools.wait_until(lambda: "is pending: " in (job := api.get(job_id)).message and job, 30, "why it is pending")
        assert api.state_name(waits.state) == "STARTING"
    else:
        job_id = held_job(coordinator, 5)[0].id
    api.call("CancelJob", id=job_id)
    coordinator.holds.release()
    began = time.monotonic()
    assert api.state_name(api.wait(job_id).state) == "CANCELLED"
    assert cluster.queue() == [], "CANCELLED only when nothing of it is left"
    tools.measured(f"slurm: cancelled while {moment}: {time.monotonic() - began:.1f} s")
    assert_nothing_left(cluster, coordinator)


def test_the_join_timer_starts_when_slurm_says_running(cluster, tmp_path):
    with cluster.coordinator(tmp_path, liveness__join_timeout="5s") as coordinator:
        api = coordinator.api
        blocker = cluster.command("sbatch", "--parsable", "--exclusive", "-N2", "--wrap", "sleep 12").strip()
        tools.wait_until(lambda: cluster.jobs()[blocker]["JobState"] == "RUNNING", 20, "the blocker")
        job_id = api.create(tools.tiny_job()).id
        tools.wait_until(lambda: "is pending: " in api.get(job_id).message, 20, "why it is pending")
        job = api.succeed(job_id)
        assert len(job.attempts) == 1


def test_sbatch_refuses(cluster, tmp_path):
    with cluster.coordinator(tmp_path, launcher__slurm__partition="nowhere") as coordinator:
        api = coordinator.api
        job = api.wait(api.create(tools.tiny_job()).id)
        assert (api.state_name(job.state), api.reason_name(job.reason)) == ("FAILED", "REASON_START_FAILED")
        assert "invalid partition specified: nowhere" in job.message.lower() and len(job.attempts) == 1, job.message
        # The job may say another, which is there.
        assert len(api.succeed(api.create(tools.tiny_job(resources__slurm={"partition": "main"})).id).attempts) == 1


def test_limits_of_the_partition():
    with Cluster(extra=["PartitionName=short Nodes=n[1-2] MaxTime=10 State=UP", "EnforcePartLimits=ALL"]) as strict:
        folder = strict.folder / "coordinator"
        folder.mkdir()
        with strict.coordinator(folder) as coordinator:
            api = coordinator.api
            job = api.wait(api.create(tools.tiny_job(resources__slurm={"partition": "short", "time_limit": "3600s"})).id)
            assert api.state_name(job.state) == "FAILED" and "time limit" in job.message, job.message


def fake_sbatch(folder, body):
    """Slurm's commands with another sbatch in front; `real` is the true one."""
    folder.mkdir()
    for name in ("sbatch", "squeue", "scancel"):
        path = folder / name
        path.write_text("#!/bin/bash\n" + (body if name == "sbatch" else f'exec /usr/bin/{name} "$@"') + "\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder


@pytest.mark.parametrize("heard", [False, True])
def test_an_sbatch_that_hangs(cluster, tmp_path, undisturbed, heard):
    """Whether or not the controller had heard it: the job runs once at a time and comes out the same."""
    body = f"""if [ ! -e {tmp_path}/hung ]; then
  touch {tmp_path}/hung
  {'/usr/bin/sbatch "$@" >/dev/null' if heard else ':'}
  exec sleep 1000
fi
exec /usr/bin/sbatch "$@" """
    with cluster.coordinator(tmp_path, launcher__slurm__bin_dir=fake_sbatch(tmp_path / "bin", body),
                             launcher__slurm__command_limit="3s") as coordinator:
        api = coordinator.api
        coordinator.holds.add("step-3")
        job_id = api.create(hurt_job(resources__max_attempts=1)).id
        api.wait_for_step(job_id, 3, timeout=60)
        coordinator.holds.release()
        job = api.succeed(job_id)
        assert all(not counted for _, counted in reasons(api, job)[:-1]), reasons(api, job)
        assert_same_result(api, job, undisturbed)
        assert_nothing_left(cluster, coordinator)


@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_the_coordinator_killed_around_sbatch(cluster, tmp_path, undisturbed, moment):
    """Before the controller hears of it, when it has and sbatch has not answered, and right after its answer."""
    mark = tmp_path / "reached"
    wait = f"if [ ! -e {mark} ]; then touch {mark}; exec sleep 1000; fi"
    body = {"before": f'{wait}\nexec /usr/bin/sbatch "$@"',
            "within": f'/usr/bin/sbatch "$@" >{tmp_path}/number\n{wait}\ncat {tmp_path}/number',
            "after": f'/usr/bin/sbatch "$@"; touch {mark}'}[moment]
    with cluster.coordinator(tmp_path, launcher__slurm__bin_dir=fake_sbatch(tmp_path / "bin", body)) as coordinator:
        job_id = coordinator.api.create(hurt_job()).id
        tools.wait_until(mark.exists, 30, "sbatch")
        began = time.monotonic()
        coordinator.kill()
        coordinator.start()
        api = coordinator.api
        next_step(api, job_id, 1, began, f"slurm: coordinator killed {moment} sbatch")
        job = api.succeed(job_id)
        assert len(job.attempts) == 1
        started = [found for found in cluster.jobs().values() if found["JobName"] == f"{job_id}.1"]
        assert len(started) == 1, "one sbatch of the attempt"
        assert_same_result(api, job, undisturbed)
        assert_nothing_left(cluster, coordinator)


@pytest.mark.parametrize("moment", ["pending", "running", "cancelling", "requeued", "ended"])
def test_the_coordinator_killed_at(cluster, coordinator, undisturbed, moment):
    api = coordinator.api
    blocker = None
    if moment == "pending":
        blocker = cluster.command("sbatch", "--parsable", "--exclusive", "-N2", "--wrap", "sleep 1000").strip()
        job_id = api.create(hurt_job()).id
        tools.wait_until(lambda: "pending" in api.get(job_id).message, 30, "pending")
    else:
        job_id = held_job(coordinator, 23)[0].id
    if moment == "cancelling":
        api.call("CancelJob", id=job_id)
    if moment == "requeued":
        cluster.command("scontrol", "requeue", slurm_job(cluster, job_id))
    began = time.monotonic()
    coordinator.kill()
    coordinator.holds.release()
    if blocker:
        cluster.command("scancel", blocker)
    if moment == "ended":
        out = coordinator.state / "outputs" / job_id
        tools.wait_until(lambda: steps_in(out) == STEPS, 60, "the end of the training without a coordinator")
        time.sleep(2)
    coordinator.start()
    api = coordinator.api
    if moment == "cancelling":
        assert api.state_name(api.wait(job_id).state) == "CANCELLED"
    else:
        job = api.succeed(job_id)
        tools.measured(f"slurm: coordinator killed, {moment}: done after {time.monotonic() - began:.1f} s")
        assert len(job.attempts) == (2 if moment == "requeued" else 1), job.attempts
        assert_same_result(api, job, undisturbed)
    assert_nothing_left(cluster, coordinator)
