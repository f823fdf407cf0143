"""How many threads a rank computes with where its job does not say: as many as leave every slot its share of the cores."""
import math
import os
import pathlib
import re

import emoe_tools as tools
from emoe_api import Coordinator


def usable_cores():
    """As usable_cores() of base/process.h counts them, where no group within this container has a limit of its own."""
    limit = pathlib.Path("/sys/fs/cgroup/cpu.max")
    quota, period = limit.read_text().split() if limit.exists() else ("max", "1")
    cores = len(os.sched_getaffinity(0))
    return cores if quota == "max" else max(1, min(cores, math.ceil(int(quota) / int(period))))


CORES = usable_cores()
NOBODY_SAID = {"OMP_NUM_THREADS": ""}


def any_threads(**changes):
    return tools.tiny_job(resources__threads_per_rank=None, train__max_steps=2, **changes)


def threads_in(log):
    """{rank: threads} as the ranks themselves count them."""
    return {int(rank): int(count) for rank, count in re.findall(r"rank (\d+) of \d+ computes with (\d+) thread", log)}


def test_under_a_coordinator_a_rank_takes_its_slots_share(tmp_path):
    with Coordinator(tmp_path, slots=CORES, env=NOBODY_SAID) as coordinator:
        jobs = [coordinator.api.create(any_threads(name=f"job-{i}")).id for i in range(2)]
        for job in jobs:
            coordinator.api.succeed(job)
            assert threads_in(coordinator.api.logs(job)) == {0: 1}, f"{CORES} cores, {CORES} slots"
    with Coordinator(tmp_path / "one-slot", slots=1, env=NOBODY_SAID) as coordinator:
        job = coordinator.api.succeed(coordinator.api.create(any_threads()).id)
        assert threads_in(coordinator.api.logs(job.id)) == {0: CORES}, f"{CORES} cores, one slot"


def test_what_the_coordinator_was_told_holds_for_its_ranks(tmp_path):
    with Coordinator(tmp_path, slots=1, env={"OMP_NUM_THREADS": "3"}) as coordinator:
        job = coordinator.api.succeed(coordinator.api.create(any_threads()).id)
        assert threads_in(coordinator.api.logs(job.id)) == {0: 3}


def test_by_hand_ranks_share_the_cores_of_their_host(tmp_path):
    for ranks in (None, 2):
        job = tools.write_yaml(tmp_path / f"{ranks}.yaml", any_threads(parallel__ranks=ranks or 1))
        done = tools.worker("run", job, "--out", tmp_path / f"out-{ranks}", ranks=ranks, env=NOBODY_SAID).expect()
        assert threads_in(done.err) == dict.fromkeys(range(ranks or 1), max(CORES // (ranks or 1), 1)), done.err


def test_waiting_threads_fall_asleep_unless_their_user_says_otherwise(tmp_path):
    """libgomp prints what it has read as it is loaded."""
    job = tools.write_yaml(tmp_path / "job.yaml", any_threads())
    shown = {"OMP_DISPLAY_ENV": "verbose"}
    done = tools.worker("run", job, "--out", tmp_path / "out", env=shown).expect()
    assert "GOMP_SPINCOUNT = '1000'" in done.err, done.err
    done = tools.worker("run", job, "--out", tmp_path / "active", env={**shown, "OMP_WAIT_POLICY": "active"}).expect()
    assert "GOMP_SPINCOUNT = '1000'" not in done.err, done.err


def test_what_the_launcher_says_holds_and_what_the_job_says_comes_first(tmp_path):
    job = tools.write_yaml(tmp_path / "job.yaml", any_threads())
    said = {"OMP_NUM_THREADS": "3,1"}
    assert threads_in(tools.worker("run", job, "--out", tmp_path / "told", env=said).expect().err) == {0: 3}
    done = tools.worker("run", job, "--out", tmp_path / "own", "--set", "resources.threads_per_rank=2", env=said)
    assert threads_in(done.expect().err) == {0: 2}
    refused = tools.worker("run", job, "--out", tmp_path / "bad", env={"OMP_NUM_THREADS": "many"}).expect(tools.USAGE)
    assert "OMP_NUM_THREADS=many: not a number of threads" in refused.err, refused.err
