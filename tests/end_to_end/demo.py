"""`make demo` as a person runs it: to its end, broken off at any moment, killed and started again."""
import os
import pathlib
import signal
import subprocess
import sys
import uuid

import pytest

import emoe_tools as tools

CONTRACT = {"name", "id", "state", "out", "eval_loss_base", "eval_loss", "tokens_per_second", "seconds"}
QUICK = ["--set", "train.max_steps=4", "--set", "data.fraction=0.05"]
LONG = ["--set", "train.max_steps=100000", "--set", "data.fraction=0.05"]


class Demo:
    """A demo in a folder of its own; the family of processes is known by a variable of this test."""

    def __init__(self, folder, *options):
        self.folder, self.marker = folder, f"EMOE_TEST_ID={uuid.uuid4()}"
        key, value = self.marker.split("=")
        command = [sys.executable, tools.ROOT / "demo" / "run.py", "--out", folder, *options]
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True, start_new_session=True,
                                        env=tools.environment({key: value}))

    def family(self):
        return {pid: name for pid, name in tools.marked_processes(self.marker).items() if pid != self.process.pid}

    def wait_for(self, what):
        def seen():
            assert self.process.poll() is None, self.process.stdout.read()
            return [name for name in self.family().values() if what in name]
        return tools.wait_until(seen, 60, lambda: f"{what} among {self.family()}")

    def ctrl_c(self):
        os.killpg(self.process.pid, signal.SIGINT)  # a terminal signals the whole foreground group

    def end(self, code, timeout=60):
        out, _ = self.process.communicate(timeout=timeout)
        assert self.process.returncode == code, f"exit code {self.process.returncode}, expected {code}\n{out}"
        assert not self.family(), f"left running: {self.family()}"
        return out

    def shared_memory(self):
        """Of its attempts."""
        return [pathlib.Path("/dev/shm") / tools.mpi_folder_name(path) for path in self.folder.glob("state/jobs/*/attempt_*")]


@pytest.fixture
def start(tmp_path):
    started = []

    def start_demo(*options):
        started.append(Demo(tmp_path / "demo", *options))
        return started[-1]

    yield start_demo
    for demo in started:
        tools.kill_marked(demo.marker)
        demo.process.wait()


def test_killed_and_started_again_it_passes(start):
    killed = start(*LONG)
    killed.wait_for("emoe-worker run")
    tools.wait_until(lambda: [path for path in killed.shared_memory() if path.exists()], 60, "the attempt's shared memory")
    killed.process.kill()
    killed.process.wait()
    memory = killed.shared_memory()
    assert killed.family() and memory and all(path.exists() for path in memory), "a job outlives a killed demo"
    out = start(*QUICK).end(0, timeout=200)
    assert not killed.family() and not any(path.exists() for path in memory), f"of the killed demo: {killed.family()}"
    jobs = tools.read_json(killed.folder / "summary.json")["jobs"]
    assert [job["name"] for job in jobs] == ["lora", "emoe-lora", "emoe-full"]
    for job in jobs:
        assert CONTRACT <= job.keys() and None not in [job[key] for key in CONTRACT], job
        assert job["state"] == "SUCCEEDED" and job["verified"] and job["seconds"] > 0 and job["tokens_per_second"] > 0, job
        assert (pathlib.Path(job["out"]) / "export" / "model" / "model.safetensors").is_file()
        assert job["id"] in out and job["out"] in out, out
    assert "summary.json has the numbers" in out


@pytest.mark.parametrize("moment", ["emoe-coordinator", "emoectl", "emoe-worker run", "a step"])
def test_ctrl_c_leaves_nothing(start, moment):
    demo = start(*LONG)
    if moment == "a step":
        tools.wait_until(lambda: list(demo.folder.glob("state/outputs/*/metrics.jsonl")), 60, "a step of the first job")
    else:
        demo.wait_for(moment)
    demo.ctrl_c()
    out = demo.end(130)
    assert "stopping" in out and "has the numbers" not in out, out
    assert not any(path.exists() for path in demo.shared_memory())


def test_an_impatient_ctrl_c_leaves_nothing_either(start):
    demo = start(*LONG)
    demo.wait_for("emoe-worker run")
    for _ in range(3):
        demo.ctrl_c()
    assert demo.end(130).count("stopping") == 1
    assert not any(path.exists() for path in demo.shared_memory())


def test_one_demo_in_a_folder(start):
    first = start(*LONG)
    first.wait_for("emoectl")
    assert "another demo runs in" in start(*QUICK).end(1)
    assert first.process.poll() is None and first.family()
    first.process.send_signal(signal.SIGHUP)
    first.end(128 + signal.SIGHUP)


def test_a_failed_job_is_told_with_its_cause(start):
    out = start(*QUICK, "--set", "data.train=/nowhere.jsonl").end(1)
    assert "emoectl" in out and "submit" in out and "/nowhere.jsonl" in out and "has the numbers" not in out, out
