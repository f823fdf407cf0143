"""The demo's EMoE job through the whole service, by mpirun on this machine and by a real Slurm: what a client sees is the
same, and so is every bit of the result."""
import pathlib

import pytest

import demo_on_engine as demo
import emoe_tools as tools
from emoe_api import Coordinator

STEPS, EVERY = 48, 16


@pytest.fixture(scope="module")
def finished(cluster, tmp_path_factory):
    """{launcher: (api, job)}"""
    jobs = {}
    with Coordinator(tmp_path_factory.mktemp("local")) as local, \
            cluster.coordinator(tmp_path_factory.mktemp("slurm")) as slurm:
        for name, coordinator in (("local", local), ("slurm", slurm)):
            jobs[name] = coordinator.api, coordinator.api.succeed(coordinator.api.create(demo.demo_job(STEPS, EVERY), request_id="once").id)
            assert coordinator.api.call("GetServerInfo").launcher == name
        yield jobs


@pytest.fixture(params=["local", "slurm"])
def one(request, finished):
    return finished[request.param]


def test_states_and_events(one):
    demo.check_events(*one, STEPS, EVERY)


def test_the_job(one):
    _, job = one
    hosts = {r.metrics_address.rsplit(":", 1)[0] for r in job.attempts[0].ranks}
    assert hosts == ({"127.0.0.1"} if "local" in job.output_dir else {job.attempts[0].ranks[0].host})
    demo.check_job(*one, STEPS)


def test_metrics(one):
    demo.check_metrics(*one)


def test_the_export(one):
    demo.check_export(one[1])


def test_both_give_the_same_bits(finished):
    (_, local), (_, slurm) = finished["local"], finished["slurm"]
    tools.assert_same_training(pathlib.Path(slurm.output_dir), pathlib.Path(local.output_dir))


def test_slurm_was_asked_for_it_once_and_nothing_is_left(finished, cluster):
    _, job = finished["slurm"]
    ours, = [found for found in cluster.jobs().values() if job.id in found["JobName"]]
    assert ours["JobName"] == f"{job.id}.1" == ours["Comment"] and ours["JobState"] == "COMPLETED"
    assert ours["NumTasks"] == "2" and cluster.queue() == []
