"""deploy/docker: what runs in a container when it is told to stop, and the files around it. The images themselves are built by
hand (docs/OPERATIONS.md), since no container engine is there when tests run."""
import json
import os
import pathlib
import shutil
import signal

import pytest
import yaml

import emoe_tools as tools

FOLDER = tools.ROOT / "deploy" / "docker"


class Container:
    """A command as the first process of a process namespace of its own, as in a container."""

    def __init__(self, folder, *command):
        if tools.run(["unshare", "--pid", "--fork", "--mount-proc", "true"]).code != 0:
            pytest.skip("no process namespaces here (unshare --pid)")
        self.running = tools.Background(["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *command], folder / "log")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.running.kill()

    def stop(self, timeout=60):
        """SIGTERM to the first process; the exit code."""
        children = pathlib.Path(f"/proc/{self.running.process.pid}/task/{self.running.process.pid}/children").read_text()
        os.kill(int(children.split()[0]), signal.SIGTERM)
        return self.running.process.wait(timeout)


def start_coordinator(folder, job):
    """A container with a coordinator that runs `job` past its fifth step; gives it and the job's output folder."""
    holds = tools.Holds(folder / "holds", "step-5")
    os.environ.update(holds.env)
    container = Container(folder, FOLDER / "emoe-init", tools.COORDINATOR, "--state-dir", folder / "state", "--listen",
                          "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--set", "slots.total=2",
                          "--set", f"launcher.mpirun_args={json.dumps(tools.MPI_ARGUMENTS)}")
    addresses = tools.wait_until(lambda: (file := folder / "state" / "addresses.json").exists() and tools.read_json(file), 60,
                                 lambda: container.running.text)
    emoectl = [tools.EMOECTL, "--server", addresses["grpc"], "-o", "json"]
    shown = json.loads(tools.run([*emoectl, "submit", tools.write_yaml(folder / "job.yaml", job)]).expect().out)
    tools.wait_until(lambda: (folder / "state/outputs" / shown["id"] / "metrics.jsonl").exists() and
                     len(tools.read_lines(folder / "state/outputs" / shown["id"] / "metrics.jsonl")) >= 5, 120, "five steps")
    return container, holds, folder / "state" / "outputs" / shown["id"]


def test_a_stop_of_the_coordinators_container_lets_its_ranks_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOE_TEST_HOLD", "")
    container, holds, out = start_coordinator(tmp_path, tools.tiny_job(train__max_steps=100000, parallel__ranks=2))
    with container:
        holds.release()
        assert container.stop() == 0, container.running.text
    step, = tools.valid_checkpoints(out)
    assert step >= 5 and step == len(tools.read_lines(out / "metrics.jsonl")), "no step is lost"


def launch_mpijob(folder):
    """emoe-mpirun with this build's worker, as the launcher of an MPIJob whose worker is this machine."""
    script = folder / "emoe-mpirun"
    script.write_text((FOLDER / "emoe-mpirun").read_text(encoding="utf-8").replace("/opt/emoe/bin/", f"{tools.BIN}/"))
    job = tools.write_yaml(folder / "job.yaml", tools.tiny_job(train__max_steps=100000, parallel__ranks=2))
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    running = tools.Background(["sh", script, "2", job, "--out", folder / "out"], folder / "log", env=allowed)
    lines = folder / "out" / "metrics.jsonl"
    tools.wait_until(lambda: lines.exists() and len(tools.read_lines(lines)) >= 5, 120, lambda: running.text)
    return running


def ranks_of(running):
    return [pid for pid, name in tools.marked_processes(running.marker).items() if name.startswith(str(tools.WORKER))]


@pytest.mark.parametrize("asked", ["launcher", "worker"])
def test_a_stop_of_a_pod_of_an_mpijob_lets_the_ranks_checkpoint(tmp_path, asked):
    """The launcher pod by SIGTERM; a worker pod by its hook, which returns when no rank is left in it."""
    with launch_mpijob(tmp_path) as running:
        if asked == "launcher":
            running.process.send_signal(signal.SIGTERM)
        else:
            only_them = " ".join(f"/proc/{pid}" for pid in ranks_of(running))
            hook = (FOLDER / "emoe-stop-ranks").read_text(encoding="utf-8").replace("/proc/[0-9]*;", f"{only_them};")
            tools.run(["sh", "-c", hook]).expect()
            assert ranks_of(running) == []
        assert running.process.wait(60) == tools.PREEMPTED, running.text
    step, = tools.valid_checkpoints(tmp_path / "out")
    assert step == len(tools.read_lines(tmp_path / "out" / "metrics.jsonl"))


def test_scripts_and_dockerfile_pass_their_linters():
    if not shutil.which("shellcheck") or not shutil.which("hadolint"):
        pytest.skip("shellcheck or hadolint is not installed (make test-deploy gets them)")
    tools.run(["shellcheck", *(FOLDER / name for name in ("emoe-init", "emoe-mpirun", "emoe-stop-ranks"))]).expect()
    tools.run(["hadolint", FOLDER / "Dockerfile"]).expect()


def test_compose_names_files_that_are_there():
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert {"coordinator", "prometheus", "grafana"} <= services.keys()
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith("..") or (FOLDER / source).exists(), f"{name}: {source}"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), "there are no tokens yet"
    assert services["coordinator"]["stop_grace_period"] == "10m"
