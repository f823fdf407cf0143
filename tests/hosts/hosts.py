"""Ranks on several hosts. The hosts are network namespaces: with_hosts.sh runs this on n0, where the coordinator is, and
n1 and n2 are the hosts for ranks. A host's fault becomes one sentence with its name."""
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "fault"))

import emoe_tools as tools  # noqa: E402
from emoe_api import Coordinator  # noqa: E402
from fault_support import STEPS, hurt_job, next_step, undisturbed_run  # noqa: E402

SHELL = pathlib.Path(__file__).resolve().with_name("host.py")
HOSTS = ("n1", "n2")


def on(host, command):
    """What a shell command on a host prints; fails where it does."""
    done = subprocess.run([sys.executable, SHELL, "ssh", host, command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{host}: {command}\n{done.stdout}{done.stderr}"
    return done.stdout


def left_on(host):
    """Processes of emoe and of Open MPI on a host, and what MPI left in its folders."""
    return on(host, "ps ax -o stat=,args= | grep -v '^Z' | grep -E 'emoe-(worker|supervise)|orted' | grep -v grep; ls /run /dev/shm | grep emoe-mpi; true")


def assert_nothing_left():
    for host in HOSTS:
        tools.wait_until(lambda h=host: not left_on(h), 20, lambda h=host: f"nothing left on {h}: {left_on(h)}")


@pytest.fixture
def folder():
    """Seen by all hosts."""
    path = tools.BIN.parent / "tests" / "hosts" / str(os.getpid())
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    yield path
    shutil.rmtree(path, ignore_errors=True)


class HostsCoordinator(Coordinator):
    HOST = "10.77.0.1"  # n0

    def command(self, listen="", metrics_listen="127.0.0.1:0"):
        tools.write_yaml(self.folder / "coordinator.yaml", {
            "advertise": f"n0:{self.grpc_address.rsplit(':', 1)[1]}",
            "allow_insecure": True,  # between the namespaces of one machine
            "launcher": {"mpirun_args": tools.MPI_ARGUMENTS, "host_pause": "3s",
                         "remote_shell": [sys.executable, str(SHELL), "ssh", "-o", "BatchMode=yes"],
                         "hosts": [{"name": host, "slots": 1} for host in HOSTS]}})
        return super().command(listen, metrics_listen)


@pytest.fixture
def service(folder):
    with HostsCoordinator(folder, slots=0) as running:
        yield running
        running.holds.release()
    assert_nothing_left()


@contextlib.contextmanager
def unplugged(host):
    subprocess.run(["ip", "link", "set", host, "down"], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "link", "set", host, "up"], check=True)
        on(host, "true")


@contextlib.contextmanager
def mounted(host, source, target):
    """Another file or folder in the place of one, on that host only."""
    on(host, f"mount --bind {source} {target}")
    try:
        yield
    finally:
        on(host, f"umount {target}")


def goes_on_with_one(service, fault):
    """A job that may do with one rank loses its first attempt to the host's fault, and succeeds on the other host."""
    job_id = service.api.create(tools.tiny_job(parallel__ranks=2, parallel__min_ranks=1)).id
    job = service.api.succeed(job_id)
    first, second = job.attempts
    assert service.api.reason_name(first.reason) == "REASON_START_FAILED" and not first.counted
    assert first.message.startswith("host n2 ") and fault in first.message, first.message
    assert "\n" not in first.message
    assert [(p.host, p.ranks) for p in second.placement] == [("n1", 1)]
    info = tools.run([tools.EMOECTL, "--server", service.grpc_address, "info"]).expect().out
    assert "n1: 1 free of 1" in info and "n2: " in info, info


def test_a_job_on_two_hosts_and_its_cancellation(service, folder):
    """As on one machine; what is cancelled leaves nothing on any host."""
    api = service.api
    service.holds.add("step-7")
    cancelled = api.create(hurt_job()).id
    job = api.wait_for_step(cancelled, 7)
    assert [(r.host, r.rank) for r in job.attempts[0].ranks] == [("n1", 0), ("n2", 1)]
    assert all("emoe-worker" in left_on(host) for host in HOSTS)
    address = job.attempts[0].ranks[1].metrics_address
    assert address.startswith("n2:"), address
    api.call("CancelJob", id=cancelled)
    api.wait(cancelled, "CANCELLED")
    assert_nothing_left()
    service.holds.release()
    job = api.succeed(api.create(hurt_job()).id)
    tools.assert_same_training(pathlib.Path(job.output_dir), undisturbed_run(folder / "undisturbed"))
    info = tools.run([tools.EMOECTL, "--server", service.grpc_address, "info"]).expect().out
    assert "n1: 1 free of 1" in info and "n2: 1 free of 1" in info, info


def test_a_host_that_cannot_be_reached(service):
    with unplugged("n2"):
        goes_on_with_one(service, "cannot be reached: ssh: connect to host n2 port 22: ")
    # It is tried again: with both hosts after its pause.
    tools.wait_until(lambda: service.api.call("GetServerInfo").slots_free == 2, 30, "both hosts in service")
    job = service.api.succeed(service.api.create(tools.tiny_job(parallel__ranks=2)).id)
    assert [p.host for p in job.attempts[0].placement] == ["n1", "n2"]


def test_a_host_without_the_program(service, folder):
    (folder / "empty").mkdir()
    with mounted("n2", folder / "empty", tools.BIN):
        goes_on_with_one(service, f"has no program {tools.BIN / 'emoe-supervise'}")


def test_a_host_with_another_version_of_the_program(service, folder):
    other = folder / "emoe-worker"
    other.write_text("#!/bin/sh\necho emoe-worker 0.0.1\n")
    other.chmod(0o755)
    with mounted("n2", other, tools.WORKER):
        goes_on_with_one(service, f"has another version of {tools.WORKER}: emoe-worker 0.0.1, and not ")


def test_a_host_that_is_lost_in_a_step(folder):
    """Its cable is pulled: the ranks are replaced on the other host, from the newest checkpoint."""
    with HostsCoordinator(folder, slots=0, liveness__session_timeout="4s", liveness__reconnect_grace="5s") as service:
        api = service.api
        service.holds.add("step-25")
        job_id = api.create(hurt_job(parallel__min_ranks=1)).id
        api.wait_for_step(job_id, 25)
        began = time.monotonic()
        with unplugged("n2"):
            service.holds.release()
            next_step(api, job_id, 2, began, "several hosts: host unplugged, session_timeout 4 s")
            job = api.succeed(job_id)
            lost, again = job.attempts
            assert api.reason_name(lost.reason) == "REASON_PEER_LOST", lost.message
            assert "n2" in lost.message
            assert [(p.host, p.ranks) for p in again.placement] == [("n1", 1)] and again.resumed_from_step == 20
            assert len(tools.read_lines(pathlib.Path(job.output_dir) / "metrics.jsonl")) == STEPS
        # What was cut off notices it and ends by itself.
        tools.wait_until(lambda: "emoe-worker" not in left_on("n2"), 60, lambda: left_on("n2"))
        # It cannot be swept before it is used again: then the folders of MPI go that it kept.
        tools.wait_until(lambda: api.call("GetServerInfo").slots_free == 2, 90, "both hosts in service")
        job = api.succeed(api.create(tools.tiny_job(parallel__ranks=2)).id)
        assert [p.host for p in job.attempts[-1].placement] == ["n1", "n2"]
    assert_nothing_left()


def test_a_rank_that_dies_on_another_host(service, folder):
    api = service.api
    service.holds.add("step-33")
    job_id = api.create(hurt_job()).id
    lost = api.wait_for_step(job_id, 33).attempts[0].ranks[1]
    began = time.monotonic()
    on("n2", f"pkill -9 -f '^{tools.WORKER} run'")
    service.holds.release()
    next_step(api, job_id, 2, began, "several hosts: rank killed")
    job = api.succeed(job_id)
    assert lost.host == "n2" and api.reason_name(job.attempts[0].reason) == "REASON_PEER_LOST"
    assert "rank 1 on host n2" in job.attempts[0].message and "signal 9" in job.attempts[0].message, job.attempts[0].message
    assert job.attempts[1].resumed_from_step == 30
    tools.assert_same_training(pathlib.Path(job.output_dir), undisturbed_run(folder / "undisturbed"))


def test_a_coordinator_with_its_own_folder_for_temporary_files(folder):
    """MPI's folders lie at that path on all hosts, and go; a host that has not the folder is named."""
    own = "/run/own"
    os.mkdir(own)
    with HostsCoordinator(folder, slots=0, env={"TMPDIR": own}) as service:
        on("n1", f"mkdir {own}")
        goes_on_with_one(service, f"has no folder {own} for temporary files")
        on("n2", f"mkdir {own}")
        tools.wait_until(lambda: service.api.call("GetServerInfo").slots_free == 2, 30, "both hosts in service")
        service.holds.add("step-3")
        job_id = service.api.create(tools.tiny_job(parallel__ranks=2)).id
        service.api.wait_for_step(job_id, 3)
        assert all("emoe-mpi-" in on(host, f"ls {own}") for host in HOSTS)
        service.holds.release()
        service.api.succeed(job_id)
        assert all(on(host, f"ls {own}; rmdir {own}") == "" for host in HOSTS)
        os.rmdir(own)  # it is empty
    assert_nothing_left()


def test_a_supervisor_killed_leaves_nothing_on_any_host(service):
    api = service.api
    service.holds.add("step-15")
    job_id = api.create(hurt_job()).id
    api.wait_for_step(job_id, 15)
    supervisors = [pid for pid, name in tools.marked_processes(service.marker).items() if "emoe-supervise attempt" in name]
    assert len(supervisors) == 1
    began = time.monotonic()
    os.kill(supervisors[0], 9)
    service.holds.release()
    next_step(api, job_id, 2, began, "several hosts: supervisor killed, and mpirun with it")
    job = api.succeed(job_id)
    first, second = job.attempts  # the ranks may get on until they notice
    assert first.resumed_from_step == 0 and second.resumed_from_step >= 10
    assert "supervisor" in job.attempts[0].message or "signal 9" in job.attempts[0].message, job.attempts[0].message
