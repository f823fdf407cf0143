"""Misfortunes of pods: what the job says, what class of failure it is, and that the result is bit by bit the undisturbed one."""
import os
import signal
import time

import pytest

import emoe_tools as tools
from elastic_support import check_shrunk_and_grown, elastic_job, of_attempt, undisturbed_elastic_run
from emoe_api import ApiError
from fake_kubernetes import allowed_verbs, mark_for_deletion
from fault_support import assert_same_result, hurt_job, next_step, rank_pids, undisturbed_run

HOLD = 23


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return undisturbed_run(tmp_path_factory.mktemp("undisturbed"))


def held(coordinator, **changes):
    """The id of a job that waits after step HOLD."""
    coordinator.holds.add(f"step-{HOLD}")
    job_id = coordinator.api.create(hurt_job(**changes)).id
    coordinator.api.wait_for_step(job_id, HOLD)
    return job_id


def attempts(api, job):
    return [(api.reason_name(a.reason), a.counted) for a in job.attempts]


def wait_for_message(coordinator, job_id, words):
    message = lambda: coordinator.api.get(job_id).message
    tools.wait_until(lambda: words in message(), 60, message)


def cancel(coordinator, cluster, job_id):
    coordinator.api.call("CancelJob", id=job_id)
    job = coordinator.api.wait(job_id)
    assert coordinator.api.state_name(job.state) == "CANCELLED"
    assert cluster.api.names("mpijobs") == cluster.api.names("pods") == []
    tools.assert_no_process(cluster.marker)


# ---------------------------------------------------------------- it does not start
@pytest.mark.parametrize("problem, words", [
    ("unschedulable", "has no node yet: Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
    ("image", "the image emoe-worker:test cannot be pulled: ErrImagePull")])
def test_pods_that_do_not_start(cluster, coordinator, problem, words):
    cluster.problem = problem
    job_id = coordinator.api.create(hurt_job()).id
    wait_for_message(coordinator, job_id, words)
    assert coordinator.api.state(job_id) == "STARTING"
    cancel(coordinator, cluster, job_id)


def test_an_image_that_never_comes(cluster, tmp_path):
    cluster.problem = "image"
    with cluster.coordinator(tmp_path, launcher__kubernetes__start_timeout="1s") as coordinator:
        api = coordinator.api
        job = api.wait(api.create(hurt_job(resources__max_attempts=2)).id)
        assert attempts(api, job) == [("REASON_START_FAILED", True)] * 2 and "cannot be pulled" in job.message
        assert cluster.api.names("mpijobs") == cluster.api.names("pods") == []


def test_an_operator_that_never_reacts(cluster, coordinator):
    cluster.operator = False
    job_id = coordinator.api.create(hurt_job()).id
    wait_for_message(coordinator, job_id, "the MPI operator has done nothing about it for 3")
    cancel(coordinator, cluster, job_id)


def test_a_folder_that_pods_do_not_see(cluster, coordinator):
    spawn = cluster.spawn

    def elsewhere(pod, container):
        container["env"] = [{"name": v["name"], "value": "/not-mounted"} if v["name"] == "EMOE_ATTEMPT_DIR" else v
                            for v in container["env"]]
        return spawn(pod, container)

    cluster.spawn = elsewhere
    api = coordinator.api
    job = api.wait(api.create(hurt_job(resources__max_attempts=1)).id)
    assert api.state_name(job.state) == "FAILED" and "is not to be seen in this pod" in job.message, job.message


def test_kueue_starts_it_and_takes_its_place_away(cluster, tmp_path, undisturbed):
    with cluster.coordinator(tmp_path, launcher__kubernetes__queue="research") as coordinator:
        api = coordinator.api
        coordinator.holds.add(f"step-{HOLD}")
        job_id = api.create(hurt_job(resources__max_attempts=1)).id
        wait_for_message(coordinator, job_id, "waits in Kueue's queue research")
        cluster.suspend(f"{job_id}-1", False)
        api.wait_for_step(job_id, HOLD)
        cluster.suspend(f"{job_id}-1")
        coordinator.holds.release()
        tools.wait_until(lambda: cluster.api.names() == [f"{job_id}-2"], 60, cluster.api.names)
        cluster.suspend(f"{job_id}-2", False)
        job = api.succeed(job_id)
        assert attempts(api, job) == [("REASON_PREEMPTED", False), ("REASON_COMPLETED", False)]
        assert_same_result(api, job, undisturbed)


@pytest.fixture(scope="module")
def undisturbed_elastic(tmp_path_factory):
    return undisturbed_elastic_run(tmp_path_factory.mktemp("elastic"))


def test_a_node_that_stays_away_is_done_without(cluster, tmp_path, undisturbed_elastic):
    """With one rank on the node that is left, and with both again at the next attempt, when the node is back."""
    with cluster.coordinator(tmp_path, queue__elastic_wait="3s") as coordinator:
        api = coordinator.api
        coordinator.holds.add("step-15", "step-25")
        job_id = api.create(elastic_job()).id
        first = rank_pids(of_attempt(api, job_id, 1, 15))
        cluster.places = 1
        began = time.monotonic()
        os.kill(first[1], signal.SIGKILL)
        wait_for_message(coordinator, job_id, "has no node yet: Unschedulable")
        wait_for_message(coordinator, job_id, "; starts with 1 of 2 ranks in ")
        next_step(api, job_id, 3, began, "kubernetes: node lost for good, with fewer ranks")
        of_attempt(api, job_id, 3, 15)
        coordinator.holds.release("step-15")
        alone = rank_pids(of_attempt(api, job_id, 3, 25))
        cluster.places = None
        os.kill(alone[0], signal.SIGKILL)
        coordinator.holds.release()
        job = check_shrunk_and_grown(coordinator, job_id, undisturbed_elastic, [(2, 0), (1, 10), (2, 20)])
        given_up = job.attempts[1]
        assert given_up.message.startswith("there is no room for 2 ranks, the next attempt starts with 1: pod "), given_up
        assert attempts(api, job) == [("REASON_PEER_LOST", True), ("REASON_START_FAILED", False), ("REASON_PEER_LOST", True),
                                      ("REASON_COMPLETED", False)]
        assert cluster.api.created() == [f"{job_id}-{n}" for n in range(1, 5)]
        assert cluster.api.names("mpijobs") == cluster.api.names("pods") == []
        tools.assert_no_process(cluster.marker)


def test_a_job_says_what_its_pods_are_like(cluster, tmp_path):
    with cluster.coordinator(tmp_path, launcher__kubernetes__queue="everybody") as coordinator:
        wishes = {"queue": "research", "ranks_per_pod": 2, "memory_per_rank": "2Gi", "shm_size": "3Gi"}
        api = coordinator.api
        job_id = api.create(tools.tiny_job(parallel__ranks=2, resources__kubernetes=wishes)).id
        wait_for_message(coordinator, job_id, "waits in Kueue's queue research")
        job = cluster.store.objects["mpijobs"][f"{job_id}-1"]
        worker = job["spec"]["mpiReplicaSpecs"]["Worker"]
        assert worker["replicas"] == 1 and job["spec"]["slotsPerWorker"] == 2
        assert worker["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] == "4Gi"
        cluster.suspend(f"{job_id}-1", False)
        api.succeed(job_id)
        with pytest.raises(ApiError) as refused:
            api.create(tools.tiny_job(resources__kubernetes={"image": "mine:1"}))
        assert refused.value.violations == [("resources.kubernetes.image", "this service does not let jobs set it (its "
                                             "launcher.kubernetes.job_may_set)")]


# ---------------------------------------------------------------- it is taken away
@pytest.mark.parametrize("role", ["launcher", "worker"])
@pytest.mark.parametrize("reason", ["EvictionByEvictionAPI", "PreemptionByScheduler"])
def test_a_pod_that_must_go_checkpoints_first(cluster, coordinator, undisturbed, role, reason):
    job_id = held(coordinator, resources__max_attempts=1)
    first = cluster.store.objects["pods"][cluster.pod()]["metadata"]["uid"]
    began = time.monotonic()
    cluster.disrupt(cluster.pod(role), reason, "make room")
    coordinator.holds.release()
    api = coordinator.api
    next_step(api, job_id, 2, began, f"kubernetes: {role} pod must go ({reason})")
    job = api.succeed(job_id)
    assert attempts(api, job) == [("REASON_PREEMPTED", False), ("REASON_COMPLETED", False)], job.attempts
    assert job.attempts[1].resumed_from_step >= HOLD
    assert cluster.api.created() == [f"{job_id}-1", f"{job_id}-2"]
    # The operator may start a launcher pod again that is gone: it finds the attempt taken.
    claim = coordinator.state / "jobs" / job_id / "attempt_1" / "kubernetes_run"
    assert len(cluster.launched) <= 3 and claim.readlink().name == first, cluster.launched
    assert_same_result(api, job, undisturbed)


def test_a_node_that_is_short_of_disk_evicts_a_pod(cluster, coordinator, undisturbed):
    job_id = held(coordinator)
    cluster.evict_for_pressure(cluster.pod("launcher"), "The node was low on resource: ephemeral-storage.")
    coordinator.holds.release()
    api = coordinator.api
    job = api.succeed(job_id)
    assert attempts(api, job)[0] == ("REASON_PREEMPTED", False) and "low on resource" in job.attempts[0].message
    assert_same_result(api, job, undisturbed)


def test_a_pod_that_writes_more_than_it_may_is_counted(cluster, coordinator):
    job_id = held(coordinator, resources__max_attempts=1)
    cluster.evict_for_pressure(cluster.pod("launcher"), 'Usage of EmptyDir volume "tmp" exceeds the limit "4Gi".')
    coordinator.holds.release()
    job = coordinator.api.wait(job_id)
    assert attempts(coordinator.api, job) == [("REASON_IO", True)] and "exceeds the limit" in job.message


def test_a_node_that_is_lost(cluster, coordinator, undisturbed):
    job_id = held(coordinator)
    with cluster.store.changed:
        pod = cluster.store.objects["pods"][cluster.pod("worker")]
        for pid in rank_pids(coordinator.api.get(job_id)):
            os.kill(pid, signal.SIGKILL)
        cluster.unreachable.add(pod["metadata"]["name"])
    began = time.monotonic()
    cluster.disrupt(pod["metadata"]["name"], "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
    coordinator.holds.release()
    tools.wait_until(lambda: any(m == "DELETE" for m, _ in cluster.api.requests), 60, "a deletion")
    cluster.unreachable.clear()  # the node is removed from the cluster
    api = coordinator.api
    next_step(api, job_id, 2, began, "kubernetes: node lost, told and removed at once")
    job = api.succeed(job_id)
    assert attempts(api, job)[0] == ("REASON_PEER_LOST", True), job.attempts
    assert "NoExecute" in job.attempts[0].message
    assert_same_result(api, job, undisturbed)


def test_a_container_that_runs_out_of_memory(cluster, coordinator):
    job_id = held(coordinator)
    with cluster.changing("pods", cluster.pod("worker")) as pod:
        pod["status"].update(phase="Failed", containerStatuses=[{"name": "ranks", "state": {
            "terminated": {"exitCode": 137, "reason": "OOMKilled"}}}])
    os.kill(rank_pids(coordinator.api.get(job_id))[1], signal.SIGKILL)
    coordinator.holds.release()
    job = coordinator.api.wait(job_id)
    assert coordinator.api.reason_name(job.reason) == "REASON_OUT_OF_MEMORY" and len(job.attempts) == 1, job.message


def test_a_rank_that_dies_is_named(cluster, coordinator, undisturbed):
    job_id = held(coordinator)
    began = time.monotonic()
    os.kill(rank_pids(coordinator.api.get(job_id))[1], signal.SIGKILL)
    coordinator.holds.release()
    next_step(coordinator.api, job_id, 2, began, "kubernetes: rank killed")
    job = coordinator.api.succeed(job_id)
    assert attempts(coordinator.api, job)[0] == ("REASON_PEER_LOST", True) and "rank 1" in job.attempts[0].message
    assert_same_result(coordinator.api, job, undisturbed)


# The exit code of a rank comes through.
def test_data_that_went_bad_is_not_retried(cluster, coordinator, tmp_path):
    rows = tmp_path / "rows.json"
    rows.write_bytes((tools.FIXTURES / "rows.json").read_bytes())
    cluster.problem = "unschedulable"
    job_id = coordinator.api.create(hurt_job(data__train=str(rows))).id
    wait_for_message(coordinator, job_id, "has no node yet")
    rows.write_text("[")
    cluster.problem = ""
    job = coordinator.api.wait(job_id)
    assert coordinator.api.reason_name(job.reason) == "REASON_DATA" and len(job.attempts) == 1, job.message


# ---------------------------------------------------------------- it is stopped
def test_cancel_leaves_nothing(cluster, coordinator):
    job_id = held(coordinator)  # at a hold point ranks hear nothing: it ends by force
    cancel(coordinator, cluster, job_id)
    assert len(cluster.api.created()) == 1
    assert cluster.api.used == allowed_verbs(), "deploy/kubernetes/base/access.yaml has what the launcher uses, and no more"


def test_somebody_deletes_the_mpijob(cluster, coordinator):
    job_id = held(coordinator)
    with cluster.store.changed:
        mark_for_deletion(cluster.store, "mpijobs", cluster.store.objects["mpijobs"][f"{job_id}-1"], 0)
    coordinator.holds.release()
    job = coordinator.api.wait(job_id)
    assert coordinator.api.state_name(job.state) == "CANCELLED" and "deleted by somebody" in job.message, job.message
    assert cluster.api.names("mpijobs") == cluster.api.names("pods") == []


def test_a_coordinator_killed_while_a_cancel_is_under_way(cluster, coordinator):
    job_id = held(coordinator)
    coordinator.api.call("CancelJob", id=job_id)
    tools.wait_until(lambda: any(method == "DELETE" for method, _ in cluster.api.requests), 60, "a deletion")
    coordinator.kill()
    coordinator.start()
    job = coordinator.api.wait(job_id)
    assert coordinator.api.state_name(job.state) == "CANCELLED"
    assert cluster.api.names("mpijobs") == cluster.api.names("pods") == []
    tools.assert_no_process(cluster.marker)
