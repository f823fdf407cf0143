"""The service as a client in another language sees it: Python code generated from proto/ against a real coordinator."""
import datetime

import pytest

import emoe_tools as tools
from emoe_api import Api, ApiError

STEPS = 4


@pytest.fixture(scope="module")
def finished(shared_coordinator):
    """A job that went all the way, and its events."""
    api = shared_coordinator.api
    spec = tools.tiny_job(data__eval=str(tools.FIXTURES / "rows.json"), checkpoint__every_steps=2, parallel__ranks=2,
                          labels={"team": "research", "kind": "whole"})
    job = api.create(spec, request_id="finished")
    api.succeed(job.id)
    return api.get(job.id)


@pytest.fixture
def api(shared_coordinator):
    return shared_coordinator.api


def expect_error(code, reason, work):
    with pytest.raises(ApiError) as caught:
        work()
    assert (caught.value.code, caught.value.reason) == (code, reason), str(caught.value)
    assert caught.value.domain == "emoe.v1"
    assert caught.value.message, "an error without a text"
    return caught.value


def long_job(**changes):
    """Runs until it is stopped, for the tests that stop it."""
    return tools.tiny_job(train__max_steps=100000, **changes)


# ---------------------------------------------------------------- a whole job
def test_a_job_from_submission_to_checkpoint(api, finished):
    assert api.state_name(finished.state) == "SUCCEEDED" and api.reason_name(finished.reason) == "REASON_COMPLETED"
    assert finished.progress.step == finished.progress.steps_planned == STEPS
    assert finished.merge.verified and finished.merge.tensors_changed == 6
    assert finished.eval_last.loss < finished.eval_first.loss
    assert len(finished.attempts) == 1 and len(finished.attempts[0].ranks) == 2
    assert sorted(r.rank for r in finished.attempts[0].ranks) == [0, 1]
    assert all(r.world_size == 2 and r.pid > 0 and r.host for r in finished.attempts[0].ranks)
    assert finished.create_time.seconds <= finished.start_time.seconds <= finished.end_time.seconds
    # As given and as resolved: what the spec left out is filled in only in the second.
    assert not finished.spec.optimizer.HasField("beta1") and finished.resolved_spec.optimizer.beta1 == 0.9
    assert tools.exported_weights(finished.output_dir)


def test_steps_in_the_store_are_those_in_the_file(api, finished):
    listed = api.call("ListMetrics", id=finished.id)
    lines = tools.read_lines(f"{finished.output_dir}/metrics.jsonl")
    numbers = ("step", "loss", "learning_rate", "grad_norm", "tokens", "target_tokens")
    assert [tuple(getattr(s, n) for n in numbers) for s in listed.steps] == [tuple(row[n] for n in numbers) for row in lines]
    assert len(lines) == STEPS and listed.next_page_token == ""
    evals = tools.read_lines(f"{finished.output_dir}/eval.jsonl")
    assert [(e.step, e.loss, e.loss_dense) for e in listed.evals] == [(e["step"], e["loss"], e["loss_dense"]) for e in evals]


def test_metrics_come_in_pages(api, finished):
    first = api.call("ListMetrics", id=finished.id, page_size=3)
    assert [s.step for s in first.steps] == [0, 1, 2] and first.next_page_token
    second = api.call("ListMetrics", id=finished.id, page_size=3, page_token=first.next_page_token)
    assert [s.step for s in second.steps] == [3] and not second.next_page_token
    # Each evaluation comes once, with the steps around it.
    assert [e.step for e in first.evals] == [0] and [e.step for e in second.evals] == [STEPS]
    rest = api.call("ListMetrics", id=finished.id, from_step=2)
    assert [s.step for s in rest.steps] == [2, 3] and [e.step for e in rest.evals] == [STEPS]


def test_checkpoints_are_listed_newest_first(api, finished):
    found = api.call("ListCheckpoints", id=finished.id).checkpoints
    assert [c.step for c in found] == sorted(tools.valid_checkpoints(tools.pathlib.Path(finished.output_dir)), reverse=True)
    assert found and all(c.bytes > 0 for c in found)
    paged, token = [], ""
    while not paged or token:
        page = api.call("ListCheckpoints", id=finished.id, page_size=1, page_token=token)
        paged, token = paged + list(page.checkpoints), page.next_page_token
    assert paged == list(found)


def test_logs_of_an_attempt(api, finished):
    logs = api.call("GetJobLogs", id=finished.id)
    assert logs.attempt == 1
    expect_error("OUT_OF_RANGE", "NO_SUCH_ATTEMPT", lambda: api.call("GetJobLogs", id=finished.id, attempt=7))


# ---------------------------------------------------------------- watching
def test_watch_tells_the_whole_story(api, finished):
    events = api.events(finished.id)
    assert [e.sequence for e in events] == list(range(1, len(events) + 1))
    assert {e.job_id for e in events} == {finished.id}
    changes = [e.state_change for e in events if e.WhichOneof("kind") == "state_change"]
    states = [api.state_name(c.to) for c in changes]
    assert states[-1] == "SUCCEEDED"
    order = [s for s in states if s in ("QUEUED", "STARTING", "RUNNING", "EXPORTING", "SUCCEEDED")]
    assert order == ["QUEUED", "STARTING", "RUNNING", "EXPORTING", "SUCCEEDED"], states
    assert [e.step.step for e in events if e.WhichOneof("kind") == "step"] == list(range(STEPS))
    assert sum(e.WhichOneof("kind") == "merge" for e in events) == 1
    assert [e.eval.step for e in events if e.WhichOneof("kind") == "eval"] == [0, STEPS]


def test_watch_resumes_where_a_client_left(api, finished):
    everything = api.events(finished.id)
    middle = len(everything) // 2
    assert [e.sequence for e in api.events(finished.id, from_sequence=middle)] == [e.sequence for e in everything[middle - 1:]]
    assert api.events(finished.id, from_sequence=len(everything) + 1) == []
    expect_error("OUT_OF_RANGE", "SEQUENCE_OUT_OF_RANGE",
                 lambda: api.events(finished.id, from_sequence=len(everything) + 2))


def test_watch_is_live_and_may_be_left(api, shared_coordinator):
    job = api.create(long_job())
    seen, stream = [], api.watch(job.id)
    for event in stream:
        if event.WhichOneof("kind") == "step":
            seen.append(event.step.step)
        if len(seen) == 5:
            break
    stream.cancel()
    assert seen == [0, 1, 2, 3, 4]
    # The client is gone; the job is not, and another client finds all of it.
    api.wait_for_step(job.id, 10)
    other = Api(shared_coordinator.grpc_address)
    again = other.watch(job.id)
    steps = []
    for event in again:
        if event.WhichOneof("kind") == "step":
            steps.append(event.step.step)
        if len(steps) == 10:
            break
    again.cancel()
    assert steps == list(range(10))
    other.call("CancelJob", id=job.id)
    other.close()
    assert api.state_name(api.wait(job.id).state) == "CANCELLED"


# ---------------------------------------------------------------- cancel, delete, update
def test_cancel_leaves_no_process(api, shared_coordinator):
    job = api.create(long_job(parallel__ranks=2))
    running = api.wait_for_step(job.id, 1)
    assert len(running.attempts[0].ranks) == 2
    answer = api.call("CancelJob", id=job.id, message="enough")
    assert api.state_name(answer.state) in ("CANCELLING", "CANCELLED")
    ended = api.wait(job.id)
    # The contract: CANCELLED only when nothing is left, so no waiting here.
    assert api.state_name(ended.state) == "CANCELLED"
    assert shared_coordinator.processes() == {}
    assert api.state_name(api.call("CancelJob", id=job.id).state) == "CANCELLED", "cancelling again returns it"
    assert api.call("GetServerInfo").slots_free == 2


def test_cancel_of_a_queued_job_never_starts_it(api):
    first = api.create(long_job(parallel__ranks=2))
    api.wait_for_step(first.id, 1)
    second = api.create(tools.tiny_job())
    waiting = tools.wait_until(lambda: (job := api.get(second.id)).queue_position == 1 and job, 60, "a place in line")
    assert api.state_name(waiting.state) == "QUEUED"
    assert waiting.message, "a waiting job says why"
    assert api.state_name(api.call("CancelJob", id=second.id).state) == "CANCELLED"
    assert len(api.get(second.id).attempts) == 0
    api.call("CancelJob", id=first.id)
    api.wait(first.id)


def test_wrong_state(api, finished):
    expect_error("FAILED_PRECONDITION", "WRONG_STATE", lambda: api.call("CancelJob", id=finished.id))


def test_delete(api):
    job = api.create(tools.tiny_job(train__max_steps=1))
    api.succeed(job.id)
    folder = tools.pathlib.Path(api.get(job.id).output_dir)
    expect_error("ABORTED", "ETAG_MISMATCH", lambda: api.call("DeleteJob", id=job.id, etag="another"))
    assert folder.is_dir()
    api.call("DeleteJob", id=job.id, delete_outputs=True)
    assert not folder.exists()
    expect_error("NOT_FOUND", "JOB_NOT_FOUND", lambda: api.get(job.id))


def test_update(api):
    job = api.create(long_job())
    from google.protobuf.field_mask_pb2 import FieldMask
    updated = api.call("UpdateJob", id=job.id, spec=api.spec({"name": "renamed", "labels": {"team": "b"}}),
                       update_mask=FieldMask(paths=["name", "labels"]))
    assert updated.name == "renamed"
    error = expect_error("ABORTED", "ETAG_MISMATCH", lambda: api.call(
        "UpdateJob", id=job.id, spec=api.spec({"name": "x"}), update_mask=FieldMask(paths=["name"]), etag="old"))
    assert "etag" in error.message.lower()
    with pytest.raises(ApiError) as caught:
        api.call("UpdateJob", id=job.id, spec=api.spec({"tuning": "full"}), update_mask=FieldMask(paths=["tuning"]))
    assert caught.value.code == "INVALID_ARGUMENT" and "tuning" in caught.value.message
    api.call("CancelJob", id=job.id)
    api.wait(job.id)


# ---------------------------------------------------------------- lists
def test_lists_filter_and_page(api, finished):
    ids = [finished.id]
    for name in ("list-b", "list-a", "list-c"):
        job = api.create(tools.tiny_job(name=name, train__max_steps=1, labels={"team": "list"}, export=None))
        ids.append(job.id)
    for job_id in ids[1:]:
        api.wait(job_id)
    listed = lambda **fields: [j.name for j in api.call("ListJobs", **fields).jobs]
    assert listed(filter="labels.team=list") == ["list-c", "list-a", "list-b"], "newest first"
    assert listed(filter="labels.team=list", order_by="name") == ["list-a", "list-b", "list-c"]
    assert listed(filter="labels.team=list AND name=list-a") == ["list-a"]
    assert listed(filter="labels.team=list AND state=RUNNING|QUEUED") == []
    page = api.call("ListJobs", filter="labels.team=list", page_size=2)
    assert [j.name for j in page.jobs] == ["list-c", "list-a"] and page.next_page_token
    rest = api.call("ListJobs", filter="labels.team=list", page_size=2, page_token=page.next_page_token)
    assert [j.name for j in rest.jobs] == ["list-b"] and not rest.next_page_token
    assert finished.id in [j.id for j in api.call("ListJobs", page_size=100000).jobs], "too large a page is coerced"
    for bad in ({"page_size": -1}, {"page_token": "forged"}, {"filter": "colour=red"}, {"order_by": "taste"}):
        with pytest.raises(ApiError) as caught:
            api.call("ListJobs", **bad)
        assert caught.value.code == "INVALID_ARGUMENT", bad


# ---------------------------------------------------------------- requests
def test_request_id_makes_a_repeat_harmless(api):
    spec = tools.tiny_job(train__max_steps=1)
    first, again = (api.create(spec, request_id="same") for _ in range(2))
    assert first.id == again.id
    expect_error("ALREADY_EXISTS", "REQUEST_ID_REUSED",
                 lambda: api.create(tools.changed(spec, name="another"), request_id="same"))
    api.succeed(first.id)
    assert len(api.get(first.id).attempts) == 1


def test_validate_only_stores_nothing(api):
    count = len(api.call("ListJobs", page_size=1000).jobs)
    answer = api.create(tools.tiny_job(name="only-a-check"), validate_only=True)
    assert answer.id == "" and answer.resolved_spec.optimizer.beta2 == 0.999
    assert len(api.call("ListJobs", page_size=1000).jobs) == count


def test_a_bad_spec_reports_everything_and_stores_nothing(api, tmp_path):
    count = len(api.call("ListJobs", page_size=1000).jobs)
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "no output"}, 7]
    spec = tools.tiny_job(data__train=str(tools.write_json(tmp_path / "rows.json", rows)), optimizer__learning_rate=-1.0,
                          lora__targets=["q_proj", "w_proj"], emoe={"experts": 7, "top_k": 9, "layers": {"list": [0, 5]}})
    error = expect_error("INVALID_ARGUMENT", "INVALID_SPEC", lambda: api.create(spec))
    fields = " ".join(f"{field}: {why}\n" for field, why in error.violations)
    for expected in ("optimizer.learning_rate", "w_proj", "emoe.experts", "1, 2, 3, 4, 6, 8, 12, 16, 24, 48", "emoe.top_k",
                     "emoe.layers", "rows.json"):
        assert expected in fields, f"{expected} is not reported:\n{fields}"
    assert len(api.call("ListJobs", page_size=1000).jobs) == count


def test_more_ranks_than_slots(api):
    error = expect_error("FAILED_PRECONDITION", "NOT_ENOUGH_SLOTS", lambda: api.create(tools.tiny_job(parallel__ranks=3)))
    assert "2" in error.message and "3" in error.message


def test_unknown_job(api):
    for method in ("GetJob", "CancelJob", "DeleteJob", "ListMetrics", "ListCheckpoints", "GetJobLogs"):
        expect_error("NOT_FOUND", "JOB_NOT_FOUND", lambda m=method: api.call(m, id="no-such-job"))
    expect_error("NOT_FOUND", "JOB_NOT_FOUND", lambda: api.events("no-such-job"))


def test_a_checkpoint_that_is_not_kept(api, finished):
    error = expect_error("NOT_FOUND", "NO_SUCH_CHECKPOINT", lambda: api.call("ExportCheckpoint", id=finished.id, step=999))
    assert "there are" in error.message, error.message


# ---------------------------------------------------------------- the server itself
def test_health_and_reflection(api):
    assert api.healthy("") and api.healthy("emoe.v1.FineTuning")
    stub, messages = api.proto.reflection_stubs.ServerReflectionStub(api.channel), api.proto.reflection
    asked = [messages.ServerReflectionRequest(list_services=""),
             messages.ServerReflectionRequest(file_containing_symbol="emoe.v1.FineTuning")]
    listed, described = list(stub.ServerReflectionInfo(iter(asked), timeout=30))
    names = {s.name for s in listed.list_services_response.service}
    assert {"emoe.v1.FineTuning", "emoe.v1.WorkerControl", "grpc.health.v1.Health"} <= names
    assert described.file_descriptor_response.file_descriptor_proto


def test_ranks_come_to_the_advertised_address(coordinator):
    coordinator.terminate()
    coordinator.settings["advertise"] = coordinator.grpc_address.replace("127.0.0.1", "localhost")
    coordinator.start()
    assert coordinator.api.call("GetServerInfo").address == coordinator.settings["advertise"]
    coordinator.api.succeed(coordinator.api.create(tools.tiny_job()).id)


def test_server_info(api):
    info = api.call("GetServerInfo")
    assert info.api_version == "emoe.v1" and info.slots_total == 2 and info.launcher == "local" and info.version
    assert info.start_time.ToDatetime() < datetime.datetime.utcnow()
