"""Slurm set up in other ways: jobs that take the place of others, memory that is enforced, GPUs (which only exist by name)."""
import pathlib

import pytest

import emoe_tools as tools
from fault_support import assert_same_result, hurt_job, rank_pids, undisturbed_run
from slurm_cluster import Cluster


@pytest.mark.parametrize("mode", ["REQUEUE", "CANCEL"])
def test_preempted_by_a_job_that_comes_first(tmp_path, mode):
    undisturbed = undisturbed_run(tmp_path / "undisturbed")
    conf = ["PreemptType=preempt/partition_prio", f"PreemptMode={mode}",
            "PartitionName=low Nodes=n[1-2] PriorityTier=1 MaxTime=INFINITE State=UP",
            "PartitionName=high Nodes=n[1-2] PriorityTier=10 MaxTime=INFINITE State=UP"]
    with Cluster(extra=conf) as cluster, cluster.coordinator(tmp_path, launcher__slurm__partition="low") as coordinator:
        api = coordinator.api
        coordinator.holds.add("step-23")
        job_id = api.create(hurt_job(resources__max_attempts=1)).id
        api.wait_for_step(job_id, 23)
        first = cluster.command("sbatch", "--parsable", "-p", "high", "--exclusive", "-N2", "--wrap", "sleep 5").strip()
        tools.wait_until(lambda: "PENDING" in [state for _, name, state, _ in cluster.queue() if name == "wrap"] and
                         "COMPLETING" in [state for _, _, state, _ in cluster.queue()], 30, cluster.queue)
        coordinator.holds.release()
        job = api.succeed(job_id)
        assert [(api.reason_name(a.reason), a.counted) for a in job.attempts] == [
            ("REASON_PREEMPTED", False), ("REASON_COMPLETED", False)], job.attempts
        assert job.attempts[1].resumed_from_step == 24
        assert cluster.jobs()[first]["JobState"] == "COMPLETED"
        assert_same_result(api, job, undisturbed)


def test_a_rank_that_takes_more_memory_than_it_may(tmp_path):
    if not pathlib.Path("/sys/fs/cgroup/memory").is_dir():
        pytest.skip("no control groups of version 1, in which Slurm 22.05 keeps memory")
    with Cluster(cgroup=1) as cluster, \
            cluster.coordinator(tmp_path, launcher__slurm__extra_args="[--mem=120M]") as coordinator:
        api = coordinator.api
        job = api.wait(api.create(hurt_job()).id)
        assert (api.state_name(job.state), api.reason_name(job.reason)) == ("FAILED", "REASON_OUT_OF_MEMORY"), job.message
        assert "out of memory" in job.message and len(job.attempts) == 1, job.message


def test_each_rank_sees_its_own_gpu(tmp_path):
    with Cluster(gpus=2) as cluster, cluster.coordinator(
            tmp_path, launcher__slurm__gpus_per_rank=1, launcher__slurm__ranks_per_node=2) as coordinator:
        coordinator.holds.add("step-3")
        job_id = coordinator.api.create(hurt_job()).id
        pids = rank_pids(coordinator.api.wait_for_step(job_id, 3))
        seen = [[v for v in pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if v.startswith(b"CUDA_V")]
                for pid in pids]
        assert seen == [[b"CUDA_VISIBLE_DEVICES=0"], [b"CUDA_VISIBLE_DEVICES=1"]]
        coordinator.holds.release()
        coordinator.api.succeed(job_id)
