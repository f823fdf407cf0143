#!/usr/bin/env python3
"""`make bench-service`: what the coordinator takes and costs under load, its clients on the same cores.

    bench/service.py [--only submit,million,ranks] [--jobs 1000000] [--seconds 8] [--tiny]

Submits by 16 clients (build/bin/service_bench, since Python's cost more than the service) beside a gRPC service with the
same completion queue that answers each with a stored job, and beside a loop of raw SQLite commits, in turn; a million queued jobs: the
start, lists, decisions, memory; a thousand ranks that report and a thousand watchers. The coordinator is the real one; its
mpirun is a stand-in that waits, and the ranks' sessions are opened by service_bench. Prints a table and writes
build/bench/service.json (--tiny: to see that all of it runs; writes nothing).
"""
import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))
import emoe_tools as tools  # noqa: E402
from emoe_api import Coordinator  # noqa: E402
from measure import BIN, OUT, processor, row  # noqa: E402

PROGRAM = BIN / "service_bench"
MPIRUN = """#!/bin/sh
env > "$EMOE_ATTEMPT_DIR/environment.new" && mv "$EMOE_ATTEMPT_DIR/environment.new" "$EMOE_ATTEMPT_DIR/environment"
while [ ! -e "$EMOE_ATTEMPT_DIR/done" ]; do sleep 0.2; done
"""


def program(*arguments, timeout=900):
    """The last line that a subcommand of service_bench printed."""
    done = subprocess.run([str(part) for part in (PROGRAM, *arguments)], capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode != 0:
        sys.exit(f"service_bench {arguments[0]} failed ({done.returncode}):\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


class Background:
    """A subcommand that goes on; lines of JSON from it, a line to it ends it."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen([*tools.DIES_WITH_US, *(str(part) for part in (PROGRAM, *arguments))], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def line(self):
        text = self.process.stdout.readline()
        if not text:
            sys.exit(f"service_bench {self.process.args[4]} ended with {self.process.wait()}")
        return json.loads(text)

    def end(self, kill=False):
        if kill:
            self.process.kill()
        self.process.communicate("\n" if not kill else None, timeout=120)


def coordinator(folder, slots, state=None):
    mpirun, worker = folder / "mpirun", folder / "worker"
    mpirun.write_text(MPIRUN)
    worker.write_text("#!/bin/sh\n# The launcher wants a program; the stand-in for mpirun starts none.\nexit 1\n")
    for stand_in in (mpirun, worker):
        stand_in.chmod(0o755)
    return Coordinator(folder, slots=slots, state=state, launcher__mpirun=str(mpirun), launcher__worker_program=str(worker), queue__max_jobs=10_000_000,
                       limits__calls_per_second="0.0",
                       slots__host_memory=1 << 60, liveness__join_timeout="3600s")


def cpu_seconds(process):
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(process):
    status = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024


def counters(service):
    """Seconds of CPU, bytes given to write calls, commits so far."""
    written = dict(line.split(": ") for line in pathlib.Path(f"/proc/{service.process.pid}/io").read_text().splitlines())["wchar"]
    with urllib.request.urlopen(f"http://{service.metrics_address}/metrics", timeout=30) as page:
        lines = page.read().decode().splitlines()
    commits = [float(line.split()[-1]) for line in lines if line.startswith("emoe_store_commit_seconds_count")]
    return cpu_seconds(service.process), int(written), int(commits[0])


def started_job(service, **changes):
    """A job whose stand-in for mpirun waits, and what its ranks need to join."""
    job = service.api.create(tools.tiny_job(**changes))
    attempt = service.state / "jobs" / job.id / "attempt_1"
    tools.wait_until((attempt / "environment").exists, 60, "the launch")
    environment = dict(line.split("=", 1) for line in (attempt / "environment").read_text().splitlines() if "=" in line)
    return job.id, environment["EMOE_ATTEMPT_TOKEN"], attempt


def request_file(service, folder):
    """A CreateJobRequest for service_bench."""
    file = folder / "request.pb"
    file.write_bytes(service.api.proto.service.CreateJobRequest(spec=service.api.spec(tools.tiny_job(parallel__ranks=1))).SerializeToString())
    return file


def clients(args, server, *more, count=None, seconds=None):
    return ["--server", server, "--clients", count or args.clients, "--seconds", seconds or args.seconds, *more]


def with_cost(process, *arguments):
    """What program() answers, and the microseconds of CPU that a call cost `process`."""
    before = cpu_seconds(process)
    done = program(*arguments)
    return done, (cpu_seconds(process) - before) / max(done["calls"], 1) * 1e6


# ---------------------------------------------------------------- submits
def bench_submit(args, folder):
    rows = []
    with coordinator(folder, 1) as service:
        started_job(service)
        request = request_file(service, folder)
        answer = folder / "answer.pb"
        answer.write_bytes(service.api.create(tools.tiny_job()).SerializeToString())
        echo = Background("echo", "--answer", answer)
        echo_address = f"127.0.0.1:{echo.line()['port']}"
        ratios, rates, echoes, commits, batches, costs, echo_costs = [], [], [], [], [], [], []
        for _ in range(args.rounds):
            done, cost = with_cost(echo.process, "load", *clients(args, echo_address, "--request", request))
            echoes.append(done["per_second"])
            echo_costs.append(cost)
            done, cost = with_cost(service.process, "load", *clients(args, service.grpc_address, "--request", request))
            assert done["failed"] == 0, f"{done['failed']} submits failed"
            rates.append(done["per_second"])
            costs.append(cost)
            ratios.append(rates[-1] / echoes[-1])
            raw = folder / "raw"
            raw.mkdir()
            commits.append(program("commits", "--folder", raw, "--bytes", answer.stat().st_size, "--seconds", args.seconds)["per_second"])
            shutil.rmtree(raw)
            done = program("batch", *clients(args, service.grpc_address, "--request", request, "--jobs", args.batch, count=1))
            assert done["failed"] == 0, f"{done['failed']} batches failed"
            batches.append(done["per_second"] * args.batch)
        rate = statistics.median(rates)
        half_echo = program("load", *clients(args, echo_address, "--request", request, "--rate", rate / 2))
        echo.end(kill=True)
        rows += [row("P8.echo", "bare gRPC echo of a submit, calls/s", statistics.median(echoes), "higher", None, "1/s"),
                 row("P8.commits", "raw SQLite commits of a row of a job's size, one after the other (best round)", max(commits), "higher", None, "1/s"),
                 row("P8.submits", f"durable submits, {args.clients} clients on the same cores", rate, "higher", None, "1/s"),
                 row("P8.submit", "durable submits / echo", statistics.median(ratios), "higher", 0.7),
                 row("P8.submit.cpu", "CPU of the coordinator per submit", statistics.median(costs), "lower", None, "us"),
                 row("P8.echo.cpu", "CPU of the echo's service per call", statistics.median(echo_costs), "lower", None, "us"),
                 row("P8.batch", f"jobs by CreateJobs of {args.batch} / raw commits", statistics.median(batches) / max(commits), "higher", 6),
                 row("P8.batches", f"jobs by CreateJobs of {args.batch}", statistics.median(batches), "higher", None, "1/s")]
        half = program("load", *clients(args, service.grpc_address, "--request", request, "--rate", rate / 2))
        one = program("load", *clients(args, service.grpc_address, "--request", request, count=1))
        rows += [row("P8.p99", "submit at half that load, p99", half["p99_ms"], "lower", 5, "ms"),
                 row("P8.echo.p99", "bare echo at that rate, p99", half_echo["p99_ms"], "lower", None, "ms"),
                 row("P8.p50", "submit at half that load, p50", half["p50_ms"], "lower", None, "ms"),
                 row("P8.one", "submits by one client", one["per_second"], "higher", None, "1/s")]
    return rows


# ---------------------------------------------------------------- a million jobs
def bench_million(args, folder):
    service = coordinator(folder, 1)
    try:
        started_job(service)
        model = service.api.create(tools.tiny_job()).id
        request = request_file(service, folder)
        service.terminate()
        before = time.monotonic()
        program("fill", "--folder", service.state, "--id", model, "--jobs", args.jobs)
        print(f"({args.jobs} jobs made in {time.monotonic() - before:.0f} s, "
              f"{sum(path.stat().st_size for path in service.state.glob('jobs.db*')) / 1e9:.2f} GB)", flush=True)
        queue = program("queue", "--folder", service.state)
        assert queue["jobs"] >= args.jobs
        begin = time.monotonic()
        service.start()
        start, memory = time.monotonic() - begin, resident_mb(service.process)
        lists = {name: program("read", *clients(args, service.grpc_address, "--method", "list", *more, count=1))
                 for name, more in {"newest": [], "priority": ["--order-by", "priority desc"], "state": ["--filter", "state=RUNNING|FAILED|STARTING"],
                                    "name": ["--filter", "name=copy-7", "--order-by", "create_time"]}.items()}
        get = program("read", *clients(args, service.grpc_address, "--method", "get", "--id", model, count=1))
        submits = program("load", *clients(args, service.grpc_address, "--request", request))
        for done in (*lists.values(), get, submits):
            assert done["failed"] == 0, f"{done['failed']} calls failed"
        count = f"{args.jobs:,} queued jobs"
        return [row("P8.decision", f"a scheduling decision, {count}, p99", queue["decision_p99_ms"], "lower", 1, "ms"),
                row("P8.place", f"a job's place in the queue, {count}, p50", queue["place_p50_ms"], "lower", None, "ms"),
                row("P8.start", f"start with {count}, to the first answer", start, "lower", 5, "s"),
                row("P8.memory", "queue in memory, per queued job", queue["bytes_per_job"], "lower", None, "bytes"),
                row("P8.resident", f"coordinator's memory after its start with {count}", memory, "lower", None, "MB"),
                *(row(f"P8.list.{name}", f"ListJobs page of 50 ({name}), {count}, p99", done["p99_ms"], "lower", 10, "ms") for name, done in lists.items()),
                row("P8.get", f"GetJob, {count}, p99", get["p99_ms"], "lower", None, "ms"),
                row("P8.submits.million", f"durable submits, {args.clients} clients, {count}", submits["per_second"], "higher", None, "1/s")]
    finally:
        service.close()


# ---------------------------------------------------------------- ranks and watchers
def run_ranks(args, folder, ranks, steps, interval, reporting, meanwhile=None):
    """What a job of so many ranks costs; `meanwhile(service, job)` is called while they report."""
    with coordinator(folder, ranks) as service:
        few = json.loads((tools.FIXTURES / "rows.json").read_text())
        rows = folder / "rows.json"  # one at least for each rank
        rows.write_text(json.dumps([{**few[i % len(few)], "instruction": f"{i}"} for i in range(max(ranks, 100))]))
        job, token, attempt = started_job(service, data__train=str(rows), parallel__ranks=ranks, train__max_steps=steps, train__global_batch=max(ranks, 8),
                                          labels={"team": "a"})
        sessions = Background("ranks", "--server", service.grpc_address, "--id", job, "--token", token, "--streams", ranks, "--steps", steps,
                              "--interval", interval, "--reporting", reporting, "--channels", max(ranks // 50, 1))
        joined = sessions.line()
        before = counters(service)
        found = meanwhile(service, job) if meanwhile else {}
        reported = sessions.line()
        cpu, written, commits = (b - a for a, b in zip(before, counters(service)))
        got = service.api.get(job)
        assert got.progress.step == steps, f"{got.progress.step} of {steps} steps are there"
        stored = sum(1 for _ in service.api.call("ListMetrics", id=job, page_size=10_000).steps)
        (attempt / "done").touch()
        sessions.end()
        return {**found, **joined, **reported, "lost": steps - stored, "cpu": cpu, "written": written, "commits": commits, "memory": resident_mb(service.process)}


def bench_ranks(args, folder):
    ranks, steps = args.ranks, args.steps

    def look(service, job):
        watchers = Background("watch", "--server", service.grpc_address, "--id", job, "--streams", args.watchers, "--channels",
                              max(args.watchers // 50, 1), "--seconds", max(steps * args.interval - 1, 1))
        read = program("read", *clients(args, service.grpc_address, "--method", "get", "--id", job, count=2, seconds=steps * args.interval * 0.8), "--rate", 100)
        watched = watchers.line()
        watchers.end()
        assert watched["watchers"] == args.watchers and read["failed"] == 0
        return {"read": read, "watched": watched}

    plain = run_ranks(args, folder / "plain", ranks, steps, args.interval, "first")
    every = run_ranks(args, folder / "every", ranks, max(steps // 3, 3), args.interval, "all")
    both = run_ranks(args, folder / "watched", ranks, steps, args.interval, "first", look)
    small = run_ranks(args, folder / "small", 8, args.small_steps, 0.02, "first")
    per = 1000 / args.small_steps
    behind = both["watched"]["fastest_at"] - both["watched"]["slowest_at"]
    name = f"{ranks:,} ranks"
    return [row("S.ranks.cpu", f"{name} with a heartbeat a step: coordinator's CPU per step and rank", plain["cpu"] / steps / ranks * 1e6, "lower", None, "us"),
            row("S.ranks.all", f"{name} that all report each step: the same", every["cpu"] / max(steps // 3, 3) / ranks * 1e6, "lower", None, "us"),
            row("S.ranks.join", f"{name}: until all have joined", plain["join_seconds"], "lower", None, "s"),
            row("S.ranks.ack", f"{name} that all report: last acknowledgement after the last report", every["last_ack_seconds"], "lower", None, "s"),
            row("S.ranks.lost", f"{name}: steps that were reported, acknowledged and not stored", plain["lost"] + every["lost"] + both["lost"], "lower", 0, "steps"),
            row("S.ranks.get", f"GetJob meanwhile, {name} and {args.watchers:,} watchers, p99", both["read"]["p99_ms"], "lower", 20, "ms"),
            row("S.watchers", f"{args.watchers:,} watchers: events by which the slowest is behind", behind, "lower", None, "events"),
            row("S.ranks.memory", f"coordinator's memory with {name}", plain["memory"], "lower", None, "MB"),
            row("S.job.commits", "a job of 8 ranks: commits per 1,000 steps", small["commits"] * per, "lower", None, "commits"),
            row("S.job.written", "a job of 8 ranks: written per 1,000 steps", small["written"] * per / 1e6, "lower", None, "MB"),
            row("S.job.cpu", "a job of 8 ranks: coordinator's CPU per 1,000 steps", small["cpu"] * per, "lower", None, "s")]


PARTS = {"submit": bench_submit, "million": bench_million, "ranks": bench_ranks}


def print_table(rows):
    print(f"\n{'id':<22}{'value':>14} {'unit':<9}{'goal':>8}  {'met':<5}what")
    for each in rows:
        goal = "" if each["goal"] is None else f"{each['goal']:g}"
        print(f"{each['id']:<22}{each['value']:>14,.3f} {each['unit']:<9}{goal:>8}  {({None: '', True: 'yes', False: 'NO'})[each['met']]:<5}{each['what']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--ranks", type=int, default=1000)
    parser.add_argument("--watchers", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds from step to step of the many ranks")
    parser.add_argument("--small-steps", type=int, default=1000, help="steps of the job of 8 ranks")
    parser.add_argument("--seconds", type=float, default=6, help="of each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=8, help="no part begins later")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    if args.tiny:
        args.jobs, args.batch, args.ranks, args.watchers, args.steps, args.interval = 3000, 50, 20, 20, 5, 0.2
        args.small_steps, args.seconds, args.rounds = 20, 0.5, 1
    if not PROGRAM.exists():
        sys.exit(f"{PROGRAM} is not there: make bench-service builds it")
    rows = []
    begin = time.monotonic()
    for part in args.only.split(","):
        if time.monotonic() - begin > args.minutes * 60:
            print(f"NOTE: {part} is not measured: the {args.minutes:g} minutes are over", flush=True)
            continue
        with tempfile.TemporaryDirectory(prefix="emoe-service-", dir=os.environ.get("EMOE_BENCH_DIR")) as folder:
            for inner in ("plain", "every", "watched", "small"):
                (pathlib.Path(folder) / inner).mkdir()
            rows += PARTS[part](args, pathlib.Path(folder))
        print(f"({part}: done after {time.monotonic() - begin:.0f} s)", flush=True)
    print_table(rows)
    if args.tiny:
        return
    OUT.mkdir(parents=True, exist_ok=True)
    machine = {"name": platform.node(), "system": platform.platform(), "processor": processor(), "cores": os.cpu_count()}
    (OUT / "service.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
