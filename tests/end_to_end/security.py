"""Who may do what: every line of the role table, asked by a foreign client over TLS; tokens that change; certificates."""
import json
import re
import ssl
import threading
import urllib.request

import grpc
import pytest

import emoe_tools as tools
from emoe_api import ApiError
from emoe_security import SecureCoordinator

# What each method takes (server/security/authorizer.h), and whether it names a job.
VIEWER, USER, ADMIN = range(3)
METHODS = {
    "CreateJob": (USER, False), "CreateJobs": (USER, False), "PlanJob": (USER, False), "GetJob": (VIEWER, True),
    "ListJobs": (VIEWER, False), "UpdateJob": (USER, True), "CancelJob": (USER, True), "PauseJob": (USER, True),
    "ResumeJob": (USER, True), "DeleteJob": (USER, True), "WatchJob": (VIEWER, True), "ListMetrics": (VIEWER, True),
    "ListCheckpoints": (VIEWER, True), "ExportCheckpoint": (USER, True), "GetServerInfo": (VIEWER, False),
    "GetJobLogs": (VIEWER, True), "BackupDatabase": (ADMIN, False), "ListAuditEntries": (ADMIN, False)}
ROLES = {"vic": VIEWER, "eve": VIEWER, "ann": USER, "bob": USER, "root": ADMIN}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with SecureCoordinator(tmp_path_factory.mktemp("secure"), slots=1,
                           config={"auth": {"quotas": [{"project": "small", "queued_jobs": 2, "disk": 1}]}}) as running:
        yield running


@pytest.fixture(scope="module")
def hog(service):
    """A job of project product that has the only slot, so that all others wait: its rank is there by TLS."""
    job = service.client("bob").create(tools.tiny_job(name="hog", train__max_steps=1000000))
    service.api.wait(job.id, "RUNNING")
    return job.id


def ask(api, method, job_id=""):
    """(code, reason, message, details) of a call that is as empty as it can be."""
    fields = {"id": job_id} if METHODS[method][1] else {}
    if method == "UpdateJob":
        fields.update(spec=api.spec({"resources": {"priority": 1}}), update_mask={"paths": ["resources.priority"]})
    try:
        if method == "WatchJob":
            next(iter(api.watch(job_id, timeout=30)))
        else:
            request = "GetServerInfoRequest" if method == "GetServerInfo" else ""
            api.call(method, request, **fields)
        return ("OK", "", "", {})
    except ApiError as error:
        return (error.code, error.reason, error.message, error.metadata)
    except grpc.RpcError as error:
        error = ApiError(api.proto, error)
        return (error.code, error.reason, error.message, error.metadata)


def skip_if_absent(found, method):
    if found[0] == "UNIMPLEMENTED":
        pytest.skip(f"this service does not have {method} yet")


# ---------------------------------------------------------------- the role table
@pytest.mark.parametrize("method", METHODS)
def test_no_token_and_a_wrong_one_are_unauthenticated(service, method):
    found = ask(service.client(), method, "job-x")
    skip_if_absent(found, method)
    assert found[:2] == ("UNAUTHENTICATED", "NO_TOKEN")
    assert ask(service.client(token="wrong"), method, "job-x")[:2] == ("UNAUTHENTICATED", "WRONG_TOKEN")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ROLES)
def test_too_little_role_is_denied_whatever_the_job(service, hog, method, name):
    least, on_job = METHODS[method]
    for job in (hog, "job-of-nobody") if on_job else ("",):
        if job == hog and ROLES[name] >= least:
            continue  # it would be changed
        found = ask(service.client(name), method, job)
        skip_if_absent(found, method)
        if ROLES[name] < least:
            assert found[:2] == ("PERMISSION_DENIED", "ROLE_TOO_LOW"), found
        else:
            assert found[0] not in ("PERMISSION_DENIED", "UNAUTHENTICATED"), found
            assert found[0] == "NOT_FOUND" or not on_job, found


@pytest.fixture
def waiting(service, hog):
    """A job of project research that waits."""
    job = service.client("ann").create(tools.tiny_job(name="waits"))
    yield job
    try:
        service.api.call("CancelJob", id=job.id)
        service.api.wait(job.id)
        service.api.call("DeleteJob", id=job.id)
    except ApiError:
        pass


@pytest.mark.parametrize("method", [name for name, (_, on_job) in METHODS.items() if on_job])
def test_a_foreign_job_looks_as_one_that_is_not_there(service, waiting, method):
    """Code, reason, text and details are equal but for the id, whatever else is in the request."""
    unknown = waiting.id[:-6] + "".join("0" if c != "0" else "1" for c in waiting.id[-6:])
    for name in ("bob", "eve"):
        if ROLES[name] < METHODS[method][0]:
            continue
        api = service.client(name)
        foreign, nobody = ask(api, method, waiting.id), ask(api, method, unknown)
        assert foreign[:2] == ("NOT_FOUND", "JOB_NOT_FOUND"), foreign
        assert json.dumps(foreign).replace(waiting.id, unknown) == json.dumps(nobody)
    assert service.api.state(waiting.id) == "QUEUED", "it was changed by a stranger"


def test_whose_jobs_are_listed(service, waiting, hog):
    names = lambda api, **fields: {job.name for job in api.call("ListJobs", **fields).jobs}
    assert "waits" in names(service.client("ann")) and "hog" not in names(service.client("ann"))
    assert "waits" in names(service.client("vic")) and "waits" not in names(service.client("eve"))
    assert {"waits", "hog"} <= names(service.api)
    assert names(service.api, filter="project=product") == names(service.client("bob"))
    assert names(service.client("bob"), filter="project=research") == set()
    assert service.client("ann").get(waiting.id).owner == "ann"
    assert service.client("ann").get(waiting.id).project == "research"
    assert hog not in service.client("ann").get(waiting.id).message, "the id of a foreign job"
    counts = service.client("eve").call("GetServerInfo", "GetServerInfoRequest").jobs_by_state
    assert "QUEUED" not in counts or counts["QUEUED"] == 0


def test_those_who_may_can(service, waiting):
    """An admin and another user of the project change the job; a viewer of the project sees it."""
    assert service.client("vic").get(waiting.id).id == waiting.id
    change = lambda name, method, **fields: service.client(name).call(method, id=waiting.id, **fields)
    assert change("ann", "PauseJob").id == waiting.id
    assert change("root", "ResumeJob").id == waiting.id
    assert change("ann", "CancelJob").id == waiting.id
    change("root", "DeleteJob")


def test_request_ids_belong_to_a_project(service, hog):
    """The id that another project has used is no way to its job's data."""
    spec = tools.tiny_job(name="same")
    first = service.client("ann").create(spec, request_id="shared-id")
    other = service.client("bob").create(spec, request_id="shared-id")
    assert first.id != other.id and other.project == "product"
    assert service.client("ann").create(spec, request_id="shared-id").id == first.id
    for job in (first, other):
        service.api.call("CancelJob", id=job.id)


def test_quotas_of_a_project(service, hog):
    service.tokens.add("sam", "user", "small")
    service.tokens.write()
    api = service.client("sam")
    with pytest.raises(ApiError) as caught:
        api.create(tools.tiny_job())
    assert (caught.value.code, caught.value.reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
    assert {"QuotaFailure", "RetryInfo"} <= set(caught.value.kinds)
    assert "disk" in caught.value.message


# ---------------------------------------------------------------- what is written down
def test_every_change_leaves_an_audit_line(service, waiting):
    service.client("ann").call("PauseJob", id=waiting.id)
    ask(service.client("eve"), "PauseJob", waiting.id)
    ask(service.client("bob"), "PauseJob", waiting.id)
    ask(service.client(token="wrong"), "PauseJob", waiting.id)
    service.client("ann").get(waiting.id)
    found = service.api.call("ListAuditEntries", filter=f"job_id={waiting.id}").entries
    lines = [(e.principal, e.role, e.project, e.method, e.code, e.reason) for e in found]
    assert lines == [("", "", "", "PauseJob", "UNAUTHENTICATED", "WRONG_TOKEN"),
                     ("bob", "user", "product", "PauseJob", "NOT_FOUND", "JOB_NOT_FOUND"),
                     ("eve", "viewer", "product", "PauseJob", "PERMISSION_DENIED", "ROLE_TOO_LOW"),
                     ("ann", "user", "research", "PauseJob", "OK", ""),
                     ("ann", "user", "research", "CreateJob", "OK", "")]
    assert all(e.peer.startswith("ipv4:127.0.0.1:") and e.time.seconds > 0 for e in found)
    mode = (service.state / "audit.jsonl").stat().st_mode
    assert mode & 0o077 == 0, oct(mode)


def test_a_batch_leaves_a_line_for_each_job(service):
    ann = service.client("ann")
    specs = [ann.spec(tools.tiny_job(name=f"batch-{i}", labels={"batch": "audit"})) for i in range(3)]
    message = service.api.proto.service.CreateJobRequest
    made = ann.call("CreateJobs", requests=[message(spec=spec) for spec in specs], request_id="audited")
    lines = service.api.call("ListAuditEntries", filter="method=CreateJobs AND code=OK").entries
    assert [line.job_id for line in lines] == [job.id for job in reversed(made.jobs)], "newest first"
    assert {(line.principal, line.project) for line in lines} == {("ann", "research")}
    one, = service.api.call("ListAuditEntries", filter=f"job_id={made.jobs[1].id}").entries
    assert one.method == "CreateJobs"
    for job in made.jobs:
        ann.call("CancelJob", id=job.id)


def test_audit_pages_and_filters(service, hog):
    api = service.api
    for _ in range(7):
        ask(service.client("eve"), "CancelJob", "job-page")
    seen, token = [], ""
    while True:
        page = api.call("ListAuditEntries", filter="job_id=job-page AND principal=eve", page_size=3, page_token=token)
        seen += list(page.entries)
        token = page.next_page_token
        if not token:
            break
    assert len(seen) == 7 and all(e.method == "CancelJob" for e in seen)
    for fields, reason in (({"filter": "peer=x"}, "INVALID_FILTER"), ({"page_token": "x"}, "INVALID_PAGE_TOKEN"),
                           ({"page_size": -1}, "INVALID_PAGE_SIZE")):
        with pytest.raises(ApiError) as caught:
            api.call("ListAuditEntries", **fields)
        assert caught.value.reason == reason


def test_emoectl_with_tls_and_a_token(service, hog, tmp_path):
    token = tmp_path / "token"
    token.write_text(service.tokens.secrets["root"] + "\n")
    ctl = lambda *arguments, **env: tools.run([tools.EMOECTL, "--server", service.grpc_address, *arguments], env=env)
    env = {"EMOE_TLS_CA": str(service.ca.file), "EMOE_TOKEN_FILE": str(token)}
    assert "hog" in ctl("list", **env).expect(0).out
    shown = ctl("audit", "--limit", "5", **env).expect(0)
    assert "CreateJob" in ctl("audit", "--filter", "method=CreateJob", "--limit", "5", **env).expect(0).out, shown.text
    assert "hog" in ctl("--tls-ca", service.ca.file, "--token-file", token, "get", hog).expect(0).out
    refused = ctl("--tls-ca", service.ca.file, "list").expect(1)
    assert "UNAUTHENTICATED" in refused.err and "NO_TOKEN" in refused.err, refused.err
    assert ctl("--token-file", token, "--timeout", "5", "list").code != 0, "without TLS"


# ---------------------------------------------------------------- no secrets where people look
def test_no_secret_is_shown(service, hog):
    """Not in the log, events, job files, process lists, metrics; the attempt's own secret neither."""
    api = service.api
    stream = api.watch(hog, timeout=60)
    events = [str(next(iter(stream))) for _ in range(5)]
    stream.cancel()
    context = ssl.create_default_context(cafile=service.ca.file)
    metrics = urllib.request.urlopen(f"https://{service.metrics_address}/metrics", context=context).read().decode()
    processes = tools.marked_processes(service.marker)
    environment = [open(f"/proc/{pid}/environ", "rb").read() for pid in processes]
    attempt = {m.decode() for text in environment for m in re.findall(rb"EMOE_ATTEMPT_TOKEN=([^\0]+)", text)}
    assert len(attempt) == 1, "the rank has its secret in its environment"
    texts = {"log": service.output(), "events": "".join(events), "metrics": metrics,
             "audit": (service.state / "audit.jsonl").read_text(), "process lists": "".join(processes.values()),
             "job": str(api.get(hog)), "output of ranks": api.logs(hog)}
    job_folder, out = service.state / "jobs" / hog, api.get(hog).output_dir
    for folder in (job_folder, tools.pathlib.Path(out)):
        for path in folder.rglob("*"):
            if path.is_file() and path.stat().st_size < 1 << 20:
                texts[str(path)] = path.read_text(errors="replace")
    assert any(name.endswith("job.yaml") for name in texts)
    for secret in [*service.tokens.secrets.values(), *attempt, service.server.key.read_text().splitlines()[1]]:
        for where, text in texts.items():
            assert secret not in text, f"a secret in {where}"


def test_outputs_are_not_for_everybody(service, hog):
    out = tools.pathlib.Path(service.api.get(hog).output_dir)
    for path in (out, out / "metrics.jsonl", service.state / "jobs" / hog / "job.yaml", service.state / "jobs.db"):
        mode = path.stat().st_mode
        assert mode & 0o007 == 0, f"{path}: {oct(mode)}"


# ---------------------------------------------------------------- tokens change
def test_tokens_rotate_under_load(service, hog):
    """Old tokens work until the file without them is there, new ones from then on; nobody else notices."""
    first = service.tokens.add("rotor", "viewer", "research")
    service.tokens.write()
    stop, problems, calls = threading.Event(), [], [0]

    def steady():
        api = service.client("vic")
        while not stop.is_set():
            try:
                api.call("ListJobs")
                calls[0] += 1
            except ApiError as error:
                problems.append(str(error))

    threads = [threading.Thread(target=steady) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(25):
            assert service.client(token=first).call("ListJobs") is not None
            second = service.tokens.add("rotor", "viewer", "research")
            service.tokens.write()
            assert service.client(token=second).call("ListJobs") is not None
            assert ask(service.client(token=first), "ListJobs")[:2] == ("UNAUTHENTICATED", "WRONG_TOKEN")
            first = second
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not problems, problems[:3]
    assert calls[0] > 25


def test_who_watches_with_a_token_that_is_gone_is_cut_off(service, hog):
    token = service.tokens.add("watcher", "viewer", "product")
    service.tokens.write()
    stream = service.client(token=token).watch(hog, timeout=60)
    next(iter(stream))
    service.tokens.remove("watcher")
    service.tokens.write()
    with pytest.raises(grpc.RpcError) as caught:
        for _ in stream:
            pass
    assert caught.value.code() == grpc.StatusCode.CANCELLED, caught.value


def test_a_broken_tokens_file_keeps_the_old_tokens(service, hog):
    good = service.tokens.path.read_text()
    try:
        service.tokens.path.write_text("tokens: [{name: x, sha256: nonsense, role: emperor}]")
        assert service.client("vic").call("ListJobs") is not None
        assert "the old tokens stay in force" in service.output()
        assert "nonsense" not in service.output()
    finally:
        service.tokens.path.write_text(good)
    assert service.client("vic").call("ListJobs") is not None
