"""The demo's EMoE job through the whole service with Kubernetes as its engine: what a client sees is what it sees of mpirun on this
machine, and so is every bit of the result. One coordinator is killed on the way; a watch breaks and another expires."""
import pathlib

import pytest
import yaml

import emoe_tools as tools
from emoe_api import Coordinator
from fake_cluster import Cluster
from fake_kubernetes import allowed_verbs

STEPS = 24


def demo_job():
    spec = yaml.safe_load((tools.ROOT / "configs" / "demo" / "emoe-lora.yaml").read_text())
    paths = {f"{part}__{key}": str(tools.ROOT / spec[part][key])
             for part, key in (("model", "path"), ("data", "train"), ("data", "eval"))}
    return tools.changed(spec, train__max_steps=STEPS, train__log_every=1, checkpoint={"every_steps": 8}, **paths)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """{launcher: (api, job)}, and what the API server saw."""
    jobs = {}
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster, \
            cluster.coordinator(tmp_path_factory.mktemp("kubernetes")) as remote, \
            Coordinator(tmp_path_factory.mktemp("local")) as local:
        cluster.api.fault("GET", "/mpijobs", watch="cut")
        cluster.api.fault("GET", "/pods", watch="expired")
        remote.holds.add("step-11")
        ids = {name: coordinator.api.create(demo_job(), request_id="once").id
               for name, coordinator in (("local", local), ("kubernetes", remote))}
        remote.api.wait_for_step(ids["kubernetes"], 11)
        remote.kill()
        remote.start()
        remote.holds.release()
        for name, coordinator in (("local", local), ("kubernetes", remote)):
            jobs[name] = coordinator.api, coordinator.api.succeed(ids[name])
            assert coordinator.api.call("GetServerInfo").launcher == name
        yield jobs, cluster


@pytest.fixture(params=["local", "kubernetes"])
def one(request, finished):
    return finished[0][request.param]


def test_states_and_events(one):
    api, job = one
    events = api.events(job.id)
    assert [e.sequence for e in events] == list(range(1, len(events) + 1))
    states = [api.state_name(e.state_change.to) for e in events if e.WhichOneof("kind") == "state_change"]
    assert states == ["QUEUED", "STARTING", "RUNNING", "EXPORTING", "SUCCEEDED"]
    assert [e.step.step for e in events if e.WhichOneof("kind") == "step"] == list(range(STEPS))
    assert [e.eval.step for e in events if e.WhichOneof("kind") == "eval"] == [0, STEPS]
    assert [e.checkpoint.step for e in events if e.WhichOneof("kind") == "checkpoint"] == [8, 16, 24]
    assert sum(e.WhichOneof("kind") == "merge" for e in events) == 1


def test_the_job(one):
    api, job = one
    assert api.reason_name(job.reason) == "REASON_COMPLETED" and job.progress.step == job.progress.steps_planned == STEPS
    assert len(job.attempts) == 1 and sorted(r.rank for r in job.attempts[0].ranks) == [0, 1]
    assert all(r.world_size == 2 and r.pid > 0 and r.host for r in job.attempts[0].ranks)
    assert job.eval_last.loss < job.eval_first.loss and job.merge.verified
    assert "[0] " in api.call("GetJobLogs", id=job.id).text


def test_metrics(one):
    api, job = one
    listed = api.call("ListMetrics", id=job.id, page_size=1000)
    lines = tools.read_lines(f"{job.output_dir}/metrics.jsonl")
    numbers = ("step", "loss", "learning_rate", "grad_norm", "tokens", "target_tokens")
    assert [tuple(getattr(s, n) for n in numbers) for s in listed.steps] == [tuple(row[n] for n in numbers) for row in lines]


def test_the_export(one):
    _, job = one
    out = pathlib.Path(job.output_dir)
    report = tools.read_json(out / "export" / "merge_report.json")
    assert report["tensors_changed"] == job.merge.tensors_changed > 0
    assert (out / "export" / "adapter").is_dir() and len(list((out / "partition").iterdir())) > 0


def test_both_give_the_same_bits(finished):
    (_, local), (_, remote) = finished[0]["local"], finished[0]["kubernetes"]
    tools.assert_same_training(pathlib.Path(remote.output_dir), pathlib.Path(local.output_dir))


def test_the_cluster_was_asked_for_it_once_and_nothing_is_left(finished):
    jobs, cluster = finished
    name = f"{jobs['kubernetes'][1].id}-1"
    assert cluster.api.created() == [name] and cluster.launched == [f"{name}-launcher-x7k2p"]
    assert cluster.api.names("mpijobs") == cluster.api.names("pods") == []
    tools.assert_no_process(cluster.marker)
    assert cluster.api.used <= allowed_verbs()
    # The token of the attempt is not for everybody who may read MPIJobs.
    shown = [found for _, kind, _, found in cluster.store.events if kind == "mpijobs"]
    assert "EMOE_ATTEMPT_TOKEN" not in str(shown) and "rank_environment" in str(shown)
