#!/usr/bin/env python3
"""What a job costs its coordinator: commits, bytes written and CPU seconds per 1,000 steps, with ranks that only report.

    build/python/bin/python bench/control_plane.py [--ranks 8] [--steps 1000] [--interval 0.02]

The coordinator is the real one. Its mpirun is a stand-in that waits; this process opens the sessions of all ranks and says
what ranks that take `interval` seconds a step say. Prints one JSON object. Another build is measured by the same program:
EMOE_SOURCE_DIR (its proto/) and EMOE_BIN_DIR (its programs) name it, and --reporting all lets every rank report each step,
as workers did until ranks other than 0 stopped.
"""
import argparse
import json
import os
import pathlib
import queue
import sys
import tempfile
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "support"))
import emoe_tools as tools  # noqa: E402
from emoe_api import Coordinator, grpc  # noqa: E402

MPIRUN = """#!/bin/sh
env > "$EMOE_ATTEMPT_DIR/environment.new" && mv "$EMOE_ATTEMPT_DIR/environment.new" "$EMOE_ATTEMPT_DIR/environment"
while [ ! -e "$EMOE_ATTEMPT_DIR/done" ]; do sleep 0.2; done
"""


class Rank:
    """One rank's session: reports are numbered here, acknowledgements come in on a thread of their own."""

    def __init__(self, wire, stub, join):
        self.wire, self.outbox, self.sequence, self.acked = wire, queue.Queue(), 0, 0
        self.welcomed = threading.Event()
        self.outbox.put(wire.WorkerMessage(join=join))
        self.stream = stub.Session(iter(self.outbox.get, None))
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        try:
            for message in self.stream:
                if message.HasField("welcome"):
                    self.welcomed.set()
                elif message.HasField("ack"):
                    self.acked = message.ack.sequence
        except grpc.RpcError:
            pass

    def report(self, report):
        self.sequence += 1
        report.sequence = self.sequence
        self.outbox.put(self.wire.WorkerMessage(report=report))

    def close(self):
        self.outbox.put(None)


class Sessions:
    """All ranks of one attempt, and what they say."""

    def __init__(self, api, environment, ranks, reporting):
        import importlib
        self.wire = importlib.import_module("emoe.v1.worker_control_service_pb2")
        self.messages = importlib.import_module("emoe.v1.report_pb2")
        stubs = importlib.import_module("emoe.v1.worker_control_service_pb2_grpc")
        self.job, self.reporting = api.proto.job, reporting
        stub = stubs.WorkerControlStub(api.channel)
        join = getattr(self.messages, "Join", None) or self.wire.Join
        self.ranks = [Rank(self.wire, stub, join(
            job_id=environment["EMOE_JOB_ID"], attempt=int(environment["EMOE_ATTEMPT"]),
            token=environment["EMOE_ATTEMPT_TOKEN"],
            rank=self.job.RankInfo(rank=r, world_size=ranks, host="n1", pid=1000 + r, device="cpu"))) for r in range(ranks)]
        for rank in self.ranks:
            assert rank.welcomed.wait(60), "a rank was not welcomed"

    def heartbeats(self, step):
        beat = getattr(self.messages, "RankHeartbeat", None) or self.wire.RankHeartbeat
        for rank in self.ranks:
            rank.outbox.put(self.wire.WorkerMessage(heartbeat=beat(step=step, phase="forward", comm_sequence=step)))

    def step(self, step, seconds, spread):
        for number, rank in enumerate(self.ranks):
            time.sleep(spread / len(self.ranks))
            if number > 0 and self.reporting == "first":
                continue
            report = self.messages.Report()
            if number == 0:
                report.step.metrics.CopyFrom(self.job.StepMetrics(
                    step=step, loss=2.0 / (step + 1), learning_rate=1e-4, grad_norm=0.5, tokens=4096, target_tokens=3000,
                    seconds=seconds))
            if self.reporting == "all":
                report.step.step = step
                for phase in ("data", "forward", "backward", "comm", "optimizer"):
                    report.step.phase_seconds[phase] = seconds / 5
            rank.report(report)

    def wait_for_acks(self):
        tools.wait_until(lambda: all(r.acked == r.sequence for r in self.ranks), 120, "all reports acknowledged")

    def close(self):
        for rank in self.ranks:
            rank.close()


def counters(coordinator):
    """Seconds of CPU, bytes given to write calls, commits so far."""
    pid = coordinator.process.pid
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    written = dict(line.split(": ") for line in pathlib.Path(f"/proc/{pid}/io").read_text().splitlines())["wchar"]
    with urllib.request.urlopen(f"http://{coordinator.metrics_address}/metrics", timeout=30) as page:
        lines = page.read().decode().splitlines()
    commits = [float(line.split()[-1]) for line in lines if line.startswith("emoe_store_commit_seconds_count")]
    return cpu, int(written), int(commits[0])


def measure(options, folder):
    mpirun = folder / "mpirun"
    mpirun.write_text(MPIRUN)
    mpirun.chmod(0o755)
    with Coordinator(folder, slots=options.ranks, launcher__mpirun=str(mpirun)) as coordinator:
        api = coordinator.api
        job = api.create(tools.tiny_job(parallel__ranks=options.ranks, train__max_steps=options.steps,
                                        labels={"team": "a", "model": "tiny", "owner": "bench"}))
        attempt = coordinator.state / "jobs" / job.id / "attempt_1"
        tools.wait_until((attempt / "environment").exists, 60, "the launch")
        environment = dict(line.split("=", 1) for line in (attempt / "environment").read_text().splitlines() if "=" in line)
        sessions = Sessions(api, environment, options.ranks, options.reporting)
        time.sleep(1)
        before, begin = counters(coordinator), time.monotonic()
        next_beat = begin
        for step in range(options.steps):
            sessions.step(step, options.interval, options.spread)
            if time.monotonic() >= next_beat:
                sessions.heartbeats(step)
                next_beat += 1
            time.sleep(max(0.0, begin + (step + 1) * options.interval - time.monotonic()))
        sessions.wait_for_acks()
        seconds, after = time.monotonic() - begin, counters(coordinator)
        assert api.get(job.id).progress.step == options.steps
        database = sum(path.stat().st_size for path in coordinator.state.glob("jobs.db*"))
        (attempt / "done").touch()
        sessions.close()
        cpu, written, commits = (b - a for a, b in zip(before, after))
        per = 1000 / options.steps
        return {"reporting": options.reporting, "spread": options.spread, "ranks": options.ranks, "steps": options.steps, "seconds": round(seconds, 1),
                "commits_per_1000_steps": round(commits * per), "mb_written_per_1000_steps": round(written * per / 1e6, 2),
                "cpu_seconds_per_1000_steps": round(cpu * per, 2), "database_mb": round(database / 1e6, 2)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--interval", type=float, default=0.02, help="seconds from step to step")
    parser.add_argument("--spread", type=float, default=0.004, help="seconds from the first to the last rank's end of a step")
    parser.add_argument("--reporting", choices=["first", "all"], default="first", help="which ranks report each step")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="emoe-control-plane-") as folder:
        print(json.dumps(measure(options, pathlib.Path(folder))))


if __name__ == "__main__":
    main()
