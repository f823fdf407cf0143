"""The demo's EMoE job through the whole service, by mpirun on this machine and by a real Slurm: what a client sees is the
same, and so is every bit of the result."""
import pathlib

import pytest
import yaml

import emoe_tools as tools
from emoe_api import Coordinator

STEPS = 48


def demo_job():
    spec = yaml.safe_load((tools.ROOT / "configs" / "demo" / "emoe-lora.yaml").read_text())
    paths = {f"{part}__{key}": str(tools.ROOT / spec[part][key])
             for part, key in (("model", "path"), ("data", "train"), ("data", "eval"))}
    return tools.changed(spec, train__max_steps=STEPS, train__log_every=1, checkpoint={"every_steps": 16}, **paths)


@pytest.fixture(scope="module")
def finished(cluster, tmp_path_factory):
    """{launcher: (api, job)}"""
    jobs = {}
    with Coordinator(tmp_path_factory.mktemp("local")) as local, \
            cluster.coordinator(tmp_path_factory.mktemp("slurm")) as slurm:
        for name, coordinator in (("local", local), ("slurm", slurm)):
            jobs[name] = coordinator.api, coordinator.api.succeed(coordinator.api.create(demo_job(), request_id="once").id)
            assert coordinator.api.call("GetServerInfo").launcher == name
        yield jobs


@pytest.fixture(params=["local", "slurm"])
def one(request, finished):
    return finished[request.param]


def test_states_and_events(one):
    api, job = one
    events = api.events(job.id)
    assert [e.sequence for e in events] == list(range(1, len(events) + 1))
    states = [api.state_name(e.state_change.to) for e in events if e.WhichOneof("kind") == "state_change"]
    assert states == ["QUEUED", "STARTING", "RUNNING", "EXPORTING", "SUCCEEDED"]
    assert [e.step.step for e in events if e.WhichOneof("kind") == "step"] == list(range(STEPS))
    assert [e.eval.step for e in events if e.WhichOneof("kind") == "eval"] == [0, STEPS]
    assert [e.checkpoint.step for e in events if e.WhichOneof("kind") == "checkpoint"] == [16, 32, 48]
    assert sum(e.WhichOneof("kind") == "merge" for e in events) == 1


def test_the_job(one):
    api, job = one
    assert api.reason_name(job.reason) == "REASON_COMPLETED" and job.progress.step == job.progress.steps_planned == STEPS
    assert len(job.attempts) == 1 and sorted(r.rank for r in job.attempts[0].ranks) == [0, 1]
    assert all(r.world_size == 2 and r.pid > 0 and r.host for r in job.attempts[0].ranks)
    hosts = {r.metrics_address.rsplit(":", 1)[0] for r in job.attempts[0].ranks}
    assert hosts == ({"127.0.0.1"} if "local" in job.output_dir else {job.attempts[0].ranks[0].host})
    assert job.eval_last.loss < job.eval_first.loss and job.merge.verified
    logs = api.call("GetJobLogs", id=job.id).text
    assert "[0] " in logs, logs


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
    (_, local), (_, slurm) = finished["local"], finished["slurm"]
    tools.assert_same_training(pathlib.Path(slurm.output_dir), pathlib.Path(local.output_dir))


def test_slurm_was_asked_for_it_once_and_nothing_is_left(finished, cluster):
    _, job = finished["slurm"]
    ours, = [found for found in cluster.jobs().values() if job.id in found["JobName"]]
    assert ours["JobName"] == f"{job.id}.1" == ours["Comment"] and ours["JobState"] == "COMPLETED"
    assert ours["NumTasks"] == "2" and cluster.queue() == []
