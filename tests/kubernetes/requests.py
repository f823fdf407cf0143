"""Misfortunes between coordinator and API server: in no case is anything started twice or left."""
import base64
import copy
import pathlib
import time

import pytest

import emoe_tools as tools
from fake_cluster import Cluster
from fake_kubernetes import Authority
from fault_support import next_step


def short_job(**changes):
    return tools.tiny_job(parallel__ranks=2, train__max_steps=3, **changes)


def assert_nothing_left(cluster):
    assert cluster.api.names("mpijobs") == cluster.api.names("pods") == []
    tools.assert_no_process(cluster.marker)


def attempts(api, job):
    return [(api.reason_name(a.reason), a.counted) for a in job.attempts]


@pytest.mark.parametrize("arrived", ["after", "before"])
def test_a_create_without_an_answer(cluster, coordinator, arrived):
    cluster.api.fault("POST", "/mpijobs", silent=arrived)
    job = coordinator.api.succeed(coordinator.api.create(short_job()).id)
    assert len(job.attempts) == 1 and cluster.api.created() == [f"{job.id}-1"] and len(cluster.launched) == 1
    assert_nothing_left(cluster)


# Nobody can say whether it was created: it is withdrawn, so that it starts nothing when it comes late.
def test_a_create_that_arrives_after_it_was_given_up(cluster, coordinator):
    cluster.operator = False
    cluster.api.fault("POST", "/mpijobs", silent="after")
    lost = cluster.api.fault("GET", "-1", times=0, status=503, message="no leader")
    counted = cluster.api.take_fault

    def take(method, path, watch):
        fault = counted(method, path, watch)
        if fault and method == "POST":
            lost.times = 1  # the question after it
        return fault

    cluster.api.take_fault = take
    job_id = coordinator.api.create(short_job()).id
    tools.wait_until(lambda: f"{job_id}-2" in cluster.api.created(), 60, lambda: coordinator.api.get(job_id))
    cluster.operator = True
    job = coordinator.api.succeed(job_id)
    assert attempts(coordinator.api, job) == [("REASON_START_FAILED", False), ("REASON_COMPLETED", False)]
    tools.wait_until(lambda: cluster.api.names() == [] and cluster.api.names("pods") == [], 60, cluster.api.names)
    folder = coordinator.state / "jobs" / job_id
    assert (folder / "attempt_1" / "kubernetes_run").readlink().name == "withdrawn"
    assert not list((folder / "attempt_1").glob("rank_*.start"))


def test_a_name_that_was_just_taken_and_is_free_again(cluster, coordinator):
    cluster.api.fault("POST", "/mpijobs", status=409, reason="AlreadyExists", message="object is being deleted")
    job = coordinator.api.succeed(coordinator.api.create(short_job()).id)
    assert len(job.attempts) == 1 and len(cluster.launched) == 1
    assert_nothing_left(cluster)


def test_an_mpijob_of_somebody_else_with_that_name(cluster, coordinator):
    """It is neither taken for ours nor touched."""
    cluster.operator, add = False, cluster.store.add

    def after_theirs(kind, new):
        if new["metadata"]["name"] not in cluster.store.objects[kind]:
            theirs = copy.deepcopy(new)
            theirs["metadata"]["annotations"] = {}
            add(kind, theirs)
        return add(kind, new)

    cluster.store.add = after_theirs
    job = coordinator.api.wait(coordinator.api.create(short_job()).id)
    assert coordinator.api.state_name(job.state) == "FAILED" and "which is not of this attempt" in job.message, job.message
    assert cluster.api.names() == [f"{job.id}-1"] and ("mpijobs", "delete") not in cluster.api.used


def test_a_token_that_was_rotated(cluster, coordinator):
    coordinator.holds.add("step-1")
    job_id = coordinator.api.create(short_job()).id
    coordinator.api.wait_for_step(job_id, 1)
    cluster.api.rotate_token()
    coordinator.holds.release()
    coordinator.api.succeed(job_id)
    assert_nothing_left(cluster)


def test_a_token_that_is_not_taken(cluster, coordinator):
    cluster.api.tokens = set()
    job_id = coordinator.api.create(short_job()).id
    message = lambda: coordinator.api.get(job_id).message
    tools.wait_until(lambda: "does not take the token in " in message(), 30, message)
    cluster.api.tokens = {"first-token"}
    coordinator.api.succeed(job_id)


REFUSALS = {
    "create": "cannot create resource \"mpijobs\" in API group \"kubeflow.org\"",
    "list": "cannot list resource \"pods\"",
}


@pytest.mark.parametrize("verb", REFUSALS)
def test_a_verb_that_the_role_lacks(cluster, coordinator, verb):
    cluster.api.allowed = {(kind, word) for kind, word in cluster.api.allowed if word != verb or kind == "mpijobs" and verb == "list"}
    api = coordinator.api
    job = api.wait(api.create(short_job()).id)
    assert (api.state_name(job.state), api.reason_name(job.reason)) == ("FAILED", "REASON_START_FAILED"), job
    assert REFUSALS[verb] in job.message and "deploy/kubernetes/base/access.yaml" in job.message, job.message
    assert_nothing_left(cluster)


def test_no_mpi_operator_is_installed(cluster, coordinator):
    cluster.api.has_crd = False
    job = coordinator.api.wait(coordinator.api.create(short_job()).id)
    assert coordinator.api.state_name(job.state) == "FAILED" and "install the MPI operator" in job.message, job.message


def test_an_object_that_the_server_does_not_take(cluster, coordinator):
    cluster.api.fault("POST", "/mpijobs", status=422, reason="Invalid", message="spec.slotsPerWorker: Invalid value: 0")
    job = coordinator.api.wait(coordinator.api.create(short_job()).id)
    assert coordinator.api.state_name(job.state) == "FAILED" and "slotsPerWorker" in job.message, job.message


@pytest.mark.parametrize("status", [429, 500])
def test_a_server_that_is_busy(cluster, coordinator, status):
    headers = {"Retry-After": "1"} if status == 429 else {}
    cluster.api.fault("POST", "/mpijobs", status=status, reason="TooManyRequests", message="later", headers=headers)
    cluster.api.fault("GET", "/mpijobs", times=3, status=status, message="later", headers=headers)
    cluster.api.fault("DELETE", "/mpijobs", status=status, message="later", headers=headers)
    job = coordinator.api.succeed(coordinator.api.create(short_job()).id)
    assert not any(a.counted for a in job.attempts) and len(cluster.launched) == 1, job.attempts
    tools.wait_until(lambda: cluster.api.names() == [], 60, cluster.api.names)


def test_a_quota_that_is_used_up_waits(cluster, coordinator):
    cluster.api.fault("POST", "/mpijobs", status=403, reason="Forbidden",
                      message='mpijobs.kubeflow.org "x" is forbidden: exceeded quota: count/mpijobs.kubeflow.org')
    job = coordinator.api.succeed(coordinator.api.create(short_job()).id)
    assert attempts(coordinator.api, job) == [("REASON_START_FAILED", False), ("REASON_COMPLETED", False)]
    assert "exceeded quota" in job.attempts[0].message


def test_a_certificate_for_another_name(tmp_path):
    with Cluster(tmp_path / "cluster", names="DNS:api.elsewhere.example") as cluster, cluster.coordinator(tmp_path) as coordinator:
        job = coordinator.api.wait(coordinator.api.create(short_job()).id)
        assert coordinator.api.state_name(job.state) == "FAILED"
        assert "subject name" in job.message and cluster.api.requests == [], job.message


def test_a_certificate_of_another_authority(tmp_path):
    with Cluster(tmp_path / "one") as cluster, Cluster(tmp_path / "two") as other, \
            cluster.coordinator(tmp_path, launcher__kubernetes__ca_file=other.api.ca) as coordinator:
        job = coordinator.api.wait(coordinator.api.create(short_job()).id)
        assert coordinator.api.state_name(job.state) == "FAILED" and "certificate" in job.message, job.message
        assert cluster.api.requests == []


@pytest.mark.parametrize("key, value, words", [
    ("template", "/nowhere.yaml", "launcher.kubernetes.template: cannot open /nowhere.yaml: No such file"),
    ("image", "''", "no image for the container mpirun"), ("shm_size", "1.5Gi", "is no quantity of memory"),
    ("server", "http://127.0.0.1", "is not https://"), ("token_file", "/nowhere", "/nowhere: No such file"),
    ("server", "''", "Neither server nor kubeconfig is set")])
def test_settings_with_which_nothing_could_run(tmp_path, key, value, words):
    token = tmp_path / "token"
    token.write_text("t")
    settings = {"server": "https://127.0.0.1:1", "token_file": token, "image": "i", key: value}
    options = [f"--set=launcher.kubernetes.{name}={text}" for name, text in settings.items()]
    refused = tools.run([tools.COORDINATOR, "--state-dir", tmp_path / "state", "--set=launcher.kind=kubernetes", *options,
                         "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]).expect(tools.USAGE)
    assert words in refused.text, refused.text


def by_kubeconfig(cluster, folder, user):
    """A coordinator that finds the cluster by a kubeconfig with this user."""
    settings = {"contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "emoe"}}],
                "clusters": [{"name": "c", "cluster": {"server": cluster.api.url, "certificate-authority": str(cluster.api.ca)}}],
                "users": [{"name": "u", "user": user}], "current-context": "here"}
    file = tools.write_yaml(folder / "kubeconfig", settings)
    none = {f"launcher__kubernetes__{key}": "''" for key in ("server", "ca_file", "token_file", "namespace")}
    return cluster.coordinator(folder, launcher__kubernetes__kubeconfig=file, **none)


def test_by_kubeconfig(cluster, tmp_path):
    with by_kubeconfig(cluster, tmp_path, {"tokenFile": str(cluster.api.token_file)}) as coordinator:
        coordinator.api.succeed(coordinator.api.create(short_job()).id)


@pytest.fixture
def users(tmp_path):
    return Authority(tmp_path / "users")


@pytest.mark.parametrize("inline", [False, True])
def test_a_client_certificate(users, tmp_path, inline):
    """TLS is mutual; the certificate is all that says who asks."""
    files = users.client("emoe-coordinator")
    user = dict(zip(("client-certificate", "client-key"), map(str, files)))
    if inline:
        user = {f"{key}-data": base64.b64encode(pathlib.Path(file).read_bytes()).decode() for key, file in user.items()}
    with Cluster(tmp_path / "cluster", client_ca=users.certificate) as cluster, \
            by_kubeconfig(cluster, tmp_path, user) as coordinator:
        cluster.api.tokens = set()
        coordinator.api.succeed(coordinator.api.create(short_job()).id)
        assert cluster.api.users == {"emoe-coordinator"}
        assert_nothing_left(cluster)


@pytest.mark.parametrize("whose", ["nobody", "another authority"])
def test_a_client_certificate_that_the_server_does_not_take(users, tmp_path, whose):
    files = Authority(tmp_path / "others").client("emoe-coordinator")
    user = dict(zip(("client-certificate", "client-key"), map(str, files)))
    with Cluster(tmp_path / "cluster", client_ca=users.certificate) as cluster, \
            by_kubeconfig(cluster, tmp_path, user if whose == "another authority" else {"token": "first-token"}) as coordinator:
        job = coordinator.api.wait(coordinator.api.create(short_job()).id)
        words = {"nobody": "wants a client certificate, and none is given",
                 "another authority": "does not take the client certificate"}[whose]
        assert coordinator.api.state_name(job.state) == "FAILED" and cluster.api.requests == []
        assert words in job.message and cluster.api.url in job.message and "\n" not in job.message, job.message


# After the create and before its commit, and before the create.
@pytest.mark.parametrize("silent", ["after", "before"])
def test_a_coordinator_killed_around_the_create(cluster, coordinator, silent):
    cluster.operator = False
    posted = cluster.api.fault("POST", "/mpijobs", silent=silent)
    # Whoever asks what became of it gets no answer before the coordinator is dead.
    blind = cluster.api.fault("GET", "-1", times=0, status=503, message="no leader")
    counted = cluster.api.take_fault

    def take(method, path, watch):
        fault = counted(method, path, watch)
        if fault is posted:
            coordinator.process.kill()
            blind.times = 0
        return fault

    cluster.api.take_fault = take
    job_id = coordinator.api.create(short_job()).id
    tools.wait_until(lambda: posted.times == 0 and coordinator.process.poll() is not None, 60, "the create")
    began = time.monotonic()
    coordinator.kill()
    coordinator.start()
    cluster.operator = True
    next_step(coordinator.api, job_id, 1, began, f"kubernetes: coordinator killed at a create without an answer ({silent})")
    job = coordinator.api.succeed(job_id)
    assert len(job.attempts) == 1 and len(cluster.launched) == 1 and cluster.api.created() == [f"{job_id}-1"]
    assert_nothing_left(cluster)


def test_an_api_server_that_is_away_for_a_while(cluster, coordinator):
    coordinator.holds.add("step-1")
    job_id = coordinator.api.create(short_job()).id
    coordinator.api.wait_for_step(job_id, 1)
    away = [cluster.api.fault("GET", "/", times=10_000, status=503, message="no leader"),
            cluster.api.fault("DELETE", "/", times=10_000, status=503, message="no leader")]
    coordinator.holds.release()
    tools.wait_until(lambda: coordinator.api.get(job_id).progress.step == 3, 60, "the last step")
    for fault in away:
        fault.times = 0
    job = coordinator.api.succeed(job_id)
    assert len(job.attempts) == 1
    tools.wait_until(lambda: cluster.api.names() == [], 60, cluster.api.names)
