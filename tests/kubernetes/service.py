"""The demo's EMoE job through the whole service with Kubernetes as its engine: what a client sees is what it sees of mpirun on this
machine, and so is every bit of the result. One coordinator is killed on the way; a watch breaks and another expires."""
import pathlib

import pytest

import demo_on_engine as demo
import emoe_tools as tools
from emoe_api import Coordinator
from fake_cluster import Cluster
from fake_kubernetes import allowed_verbs

STEPS, EVERY = 24, 8


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
        ids = {name: coordinator.api.create(demo.demo_job(STEPS, EVERY), request_id="once").id
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
    demo.check_events(*one, STEPS, EVERY)


def test_the_job(one):
    demo.check_job(*one, STEPS)


def test_metrics(one):
    demo.check_metrics(*one)


def test_the_export(one):
    demo.check_export(one[1])


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
