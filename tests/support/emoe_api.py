"""A gRPC client generated from proto/ when the tests run, and a coordinator of one's own to talk to."""
import importlib
import pathlib
import signal
import sys
import tempfile

import grpc
from google.protobuf import json_format
from grpc_tools import protoc

import emoe_tools as tools

ENDED = {"SUCCEEDED", "FAILED", "CANCELLED"}


def _generate():
    """Python modules of every .proto, in a folder of this process."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="emoe-proto-"))
    include = [tools.ROOT / "proto", tools.ROOT / "tests" / "support" / "proto"]
    files = [str(path.relative_to(root)) for root in include for path in sorted(root.rglob("*.proto"))]
    well_known = pathlib.Path(protoc.__file__).parent / "_proto"
    code = protoc.main(["protoc", *(f"-I{path}" for path in [*include, well_known]), f"--python_out={folder}",
                        f"--grpc_python_out={folder}", *files])
    assert code == 0, "protoc failed"
    return folder


class Proto:
    """The generated modules, made on first use and removed at exit."""

    def __init__(self):
        import atexit
        import shutil
        folder = _generate()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        sys.path.insert(0, str(folder))
        grpc.__path__.append(str(folder / "grpc"))  # grpc.health and grpc.reflection lie beside the installed package
        load = importlib.import_module
        self.service, self.stubs = (load(f"emoe.v1.fine_tuning_service_pb2{s}") for s in ("", "_grpc"))
        self.job, self.spec = load("emoe.v1.job_pb2"), load("emoe.v1.job_spec_pb2")
        self.status, self.details = load("google.rpc.status_pb2"), load("google.rpc.error_details_pb2")
        self.health, self.health_stubs = (load(f"grpc.health.v1.health_pb2{s}") for s in ("", "_grpc"))
        self.reflection, self.reflection_stubs = (
            load(f"grpc.reflection.v1alpha.reflection_pb2{s}") for s in ("", "_grpc"))


class ApiError(Exception):
    """A failed call with its details: code, reason, metadata, violations [(field, description)]."""

    def __init__(self, proto, error):
        super().__init__(f"{error.code().name}: {error.details()}")
        self.code, self.message = error.code().name, error.details()
        self.reason, self.domain, self.metadata, self.violations, self.kinds = "", "", {}, [], []
        raw = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
        for detail in proto.status.Status.FromString(raw).details if raw else ():
            self.kinds.append(detail.type_url.rsplit(".", 1)[1])
            if detail.Is(proto.details.ErrorInfo.DESCRIPTOR):
                info = proto.details.ErrorInfo.FromString(detail.value)
                self.reason, self.domain, self.metadata = info.reason, info.domain, dict(info.metadata)
            if detail.Is(proto.details.BadRequest.DESCRIPTOR):
                bad = proto.details.BadRequest.FromString(detail.value)
                self.violations += [(v.field, v.description) for v in bad.field_violations]


class Api:
    """The calls the tests make, with dictionaries in and messages out; failures are ApiError."""

    _proto = None

    def __init__(self, address, credentials=None, token="", options=()):
        """With `credentials` (grpc.ssl_channel_credentials) by TLS; `token` is sent with every call."""
        Api._proto = Api._proto or Proto()
        self.proto = Api._proto
        self.channel = (grpc.secure_channel(address, credentials, options) if credentials
                        else grpc.insecure_channel(address, options))
        self.metadata = [("authorization", f"Bearer {token}")] if token else []
        self.stub = self.proto.stubs.FineTuningStub(self.channel)

    def close(self):
        self.channel.close()

    def call(self, method, request="", /, timeout=30, **fields):
        """A unary call by name: call("GetJob", id=…)."""
        message = getattr(self.proto.service, request or f"{method}Request")
        try:
            return getattr(self.stub, method)(message(**fields), timeout=timeout, metadata=self.metadata)
        except grpc.RpcError as error:
            raise ApiError(self.proto, error) from None

    def spec(self, document):
        return json_format.ParseDict(document, self.proto.spec.JobSpec())

    def create(self, document, **fields):
        return self.call("CreateJob", spec=self.spec(document), **fields)

    def get(self, job_id):
        return self.call("GetJob", id=job_id)

    def state(self, job_id):
        return self.state_name(self.get(job_id).state)

    def state_name(self, number):
        return self.proto.job.JobState.Name(number)

    def reason_name(self, number):
        return self.proto.job.Reason.Name(number)

    def watch(self, job_id, from_sequence=0, timeout=120):
        """The stream of events (iterate it; .cancel() leaves)."""
        request = self.proto.service.WatchJobRequest(id=job_id, from_sequence=from_sequence)
        return self.stub.WatchJob(request, timeout=timeout, metadata=self.metadata)

    def events(self, job_id, from_sequence=0, timeout=120):
        """All events to the end of the job, without heartbeats."""
        try:
            return [e for e in self.watch(job_id, from_sequence, timeout) if e.WhichOneof("kind") != "heartbeat"]
        except grpc.RpcError as error:
            raise ApiError(self.proto, error) from None

    def wait(self, job_id, states=ENDED, timeout=180):
        """The job once its state is among `states` (by default: ended)."""
        wanted = {states} if isinstance(states, str) else set(states)
        last = [None]

        def reached():
            last[0] = self.get(job_id)
            name = self.state_name(last[0].state)
            assert name in wanted or name not in ENDED, f"{job_id} is {name} and not {wanted}: {last[0].message}"
            return last[0] if name in wanted else None

        return tools.wait_until(reached, timeout, lambda: f"{job_id} in {wanted}, it is:\n{last[0]}")

    def wait_for_step(self, job_id, step, timeout=120):
        """The job once `step` optimiser steps are done (it must still run)."""
        def reached():
            job = self.get(job_id)
            assert self.state_name(job.state) not in ENDED, f"{job_id} ended before step {step}: {job.message}"
            return job if job.progress.step >= step else None

        return tools.wait_until(reached, timeout, f"{job_id} at step {step}")

    def succeed(self, job_id, timeout=180):
        job = self.wait(job_id, timeout=timeout)
        assert self.state_name(job.state) == "SUCCEEDED", f"{self.reason_name(job.reason)}: {job.message}\n{self.logs(job_id)}"
        return job

    def logs(self, job_id):
        try:
            return self.call("GetJobLogs", id=job_id).text
        except ApiError as error:
            return str(error)

    def health(self, service=""):
        """SERVING or NOT_SERVING."""
        stub = self.proto.health_stubs.HealthStub(self.channel)
        answer = stub.Check(self.proto.health.HealthCheckRequest(service=service), timeout=30)
        return self.proto.health.HealthCheckResponse.ServingStatus.Name(answer.status)

    def healthy(self, service=""):
        try:
            return self.health(service) == "SERVING"
        except grpc.RpcError:
            return False


class Coordinator:
    """emoe-coordinator on free ports with a state folder of its own. Every process that comes from it carries `marker` in
    its environment, so that a test can say that none is left."""

    HOST = "127.0.0.1"  # where it listens
    # Retries come within a test's patience. What no test waits for is long: a loaded machine stands still for seconds.
    QUICK = {"liveness.session_timeout": "30s", "liveness.join_timeout": "60s", "liveness.stop_grace": "3s",
             "liveness.retry_pause": "0.2s", "liveness.reconnect_grace": "60s",
             "liveness.drain_period": "0s"}

    def __init__(self, folder, slots=2, state=None, env=None, **settings):
        self.folder = pathlib.Path(folder)
        self.state = pathlib.Path(state or self.folder / "state")
        self.state.mkdir(parents=True, exist_ok=True)
        self.settings = {**self.QUICK, "slots.total": slots, **{k.replace("__", "."): v for k, v in settings.items()}}
        self.marker = tools.new_marker()
        self.holds = tools.Holds(self.folder / "holds")  # of every job's ranks
        self.env = {**self.holds.env, **(env or {})}
        self.running = self.process = self.api = None
        self.starts = 0
        # Ranks come back to the address they know: it stays this coordinator's while nobody listens there.
        self.port = tools.reserved_port(self.HOST)
        self.grpc_address = f"{self.HOST}:{self.port.getsockname()[1]}"
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def command(self, listen="", metrics_listen="127.0.0.1:0"):
        options = [part for key, value in self.settings.items() for part in ("--set", f"{key}={value}")]
        config = self.folder / "coordinator.yaml"
        if not config.exists():
            tools.write_yaml(config, {"launcher": {"mpirun_args": tools.MPI_ARGUMENTS}})
        return [str(part) for part in (tools.COORDINATOR, "--config", config, "--state-dir", self.state, "--listen",
                                       listen or self.grpc_address, "--metrics-listen", metrics_listen, *options)]

    def start(self):
        addresses = self.state / "addresses.json"
        addresses.unlink(missing_ok=True)
        self.starts += 1
        self.running = tools.Background(self.command(), self.folder / f"coordinator-{self.starts}.log", self.marker,
                                        self.env)
        self.process = self.running.process

        def ready():
            assert self.process.poll() is None, f"the coordinator ended with {self.process.returncode}:\n{self.output()}"
            try:
                found = tools.read_json(addresses)
            except (OSError, ValueError):
                return None
            return found

        found = tools.wait_until(ready, 60, lambda: f"the coordinator's addresses\n{self.output()}")
        assert found["grpc"] == self.grpc_address
        self.metrics_address = found.get("metrics", "")
        self.api = self.connect()
        tools.wait_until(self.api.healthy, 60, "the coordinator healthy")

    def connect(self):
        return Api(self.grpc_address)

    def output(self):
        return "\n".join(p.read_text(errors="replace") for p in sorted(self.folder.glob("coordinator-*.log")))

    def kill(self):
        """SIGKILL to the coordinator alone, as the kernel would."""
        if self.api:
            self.api.close()
        self.process.kill()
        self.process.wait()

    def terminate(self, timeout=60):
        """SIGTERM; returns the exit code."""
        self.api.close()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def processes(self):
        """What came from this coordinator, without itself."""
        return {pid: name for pid, name in tools.marked_processes(self.marker).items() if pid != self.process.pid}

    def close(self):
        """Ends everything, whatever state the test left it in."""
        if self.api:
            self.api.close()
        if self.running:
            self.running.kill()
        self.port.close()
