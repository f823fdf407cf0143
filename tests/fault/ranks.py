"""Ranks that die, are told to go, or stop answering, under a coordinator. The weights at the end must be those of an
undisturbed run, bit by bit."""
import signal
import subprocess

import pytest

import emoe_tools as tools
from emoe_api import Coordinator
from fault_support import assert_same_result, rank_pids, send, slow_job, undisturbed_run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return undisturbed_run(tmp_path_factory.mktemp("undisturbed"))


def test_a_rank_killed_in_a_step(coordinator, undisturbed):
    api = coordinator.api
    job_id = api.create(slow_job()).id
    first = rank_pids(api.wait_for_step(job_id, 33))
    send(first[1], signal.SIGKILL)
    job = api.succeed(job_id)
    lost, again = job.attempts
    assert api.reason_name(lost.reason) == "REASON_PEER_LOST" and lost.counted
    assert "rank 1" in lost.message and ("signal 9" in lost.message or "SIGKILL" in lost.message), lost.message
    assert again.resumed_from_step >= 30 and again.resumed_from_step % 10 == 0
    assert not set(first) & {r.pid for r in again.ranks}
    assert_same_result(api, job, undisturbed)
    assert coordinator.processes() == {}


def test_a_preemption_signal_checkpoints_and_is_not_counted(coordinator, undisturbed):
    api = coordinator.api
    job_id = api.create(slow_job(resources__max_attempts=1)).id
    send(rank_pids(api.wait_for_step(job_id, 23))[1], signal.SIGTERM)
    job = api.succeed(job_id)
    lost, again = job.attempts
    assert api.reason_name(lost.reason) == "REASON_PREEMPTED" and not lost.counted
    # Checkpointed at the next step edge, not at the last multiple of ten: nothing is computed twice.
    assert again.resumed_from_step >= 23 and again.resumed_from_step == lost_step(api, job_id)
    assert_same_result(api, job, undisturbed)


def lost_step(api, job_id):
    """Optimiser steps the first attempt did."""
    return 1 + max(s.step for s in api.call("ListMetrics", id=job_id, page_size=10000).steps if s.attempt == 1)


def test_a_rank_that_hangs_is_named_and_replaced(tmp_path, undisturbed):
    with Coordinator(tmp_path, liveness__progress_timeout="3s", liveness__session_timeout="6s") as coordinator:
        api = coordinator.api
        job_id = api.create(slow_job()).id
        send(rank_pids(api.wait_for_step(job_id, 15))[1], signal.SIGSTOP)
        job = api.succeed(job_id)
        lost = job.attempts[0]
        assert api.reason_name(lost.reason) in ("REASON_HANG", "REASON_PEER_LOST")
        assert "rank 1" in lost.message, lost.message
        assert_same_result(api, job, undisturbed)
        assert coordinator.processes() == {}


def test_a_job_whose_ranks_always_die_ends_after_its_attempts(coordinator):
    api = coordinator.api
    job_id = api.create(slow_job(resources__max_attempts=2, checkpoint__every_steps=0)).id
    for attempt in (1, 2):
        job = tools.wait_until(lambda n=attempt: attempt_at_step(api, job_id, n, 2), 30, f"attempt {attempt} in its third step")
        send(rank_pids(job)[0], signal.SIGKILL)
    job = api.wait(job_id)
    assert api.state_name(job.state) == "FAILED"
    assert api.reason_name(job.reason) in ("REASON_ATTEMPTS_EXHAUSTED", "REASON_PEER_LOST")
    assert len(job.attempts) == 2 and job.message
    assert coordinator.processes() == {}


def attempt_at_step(api, job_id, number, step):
    job = api.get(job_id)
    running = len(job.attempts) == number and api.state_name(job.state) == "RUNNING" and len(job.attempts[-1].ranks) == 2
    return job if running and job.progress.step > step else None


def test_without_a_coordinator_the_same_command_continues(tmp_path, undisturbed):
    job, out = tools.write_yaml(tmp_path / "job.yaml", slow_job()), tmp_path / "out"
    command = ["mpirun", *tools.MPI_ARGUMENTS, "-n", "2", tools.WORKER, "run", job, "--out", out]
    marker = "EMOE_TEST_ID=" + str(tmp_path)
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([str(c) for c in command], stdout=log, stderr=log, start_new_session=True,
                                   env=tools.environment({"EMOE_TEST_ID": str(tmp_path)}))
        ranks = tools.wait_until(lambda: at_step(out, 25) and ranks_of(marker), 60, "two ranks past step 25")
        send(ranks[-1], signal.SIGKILL)
        assert process.wait(30) != 0
    tools.assert_no_process(marker)
    tools.worker("run", job, "--out", out, ranks=2).expect()
    tools.assert_same_training(out, undisturbed)


def at_step(out, step):
    metrics = out / "metrics.jsonl"
    return metrics.exists() and metrics.read_text().count("\n") > step


def ranks_of(marker):
    pids = sorted(pid for pid, name in tools.marked_processes(marker).items() if "mpirun" not in name and "emoe-worker" in name)
    return pids if len(pids) == 2 else None


def test_a_preempted_run_asks_to_be_started_again(tmp_path, undisturbed):
    job, out = tools.write_yaml(tmp_path / "job.yaml", slow_job()), tmp_path / "out"
    command = [str(c) for c in ("mpirun", *tools.MPI_ARGUMENTS, "-n", 2, tools.WORKER, "run", job, "--out", out)]
    marker = "EMOE_TEST_ID=" + str(tmp_path)
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True,
                                   env=tools.environment({"EMOE_TEST_ID": str(tmp_path)}))
        ranks = tools.wait_until(lambda: at_step(out, 12) and ranks_of(marker), 60, "two ranks past step 12")
        send(ranks[0], signal.SIGUSR1)
        assert process.wait(30) == tools.PREEMPTED, (tmp_path / "log").read_text()
    done = len(tools.read_lines(out / "metrics.jsonl"))
    assert tools.valid_checkpoints(out)[-1] == done > 12
    tools.worker("run", job, "--out", out, ranks=2).expect()
    tools.assert_same_training(out, undisturbed)


def test_resume_at_another_number_of_ranks(tmp_path):
    """Equal to rounding: another order of the sums, nothing else."""
    spec = slow_job(train__max_steps=20, checkpoint__every_steps=10, lora__dropout=0.0)
    whole = tools.run_job(tmp_path / "whole", spec, ranks=2)
    job, out = tools.write_yaml(tmp_path / "job.yaml", spec), tmp_path / "out"
    command = [str(c) for c in ("mpirun", *tools.MPI_ARGUMENTS, "-n", 2, tools.WORKER, "run", job, "--out", out)]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True,
                                   env=tools.environment({"EMOE_TEST_ID": str(tmp_path)}))
        tools.wait_until(lambda: tools.valid_checkpoints(out), 60, "the first checkpoint")
        process.send_signal(signal.SIGKILL)
        process.wait()
    tools.assert_no_process("EMOE_TEST_ID=" + str(tmp_path), timeout=20)
    tools.worker("run", job, "--out", out, "--set", "parallel.ranks=1").expect()
    ours, theirs = tools.read_lines(out / "metrics.jsonl"), tools.read_lines(whole / "metrics.jsonl")
    assert [r["step"] for r in ours] == list(range(20))
    for a, b in zip(ours, theirs):
        assert abs(a["loss"] - b["loss"]) <= 1e-5 * b["loss"], (a, b)
