"""Certificates that are good, bad and replaced; where the coordinator listens; what it limits; which files it opens."""
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request

import grpc
import pytest

import emoe_tools as tools
from emoe_api import Api, ApiError
from emoe_certificates import Authority, self_signed
from emoe_security import PEOPLE, SecureCoordinator


def refused(work, *codes):
    with pytest.raises(ApiError) as caught:
        work()
    assert caught.value.code in (codes or ("UNAVAILABLE",)), str(caught.value)
    return caught.value


def is_let_in(api):
    """Whether a connection comes about: its call is answered, as it may be."""
    try:
        api.call("ListJobs", timeout=10)
        return True
    except ApiError as error:
        assert error.code == "UNAVAILABLE", str(error)
        return False
    finally:
        api.close()


def client_of(service, pair=None, ca=None, name="root"):
    return Api(service.grpc_address, service.credentials(pair, ca), service.tokens.secrets[name])


def scrape(service, pair=None):
    context = ssl.create_default_context(cafile=service.ca.file)
    if pair:
        context.load_cert_chain(pair.certificate, pair.key)
    with urllib.request.urlopen(f"https://{service.metrics_address}/metrics", context=context, timeout=10) as answer:
        return answer.read().decode()


def shown_certificate(address):
    host, port = address.rsplit(":", 1)
    return ssl.get_server_certificate((host, int(port)), timeout=10).strip()


def metric(service, name):
    lines = [line for line in scrape(service).splitlines() if line.startswith(name + " ")]
    return float(lines[0].rsplit(" ", 1)[1])


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with SecureCoordinator(tmp_path_factory.mktemp("tls")) as running:
        yield running


# ---------------------------------------------------------------- the server's certificate
def test_a_good_certificate_is_taken_and_others_are_not(service, tmp_path):
    assert is_let_in(client_of(service))
    stranger = Authority(tmp_path, "stranger")
    assert not is_let_in(client_of(service, ca=stranger.file)), "by a CA that knows nothing of it"
    plain = Api(service.grpc_address)
    assert not is_let_in(plain), "without TLS"


@pytest.mark.parametrize("kind", ["expired", "wrong-name", "self-signed"])
def test_a_client_refuses(tmp_path, kind):
    ca = Authority(tmp_path / "ca-of-server")
    server = {"expired": lambda: ca.issue_expired("server"),
              "wrong-name": lambda: ca.issue("server", names="DNS:elsewhere.example"),
              "self-signed": lambda: self_signed(tmp_path, "server")}[kind]()

    class Unreachable(SecureCoordinator):
        def connect(self):
            """Its own test client does not get in: it is there when it listens."""
            return type("Nobody", (), {"healthy": lambda _: True, "close": lambda _: None})()

    with Unreachable(tmp_path, server=server) as service:
        api = Api(service.grpc_address, service.credentials(ca=ca.file), service.tokens.secrets["root"])
        assert not is_let_in(api)
        token = tmp_path / "token"
        token.write_text(service.tokens.secrets["root"])
        outcome = tools.run([tools.EMOECTL, "--server", service.grpc_address, "--tls-ca", ca.file, "--token-file", token,
                             "--timeout", "5", "list"])
        assert outcome.code == 69, outcome.text
        assert service.process.poll() is None and shown_certificate(service.grpc_address), "it serves"
        if kind == "expired":
            assert "has expired" in service.output()
        if kind == "wrong-name":
            assert 'is not made out for "127.0.0.1"' in service.output()


def test_old_versions_of_tls_are_refused(service):
    for address in (service.grpc_address, service.metrics_address):
        host, port = address.rsplit(":", 1)
        for version, good in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True),
                              (ssl.TLSVersion.TLSv1_3, True)):
            context = ssl.create_default_context(cafile=service.ca.file)
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
            context.set_alpn_protocols(["h2"])
            context.minimum_version = context.maximum_version = version
            with socket.create_connection((host, int(port)), timeout=10) as raw:
                try:
                    with context.wrap_socket(raw, server_hostname=host) as secure:
                        assert good, f"{address} took {secure.version()}"
                except (ssl.SSLError, ConnectionError, OSError) as error:
                    assert not good, f"{address} refused {version}: {error}"


def test_ranks_serve_their_metrics_by_tls(tmp_path):
    """With the pair that the coordinator's environment names; only to clients of the authority; /sd says so; new files count at once."""
    ca = Authority(tmp_path / "ranks-ca")
    pair, mine, stranger = ca.issue("rank"), ca.issue("prometheus"), Authority(tmp_path / "other").issue("prometheus")
    env = {"EMOE_METRICS_TLS_CERT": str(pair.certificate), "EMOE_METRICS_TLS_KEY": str(pair.key),
           "EMOE_METRICS_TLS_CLIENT_CA": str(ca.file)}

    def scrape_rank(address, client):
        context = ssl.create_default_context(cafile=ca.file)
        if client:
            context.load_cert_chain(client.certificate, client.key)
        with urllib.request.urlopen(f"{address}/metrics", context=context, timeout=10) as answer:
            return answer.read().decode()

    with SecureCoordinator(tmp_path, slots=1, env=env) as service:
        job = service.api.create(tools.tiny_job(train__max_steps=1000000))
        running = service.api.wait_for_step(job.id, 1)
        address = running.attempts[0].ranks[0].metrics_address
        assert address.startswith("https://127.0.0.1:"), address
        assert f'emoe_step{{job_id="{job.id}",rank="0"}}' in scrape_rank(address, mine)
        for client in (None, stranger):
            with pytest.raises((OSError, ssl.SSLError)):
                scrape_rank(address, client)
        with pytest.raises(OSError):
            urllib.request.urlopen(address.replace("https", "http") + "/metrics", timeout=10)
        context = ssl.create_default_context(cafile=service.ca.file)
        with urllib.request.urlopen(f"https://{service.metrics_address}/sd", context=context, timeout=10) as answer:
            target, = json.load(answer)
        assert target["targets"] == [address.removeprefix("https://")]
        assert target["labels"] == {"job_id": job.id, "rank": "0", "__scheme__": "https"}
        shown = shown_certificate(target["targets"][0])
        fresh = ca.issue("rank-2")
        os.replace(fresh.key, pair.key)
        os.replace(fresh.certificate, pair.certificate)
        assert shown_certificate(target["targets"][0]) != shown
        service.api.call("CancelJob", id=job.id)


# ---------------------------------------------------------------- clients' certificates
@pytest.fixture(scope="module")
def mutual(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutual")
    clients = Authority(folder / "clients", "clients")
    ranks = clients.issue("ranks")
    mine = clients.issue("tester")

    class Mutual(SecureCoordinator):
        def connect(self):
            return client_of(self, mine)

    config = {"tls": {"client_ca": str(clients.file), "ranks_certificate": str(ranks.certificate),
                      "ranks_key": str(ranks.key)}}
    with Mutual(folder, config=config) as running:
        running.clients, running.mine = clients, mine
        yield running


def test_only_clients_with_a_certificate_get_in(mutual, tmp_path):
    assert is_let_in(client_of(mutual, mutual.mine))
    assert not is_let_in(client_of(mutual)), "none"
    assert not is_let_in(client_of(mutual, self_signed(tmp_path, "tester"))), "self-signed"
    assert not is_let_in(client_of(mutual, mutual.clients.issue_expired("late"))), "expired"
    assert not is_let_in(client_of(mutual, Authority(tmp_path, "other").issue("tester"))), "another CA's"
    assert "emoe_slots" in scrape(mutual, mutual.mine)
    for pair in (None, Authority(tmp_path, "third").issue("tester")):
        with pytest.raises((OSError, ssl.SSLError)):
            scrape(mutual, pair)


def test_ranks_have_a_certificate_too(mutual):
    job = mutual.api.create(tools.tiny_job(parallel__ranks=2))
    mutual.api.succeed(job.id)


# ---------------------------------------------------------------- certificates change
def test_certificates_are_read_again(tmp_path):
    with SecureCoordinator(tmp_path) as service:
        first, second, third = service.server, service.ca.issue("second"), service.ca.issue("third")
        old = first.certificate.read_text()
        shown = lambda: {shown_certificate(service.grpc_address), shown_certificate(service.metrics_address)}
        assert shown() == {old.strip()}
        events = service.api.watch(service.api.create(tools.tiny_job(train__max_steps=1000000)).id)
        next(iter(events))

        os.replace(shutil.copy(second.certificate, tmp_path / "c"), first.certificate)  # its key is not there yet
        assert shown() == {old.strip()}, "a pair that does not fit is in use"
        assert "the old certificate stays in use" in service.output()
        assert metric(service, 'emoe_security_reloads_total{file="certificate",result="refused"}') >= 1
        os.replace(shutil.copy(second.key, tmp_path / "k"), first.key)
        assert shown() == {second.certificate.read_text().strip()}
        assert is_let_in(client_of(service))
        next(iter(events))  # a connection of before goes on

        first.key.unlink()
        assert shown() == {second.certificate.read_text().strip()}, "one that cannot be read"
        expired = service.ca.issue_expired("expired")
        shutil.copy(expired.certificate, first.certificate)
        shutil.copy(expired.key, first.key)
        assert shown() == {second.certificate.read_text().strip()}, "one that has expired"
        shutil.copy(third.certificate, first.certificate)
        shutil.copy(third.key, first.key)
        assert shown() == {third.certificate.read_text().strip()}
        assert metric(service, 'emoe_security_reloads_total{file="certificate",result="taken"}') >= 2
        assert service.process.poll() is None


# ---------------------------------------------------------------- where it listens
def start(folder, config, listen="0.0.0.0:0", metrics="127.0.0.1:0"):
    """How a coordinator with this configuration ends, within moments."""
    file = tools.write_yaml(folder / "coordinator.yaml", config)
    command = [tools.COORDINATOR, "--config", file, "--state-dir", folder / "state", "--listen", listen,
               "--metrics-listen", metrics]
    return tools.run(["timeout", "--preserve-status", "-s", "TERM", "3", *command])


def test_without_protection_it_listens_on_loopback_only(tmp_path):
    ca = Authority(tmp_path)
    server = ca.issue("server")
    tls = {"certificate": str(server.certificate), "key": str(server.key)}
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text("tokens: []")
    auth = {"tokens": str(tokens)}
    for config, missing in (({}, "neither TLS (tls.certificate) nor authentication"),
                            ({"tls": tls}, "no authentication (auth.tokens)"),
                            ({"auth": auth}, "no TLS (tls.certificate)")):
        ended = start(tmp_path, config).expect(tools.USAGE)
        assert missing in ended.err and "allow_insecure: true" in ended.err, ended.err
    assert "metrics_listen" in start(tmp_path, {}, "127.0.0.1:0", "0.0.0.0:0").expect(tools.USAGE).err
    for config in ({"tls": tls, "auth": auth}, {"allow_insecure": True}):
        ended = start(tmp_path, config)
        assert ended.code == 0 and "listening on 0.0.0.0" in ended.out, ended.text
    assert "allow_insecure: whoever reaches" in ended.err, ended.err
    assert start(tmp_path, {}, "127.0.0.1:0").expect(0)


def test_what_does_not_fit_together_is_refused_at_the_start(tmp_path):
    ca = Authority(tmp_path)
    server, other = ca.issue("server"), ca.issue("other")
    both = lambda **more: {"tls": {"certificate": str(server.certificate), "key": str(server.key), **more}}
    for config, text in ((both(key=str(other.key)), "is not the key of"), (both(key=""), "tls.key: is missing"),
                         (both(key=str(tmp_path / "nowhere")), "tls.key"),
                         (both(client_ca=str(ca.file)), "tls.ranks_certificate: is required"),
                         ({"auth": {"tokens": str(tmp_path / "no-file")}}, "no-file")):
        ended = start(tmp_path, config, "127.0.0.1:0")
        assert ended.code in (tools.USAGE, tools.IO_ERROR) and text in ended.err, ended.text


# ---------------------------------------------------------------- limits
@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    config = {"reflection": False, "limits": {"message_bytes": 65536, "streams_per_client": 3, "calls_per_second": 60.0,
                                              "call_burst": 20, "keepalive": "2s"}}
    with SecureCoordinator(tmp_path_factory.mktemp("limited"), config=config) as running:
        yield running


def test_a_large_message_is_refused(limited):
    spec = tools.tiny_job(labels={"long": "x" * 70000})
    refused(lambda: limited.client("ann").create(spec), "RESOURCE_EXHAUSTED")
    assert limited.client("ann").create(tools.tiny_job()).id


def test_too_many_calls_are_told_when_to_try_again(limited):
    api, answers = limited.client("vic"), []
    for _ in range(80):
        try:
            api.call("ListJobs")
        except ApiError as error:
            answers.append(error)
    assert answers, "all 80 were let in"
    assert all((e.code, e.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_CALLS") for e in answers)
    assert all("RetryInfo" in e.kinds for e in answers)
    assert limited.client("eve").call("ListJobs") is not None, "another principal has calls of its own"
    time.sleep(int(answers[-1].metadata["retry_milliseconds"]) / 1000)
    assert api.call("ListJobs") is not None


def test_a_connection_has_so_many_streams(limited):
    api = limited.client("ann")
    job = api.create(tools.tiny_job(train__max_steps=1000000))
    streams = [api.watch(job.id) for _ in range(3)]
    for stream in streams:
        next(iter(stream))
    refused(lambda: api.call("GetJob", id=job.id, timeout=1), "DEADLINE_EXCEEDED")  # it waits its turn
    assert limited.client("ann").get(job.id).id == job.id, "another connection has streams of its own"
    streams[0].cancel()
    assert api.get(job.id).id == job.id
    for stream in streams:
        stream.cancel()
    limited.client("ann").call("CancelJob", id=job.id)


def sockets(service):
    return sum(os.readlink(f"/proc/{service.process.pid}/fd/{fd}").startswith("socket:")
               for fd in os.listdir(f"/proc/{service.process.pid}/fd")
               if os.path.islink(f"/proc/{service.process.pid}/fd/{fd}"))


def test_who_connects_and_says_nothing_is_dropped(limited):
    host, port = limited.grpc_address.rsplit(":", 1)
    silent = [socket.create_connection((host, int(port))) for _ in range(5)]
    for connection in silent:
        connection.settimeout(20)
        assert connection.recv(100) in (b"",), "the server hung up"
        connection.close()


def test_a_client_that_stands_still_is_dropped(limited, tmp_path):
    """Its kernel still takes what is sent; only keepalive finds out."""
    api = limited.client("ann")
    job = api.create(tools.tiny_job(train__max_steps=1000000))
    api.wait(job.id, "RUNNING")
    before = sockets(limited)
    program = tmp_path / "client.py"
    program.write_text(f"""
import sys
sys.path[:0] = {sys.path!r}
import grpc
from emoe_api import Api
api = Api({limited.grpc_address!r}, grpc.ssl_channel_credentials({limited.ca.file.read_bytes()!r}),
          {limited.tokens.secrets['ann']!r})
for event in api.watch({job.id!r}):
    print("event", flush=True)
""")
    client = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE)
    try:
        assert client.stdout.readline() == b"event\n"
        assert sockets(limited) > before
        client.send_signal(signal.SIGSTOP)
        tools.wait_until(lambda: sockets(limited) <= before, 30, "the connection dropped")
    finally:
        client.kill()
        client.wait()
        api.call("CancelJob", id=job.id)


def test_reflection_can_be_switched_off(limited, service):
    def services(of):
        proto = of.api.proto
        stub = proto.reflection_stubs.ServerReflectionStub(of.client().channel)
        request = proto.reflection.ServerReflectionRequest(list_services="")
        return [s.name for s in next(iter(stub.ServerReflectionInfo(iter([request]), timeout=10)))
                .list_services_response.service]

    assert "emoe.v1.FineTuning" in services(service)
    with pytest.raises(grpc.RpcError) as caught:
        services(limited)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


# ---------------------------------------------------------------- files
@pytest.fixture
def rooted(tmp_path):
    data, secret = tmp_path / "data", tmp_path / "secret"
    for folder in (data / "ann", data / "bob", secret):
        folder.mkdir(parents=True)
        shutil.copy(tools.FIXTURES / "rows.json", folder / "rows.json")
    (secret / "rows.json").write_text((secret / "rows.json").read_text().replace("a", "SECRET", 1))
    with SecureCoordinator(tmp_path, slots=1, config={"allowed_roots": [str(tools.FIXTURES), str(data)]}) as running:
        running.data, running.secret = data, secret
        for name in ("ann", "bob"):
            running.tokens.secrets.pop(name)
            running.tokens.add(name, *PEOPLE[name], allowed_roots=[tools.FIXTURES, data / name])
        running.tokens.write()
        yield running


def test_a_project_reads_below_its_roots_only(rooted):
    job = lambda path: tools.tiny_job(data__train=str(path))
    ann = rooted.client("ann")
    assert ann.create(job(rooted.data / "ann" / "rows.json")).id
    (rooted.data / "ann" / "link.json").symlink_to(rooted.secret / "rows.json")
    for path in (rooted.data / "bob" / "rows.json", rooted.secret / "rows.json", rooted.data / "ann" / "link.json",
                 rooted.data / "ann" / ".." / "bob" / "rows.json"):
        error = refused(lambda: ann.create(job(path)), "INVALID_ARGUMENT")
        assert error.violations[0][0] == "data.train" and "outside the allowed folders" in error.violations[0][1]
        assert "SECRET" not in str(error.violations)
    assert list(ann.call("GetServerInfo", "GetServerInfoRequest").allowed_roots) == [str(tools.FIXTURES), str(rooted.data / "ann")]


def test_a_link_that_is_swapped_later_leads_nowhere(rooted):
    """The folder is another one by the time that the rank opens the file."""
    ann = rooted.client("ann")
    hog = ann.create(tools.tiny_job(train__max_steps=1000000))
    rooted.api.wait(hog.id, "RUNNING")
    folder = rooted.data / "ann" / "sub"
    folder.mkdir()
    shutil.copy(tools.FIXTURES / "rows.json", folder)
    waits = ann.create(tools.tiny_job(data__train=str(folder / "rows.json"), resources__max_attempts=1))
    folder.rename(rooted.data / "ann" / "old")
    folder.symlink_to(rooted.secret)
    ann.call("CancelJob", id=hog.id)
    ended = ann.wait(waits.id)
    assert ann.state_name(ended.state) == "FAILED", ended
    assert "leads out of the allowed folders" in ended.message + ann.logs(waits.id), ended.message
