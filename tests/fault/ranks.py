"""Ranks that die, are told to go, or stop answering, under a coordinator. The weights at the end must be those of an
undisturbed run, bit by bit."""
import pathlib
import re
import signal
import time

import pytest

import emoe_tools as tools
from elastic_support import (EVERY_EXPERT, assert_equal_to_rounding, check_shrunk_and_grown, elastic_job, of_attempt,
                             undisturbed_elastic_run)
from emoe_api import Coordinator
from fault_support import Run, assert_same_result, hurt_job, next_step, rank_pids, send, undisturbed_run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return undisturbed_run(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("sharded", [False, True])
def test_a_rank_killed_in_a_step(coordinator, undisturbed, sharded):
    """Rank 0 waits for it in the sum of the gradients, or already in the gather of a layer."""
    api = coordinator.api
    coordinator.holds.add("step-33")
    job_id = api.create(hurt_job(parallel__shard_base=sharded)).id
    first = rank_pids(api.wait_for_step(job_id, 33))
    began = time.monotonic()
    send(first[1], signal.SIGKILL)
    coordinator.holds.release()  # rank 0 goes into step 34, alone
    next_step(api, job_id, 2, began, "local: rank killed")
    job = api.succeed(job_id)
    lost, again = job.attempts
    assert api.reason_name(lost.reason) == "REASON_PEER_LOST" and lost.counted
    assert "rank 1" in lost.message and ("signal 9" in lost.message or "SIGKILL" in lost.message), lost.message
    assert again.resumed_from_step == 30
    assert not set(first) & {r.pid for r in again.ranks}
    assert_same_result(api, job, undisturbed)
    assert coordinator.processes() == {}


@pytest.mark.parametrize("shared", [{"parallel__shard_base": True}, {"parallel__tensor": 2}], ids=["weights", "layers"])
def test_a_rank_killed_where_no_rank_has_all_that_is_trained(tmp_path, shared):
    """The other one misses it in the gather or the reduce-scatter of a layer, or in the sum of its parts."""
    full = {"tuning": "full", "lora": None, "optimizer__learning_rate": 1e-3, "train__max_steps": 16, "checkpoint__every_steps": 5, **shared}
    undisturbed = undisturbed_run(tmp_path / "undisturbed", **full)
    with Run(tmp_path, hold=13, **full) as run:
        send(run.held()[1], signal.SIGKILL)
        run.holds.release()
        assert run.process.wait(60) != 0, run.text
        assert tools.valid_checkpoints(run.out)[-1] == 10
        assert "resumed from the checkpoint of step 10" in run.again()
        tools.assert_same_training(run.out, undisturbed)


def test_a_rank_killed_in_an_evaluation(coordinator):
    """It has no checkpoint to go on from: the next attempt computes it anew, and there is one result."""
    api = coordinator.api
    coordinator.holds.add("evaluate")
    job_id = api.create(tools.as_evaluation(hurt_job(data__eval=str(tools.FIXTURES / "rows.json")))).id
    job = tools.wait_until(lambda: (found := api.get(job_id)).progress.phase == "evaluate" and found, 120,
                           lambda: api.get(job_id))
    send(rank_pids(job)[1], signal.SIGKILL)
    coordinator.holds.release()
    job = api.succeed(job_id)
    lost, again = job.attempts
    assert api.reason_name(lost.reason) == "REASON_PEER_LOST" and lost.counted
    row, = tools.read_lines(pathlib.Path(job.output_dir) / "eval.jsonl")
    assert (job.eval_last.loss, job.eval_last.loss_dense) == (row["loss"], row["loss_dense"])
    assert coordinator.processes() == {}


def test_a_preemption_signal_checkpoints_and_is_not_counted(coordinator, undisturbed):
    api = coordinator.api
    coordinator.holds.add("step-23")
    job_id = api.create(hurt_job(resources__max_attempts=1)).id
    pids = rank_pids(api.wait_for_step(job_id, 23))
    began = time.monotonic()
    send(pids[1], signal.SIGTERM)
    coordinator.holds.release()
    next_step(api, job_id, 2, began, "local: preempted")
    job = api.succeed(job_id)
    lost, again = job.attempts
    assert api.reason_name(lost.reason) == "REASON_PREEMPTED" and not lost.counted
    # Checkpointed at the next step edge, not at the last multiple of ten: nothing is computed twice.
    assert again.resumed_from_step == 24
    assert_same_result(api, job, undisturbed)


def test_a_rank_that_hangs_is_named_and_replaced(tmp_path, undisturbed):
    with Coordinator(tmp_path, liveness__progress_timeout="10s", liveness__session_timeout="60s") as coordinator:
        api = coordinator.api
        coordinator.holds.add("step-15")
        job_id = api.create(hurt_job()).id
        send(rank_pids(api.wait_for_step(job_id, 15))[1], signal.SIGSTOP)
        coordinator.holds.release()
        job = api.succeed(job_id)
        lost = job.attempts[0]
        assert api.reason_name(lost.reason) == "REASON_HANG" and lost.counted
        assert re.search(r"rank 1 .*lags at collective \d+", lost.message), lost.message
        assert_same_result(api, job, undisturbed)
        assert coordinator.processes() == {}


def test_a_job_whose_ranks_always_die_ends_after_its_attempts(coordinator):
    api = coordinator.api
    coordinator.holds.add("step-3")
    job_id = api.create(hurt_job(resources__max_attempts=2, checkpoint__every_steps=0)).id
    for attempt in (1, 2):
        send(rank_pids(of_attempt(api, job_id, attempt, 3))[0], signal.SIGKILL)
    job = api.wait(job_id)
    assert api.state_name(job.state) == "FAILED"
    assert api.reason_name(job.reason) == "REASON_ATTEMPTS_EXHAUSTED" and job.message
    assert [api.reason_name(a.reason) for a in job.attempts] == ["REASON_PEER_LOST"] * 2
    assert coordinator.processes() == {}


def test_without_a_coordinator_the_same_command_continues(tmp_path, undisturbed):
    with Run(tmp_path, hold=26) as run:
        send(run.held()[-1], signal.SIGKILL)
        run.holds.release()
        assert run.process.wait(60) != 0
        tools.assert_no_process(run.marker)
        assert tools.valid_checkpoints(run.out)[-1] == 20
        assert "resumed from the checkpoint of step 20" in run.again()
        tools.assert_same_training(run.out, undisturbed)


def test_a_preempted_run_asks_to_be_started_again(tmp_path, undisturbed):
    with Run(tmp_path, hold=12) as run:
        send(run.held()[0], signal.SIGUSR1)
        run.holds.release()
        assert run.process.wait(60) == tools.PREEMPTED, run.text
        assert run.steps_done() == 13 and tools.valid_checkpoints(run.out)[-1] == 13
        assert "resumed from the checkpoint of step 13" in run.again()
        tools.assert_same_training(run.out, undisturbed)


@pytest.fixture(scope="module")
def undisturbed_with_every_expert(tmp_path_factory):
    return undisturbed_elastic_run(tmp_path_factory.mktemp("every_expert"))


def test_resume_at_another_number_of_ranks(tmp_path, undisturbed_with_every_expert):
    with Run(tmp_path, hold=15, **EVERY_EXPERT) as run:
        run.held()
        run.kill()
        assert tools.valid_checkpoints(run.out)[-1] == 10
        assert "resumed from the checkpoint of step 10" in run.again("--set", "parallel.min_ranks=1", ranks=None)
        assert_equal_to_rounding(run.out, undisturbed_with_every_expert)


def test_an_elastic_job_shrinks_to_the_free_slots_and_grows_again(tmp_path, undisturbed_with_every_expert):
    with Coordinator(tmp_path, queue__elastic_wait="0.5s") as coordinator:
        api = coordinator.api
        coordinator.holds.add("step-15", "step-25")  # of both jobs

        job_id = api.create(elastic_job()).id
        first = rank_pids(of_attempt(api, job_id, 1, 15))
        other = api.create(hurt_job(parallel__ranks=1, resources__priority=9)).id
        send(first[1], signal.SIGKILL)
        narrow = of_attempt(api, job_id, 2, 15)  # the other job has the second slot
        assert len(narrow.attempts[1].ranks) == 1
        coordinator.holds.release("step-15")
        last = rank_pids(of_attempt(api, job_id, 2, 25))
        api.call("CancelJob", id=other)
        api.wait(other)
        send(last[0], signal.SIGKILL)
        coordinator.holds.release("step-25")
        check_shrunk_and_grown(coordinator, job_id, undisturbed_with_every_expert, [(2, 0), (1, 10), (2, 20)])
