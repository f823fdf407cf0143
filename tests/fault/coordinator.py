"""The coordinator killed -9 and started again: nothing is lost, nothing runs twice."""
import os
import pathlib
import signal
import threading
import time

import grpc
import pytest

import emoe_tools as tools
from emoe_api import Api, ApiError, Coordinator
from fault_support import STEPS, assert_same_result, hurt_job, rank_pids, steps_in, steps_of, undisturbed_run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return undisturbed_run(tmp_path_factory.mktemp("undisturbed"))


def starts_of(api, job_id):
    """Numbers of the attempts that were started, from the events."""
    return [e.state_change.attempt for e in api.events(job_id)
            if e.WhichOneof("kind") == "state_change" and api.state_name(e.state_change.to) == "STARTING"]


def test_killed_while_one_job_runs_and_another_waits(coordinator, undisturbed):
    coordinator.holds.add("step-20")
    running = coordinator.api.create(hurt_job(), request_id="first").id
    waiting = coordinator.api.create(tools.tiny_job(name="waiting"), request_id="second").id
    job = coordinator.api.wait_for_step(running, 20)
    pids, out = rank_pids(job), pathlib.Path(job.output_dir)
    assert coordinator.api.state(waiting) == "QUEUED"
    began = time.monotonic()
    coordinator.kill()
    coordinator.holds.release()
    tools.wait_until(lambda: steps_in(out) > 20, 60, "ranks to train without a coordinator")
    tools.measured(f"KILL → NEXT STEP local: coordinator killed: {time.monotonic() - began:.1f} s")
    assert all(os.path.exists(f"/proc/{pid}") for pid in pids)
    coordinator.start()
    api = coordinator.api
    # A client that never got its answer asks again.
    assert api.create(hurt_job(), request_id="first").id == running
    assert len(api.call("ListJobs").jobs) == 2
    job = api.succeed(running)
    assert len(job.attempts) == 1 and starts_of(api, running) == [1], "re-adopted, not started again"
    assert {r.pid for r in job.attempts[0].ranks} == set(pids)
    assert_same_result(api, job, undisturbed)
    assert len(api.succeed(waiting).attempts) == 1 and starts_of(api, waiting) == [1]
    events = api.events(running)
    assert [e.sequence for e in events] == list(range(1, len(events) + 1)), "the history has no gap"
    assert [e.step.step for e in events if e.WhichOneof("kind") == "step"] == list(range(STEPS))
    assert coordinator.processes() == {}


def test_killed_again_and_again(coordinator, undisturbed):
    coordinator.holds.add("step-5")
    job_id = coordinator.api.create(hurt_job()).id
    for step in (5, 15, 25):
        coordinator.api.wait_for_step(job_id, step)  # its ranks are back
        coordinator.kill()
        coordinator.holds.add(f"step-{step + 10}")
        coordinator.holds.release(f"step-{step}")
        coordinator.start()
        assert coordinator.api.state(job_id) == "RUNNING"
    coordinator.holds.release()
    job = coordinator.api.succeed(job_id)
    assert len(job.attempts) == 1
    assert_same_result(coordinator.api, job, undisturbed)


def test_everything_killed_as_by_a_power_cut(coordinator, undisturbed):
    coordinator.holds.add("step-21")
    job = coordinator.api.create(hurt_job())
    job_id, out = job.id, pathlib.Path(job.output_dir)
    pids = rank_pids(coordinator.api.wait_for_step(job_id, 21))
    coordinator.kill()
    # A checkpoint of which no coordinator hears, of steps of which none heard: what resumes from it reports both no more.
    coordinator.holds.add("step-35")
    coordinator.holds.release("step-21")
    tools.wait_until(lambda: steps_in(out) == 35, 60, "training to go on")
    tools.kill_marked(coordinator.marker)  # the death of one may take others along before it is their turn
    coordinator.holds.release()
    coordinator.start()
    api = coordinator.api
    job = api.succeed(job_id)
    lost, again = job.attempts
    assert api.reason_name(lost.reason) == "REASON_PEER_LOST" and lost.counted, lost.message
    assert again.resumed_from_step == 30
    told = [e.checkpoint.step for e in api.events(job_id) if e.WhichOneof("kind") == "checkpoint"]
    assert told == list(range(10, STEPS + 1, 10)), "each checkpoint once"
    assert not set(pids) & {r.pid for r in again.ranks}
    assert_same_result(api, job, undisturbed)


def test_killed_while_a_job_exports(coordinator, undisturbed):
    coordinator.holds.add("export")
    job = coordinator.api.create(hurt_job())
    job_id, out = job.id, pathlib.Path(job.output_dir)
    coordinator.api.wait(job_id, "EXPORTING")
    coordinator.kill()
    assert not (out / "export").exists()
    coordinator.start()
    coordinator.holds.release()
    job = coordinator.api.succeed(job_id)
    assert len(job.attempts) == 1
    assert_same_result(coordinator.api, job, undisturbed)
    merges = [e for e in coordinator.api.events(job_id) if e.WhichOneof("kind") == "merge"]
    assert len(merges) == 1
    assert coordinator.processes() == {}


@pytest.fixture
def patient(tmp_path):
    """A coordinator that drains until it is told a second time, as terminate() does."""
    with Coordinator(tmp_path, slots=2, liveness__drain_period="30s") as coordinator:
        yield coordinator


def test_stopped_politely(patient, undisturbed):
    """SIGTERM: says so to who watches and to who calls, and goes; a running job is not harmed."""
    coordinator, api = patient, patient.api
    coordinator.holds.add("step-10")
    job_id = api.create(hurt_job()).id
    api.wait_for_step(job_id, 10)
    watched = api.watch(job_id)
    next(watched)
    coordinator.process.send_signal(signal.SIGTERM)
    with pytest.raises(grpc.RpcError) as ended:
        for _ in watched:
            pass
    error = ApiError(api.proto, ended.value)
    assert (error.code, error.reason) == ("UNAVAILABLE", "DRAINING"), str(error)
    for method, request in (("GetJob", {"id": job_id}), ("ListJobs", {}), ("CancelJob", {"id": job_id})):
        with pytest.raises(ApiError) as refused:
            api.call(method, **request)
        assert (refused.value.code, refused.value.reason) == ("UNAVAILABLE", "DRAINING"), method
    for service in ("", "emoe.v1.FineTuning", "emoe.v1.WorkerControl"):
        assert api.health(service) == "NOT_SERVING", service
    assert coordinator.terminate() == 0
    coordinator.holds.release()
    coordinator.start()
    job = coordinator.api.succeed(job_id)
    assert len(job.attempts) == 1
    assert_same_result(coordinator.api, job, undisturbed)


@pytest.fixture(scope="module")
def away(tmp_path_factory):
    """(coordinator, endless job, steps it had done, ending job): the coordinator was away until every rank had given it up.
    Ranks wait for it as long as they are told, also with their final reports, and no longer."""
    folder = tmp_path_factory.mktemp("away")
    with Coordinator(folder, slots=4, liveness__reconnect_grace="15s") as coordinator:
        api = coordinator.api
        endless = api.create(hurt_job(train__max_steps=100000, export=None)).id
        api.wait_for_step(endless, STEPS)
        coordinator.holds.add("step-35")  # which only the other has before it
        ending = api.create(hurt_job()).id
        api.wait_for_step(ending, 35)
        coordinator.kill()
        coordinator.holds.release()
        tools.assert_no_process(coordinator.marker, timeout=60)
        out = coordinator.state / "outputs" / endless
        done = steps_in(out)
        assert tools.valid_checkpoints(out)[-1] == done > STEPS
        coordinator.start()
        yield coordinator, endless, done, ending


def test_ranks_checkpoint_and_end_without_their_coordinator(away):
    coordinator, job_id, done, _ = away
    api = coordinator.api
    tools.wait_until(lambda: api.get(job_id).attempts[-1].number == 2, 60, "another attempt")
    left, again = api.wait_for_step(job_id, done + 1).attempts
    assert api.reason_name(left.reason) == "REASON_PEER_LOST", left.message
    assert again.resumed_from_step == done
    api.call("CancelJob", id=job_id)
    assert api.state_name(api.wait(job_id).state) == "CANCELLED"


def test_a_job_that_finishes_unheard(away, undisturbed):
    """What its ranks had to say in vain is not lost: one attempt, and every step."""
    coordinator, _, _, job_id = away
    api = coordinator.api
    job = api.succeed(job_id)
    assert len(job.attempts) == 1 and starts_of(api, job_id) == [1]
    assert_same_result(api, job, undisturbed)
    assert [e.step.step for e in api.events(job_id) if e.WhichOneof("kind") == "step"] == list(range(STEPS))


def test_two_coordinators_never_share_a_state_folder_or_a_port(coordinator, tmp_path):
    # The same state folder.
    second = tools.run(coordinator.command(listen="127.0.0.1:0"), timeout=60)
    assert second.code != 0 and "another coordinator" in second.text, second.text
    # The same port.
    with Coordinator(tmp_path / "other") as other:
        port = coordinator.grpc_address
        other.terminate()
        taken = tools.run(other.command(listen=port), timeout=60)
        assert taken.code != 0 and port.rsplit(":", 1)[1] in taken.text and "in use" in taken.text, taken.text
        taken = tools.run(other.command(metrics_listen=coordinator.metrics_address), timeout=60)
        assert taken.code != 0 and "in use" in taken.text, taken.text
    assert coordinator.api.healthy()


def test_killed_while_many_submit(tmp_path):
    """New jobs of several clients share a commit: what was answered is there, and what is there is whole and there once."""
    answered, lock, clients, each, in_batch = {}, threading.Lock(), 8, 400, 5
    mpirun = tmp_path / "mpirun"
    mpirun.write_text("#!/bin/sh\nexec sleep 600\n")
    mpirun.chmod(0o755)
    with Coordinator(tmp_path, slots=1, queue__max_jobs=1_000_000, launcher__mpirun=str(mpirun)) as coordinator:
        blocker = coordinator.api.create(tools.tiny_job(name="blocker")).id  # has the slot, so that the others wait
        spec = coordinator.api.spec(tools.tiny_job(name="many", parallel__ranks=1))

        def key(client, number):
            return f"client-{client}-{number}"

        def submit(api, client, number):
            """Every other client sends batches."""
            if client % 2 == 0:
                return [api.call("CreateJob", spec=spec, request_id=key(client, number)).id]
            requests = [api.proto.service.CreateJobRequest(spec=spec) for _ in range(in_batch)]
            return [job.id for job in api.call("CreateJobs", requests=requests, request_id=key(client, number)).jobs]

        def run(client, api):
            for number in range(each):
                try:
                    ids = submit(api, client, number)
                except ApiError:
                    return  # it was killed
                with lock:
                    answered[client, number] = ids

        apis = [Api(coordinator.grpc_address) for _ in range(clients)]
        threads = [threading.Thread(target=run, args=(client, api)) for client, api in enumerate(apis)]
        for thread in threads:
            thread.start()
        tools.wait_until(lambda: len(answered) > 100, 60, "a hundred answers")
        coordinator.kill()
        for thread in threads:
            thread.join()
        for api in apis:
            api.close()
        assert len(answered) < clients * each, "it was to be killed in the middle"
        coordinator.start()
        api = coordinator.api
        last = {client: 1 + max((n for c, n in answered if c == client), default=-1) for client in range(clients)}
        jobs = listed(api)
        for ids in answered.values():
            assert set(ids) <= jobs, "an answered job is gone"
        # The calls that broke: stored or not, the repeat makes each job once.
        for client, number in last.items():
            answered[client, number] = submit(api, client, number)
            assert submit(api, client, number) == answered[client, number]
        known = [job for ids in answered.values() for job in ids]
        assert len(known) == len(set(known))
        assert listed(api) == {blocker, *known}, "a job that nobody was told of"


def listed(api):
    """The ids of all jobs, by pages."""
    ids, token = [], ""
    while True:
        page = api.call("ListJobs", page_size=200, page_token=token)
        ids += [job.id for job in page.jobs]
        token = page.next_page_token
        if not token:
            assert len(ids) == len(set(ids))
            return set(ids)
