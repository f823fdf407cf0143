#!/usr/bin/env python3
"""`make demo`: the main job on this machine, from submission over gRPC to verified dense checkpoints.

    demo/run.py [--out build/demo] [--set KEY=VALUE]…      --set goes to every job: train.max_steps=4 for a quick look

Starts a coordinator of its own on free ports, submits LoRA, EMoE + LoRA and EMoE full tuning of the small base model
(two ranks each), shows their progress, and ends with a summary. Everything it makes lies in build/demo. Exit 0 only if
every job succeeded and every merge was verified. Ctrl-C ends everything it started, and a demo that was killed is
cleared away by the next one.
"""
import argparse
import collections
import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import processes

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = pathlib.Path(os.environ.get("EMOE_BIN_DIR") or ROOT / "build" / "bin")
JOBS = ["lora", "emoe-lora", "emoe-full"]
ENDED = {"SUCCEEDED", "FAILED", "CANCELLED"}
INSTRUCTION = json.loads((ROOT / "demo" / "sample.json").read_text(encoding="utf-8"))["instruction"]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoError(Exception):
    """Something a user can act on; printed without a traceback."""


class Interrupted(BaseException):
    """A signal asked for the end."""


def ignore_signals():
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def on_signal(number, _):
    ignore_signals()  # the first one is enough: what follows must not be broken off
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(sys.stdout.fileno(), "\nstopping …\n".encode())
    raise Interrupted(number)


def run(*command):
    """What a command printed. In a session of its own: a terminal's Ctrl-C is for the demo to handle."""
    command = [str(part) for part in command]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, start_new_session=True)
    if done.returncode != 0:
        raise DemoError(f"exit code {done.returncode} of {' '.join(command)}\n{done.stderr.strip()}")
    return done.stdout


class Coordinator:
    """The service under demonstration, with its embedded database in `folder`/state."""

    def __init__(self, folder):
        self.state, self.log = folder / "state", folder / "coordinator.log"
        self.process = self.addresses = None

    def start(self):
        self.state.mkdir()
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [BIN / "emoe-coordinator", "--state-dir", self.state, "--listen", "127.0.0.1:0",
                 "--metrics-listen", "127.0.0.1:0", "--set", "slots.total=2"],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(FileNotFoundError):
                self.addresses = json.loads((self.state / "addresses.json").read_text())
                return
            time.sleep(0.05)
        raise DemoError(f"the coordinator did not start; see {self.log}")

    def command(self, *arguments):
        return [BIN / "emoectl", "--server", self.addresses["grpc"], "-o", "json", *arguments]

    def emoectl(self, *arguments):
        return json.loads(run(*self.command(*arguments)))

    def events(self, job_id):
        """The job's events as they happen, to its end."""
        with subprocess.Popen([str(part) for part in self.command("watch", job_id)], cwd=ROOT, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as watch:
            try:
                for line in watch.stdout:
                    yield json.loads(line)
            finally:
                watch.kill()


class ProgressLine:
    """One line for a job: redrawn on a terminal, printed every few seconds elsewhere."""

    def __init__(self, name):
        self.name, self.terminal, self.last = name, sys.stdout.isatty(), time.monotonic()
        self.state, self.total, self.step, self.loss = "QUEUED", 0, 0, 0.0
        self.recent = collections.deque(maxlen=20)  # (tokens, seconds) of steps

    def take(self, event):
        self.state = event.get("state_change", {}).get("to", self.state)
        self.total = int(event.get("phase", {}).get("steps_planned", 0)) or self.total
        if "step" in event:
            step = event["step"]
            self.step, self.loss = int(step["step"]) + 1, step["loss"]
            self.recent.append((int(step["tokens"]), step["seconds"]))

    def text(self):
        filled = 20 * self.step // self.total if self.total else 0
        bar = f"[{'#' * filled}{'.' * (20 - filled)}] {self.step}/{self.total or '?'}"
        tokens, seconds = map(sum, zip(*self.recent)) if self.recent else (0, 0.0)
        speed = ""
        if seconds > 0:
            left = max(self.total - self.step, 0) * seconds / len(self.recent)
            speed = f"  loss {self.loss:.3f}  {tokens / seconds:,.0f} tokens/s  ETA {left:.0f} s"
        return f"  {self.name:<10} {self.state:<9} {bar}{speed}"

    def show(self):
        now, ended = time.monotonic(), self.state in ENDED
        if not ended and now - self.last < (0.1 if self.terminal else 5):
            return
        self.last = now
        if self.terminal:
            print("\r\x1b[2K" + self.text()[:shutil.get_terminal_size().columns - 1], end="\n" if ended else "", flush=True)
        else:
            print(self.text(), flush=True)


def follow(coordinator, name, job_id):
    line = ProgressLine(name)
    for event in coordinator.events(job_id):
        line.take(event)
        line.show()
    job = coordinator.emoectl("get", job_id)
    if job["state"] not in ENDED:
        raise DemoError(f"{name}: its events broke off; see {coordinator.log}")
    return job


def sample(model):
    text = run(BIN / "emoe-worker", "generate", "--model", model, "--instruction", INSTRUCTION, "--max-tokens", "40")
    return text.strip().replace("\n", " ")


def seconds_of(job):
    start, end = (datetime.datetime.fromisoformat(job[key]) for key in ("start_time", "end_time"))
    return (end - start).total_seconds()


def tokens_per_second(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return sum(row["tokens"] for row in rows) / sum(row["seconds"] for row in rows)


def experts_used(out):
    path = out / "expert_stats.json"
    if not path.exists():
        return "-"
    layers = json.loads(path.read_text())["layers"]
    used = sum(sum(1 for count in layer["selections"] if count > 0) for layer in layers)
    cv = sum(layer["load_cv"] for layer in layers) / len(layers)
    return f"{used}/{sum(len(layer['selections']) for layer in layers)} (CV {cv:.2f})"


def summarise(name, job):
    out = pathlib.Path(job["output_dir"])
    row = {"name": name, "id": job["id"], "state": job["state"], "out": str(out), "eval_loss_base": None,
           "eval_loss": None, "eval_loss_as_trained": None, "tokens_per_second": None, "seconds": None,
           "verified": False, "experts": "-", "sample": "", "message": job.get("message", ""),
           "warnings": job.get("warnings", [])}
    if job["state"] != "SUCCEEDED":
        return row
    report = json.loads((out / "export" / "merge_report.json").read_text())
    row.update(eval_loss_base=job["eval_first"]["loss_dense"], eval_loss=job["eval_last"]["loss_dense"],
               eval_loss_as_trained=job["eval_last"]["loss"], seconds=seconds_of(job),
               tokens_per_second=tokens_per_second(out), verified=bool(job.get("merge", {}).get("verified")),
               tensors_changed=report["tensors_changed"], tensors_unchanged=report["tensors_unchanged"],
               experts=experts_used(out), sample=sample(out / "export" / "model"))
    return row


def print_summary(rows, before, state):
    done = [row for row in rows if row["state"] == "SUCCEEDED"]
    print("\nHeld-out loss (lower is better; 'dense' is the checkpoint you get, 'as trained' has the experts on)\n")
    print(f"  {'method':<12}{'base':>8}{'as trained':>12}{'dense':>8}{'tokens/s':>11}{'time':>8}  experts used")
    for row in done:
        print(f"  {row['name']:<12}{row['eval_loss_base']:>8.3f}{row['eval_loss_as_trained']:>12.3f}{row['eval_loss']:>8.3f}"
              f"{row['tokens_per_second']:>11,.0f}{row['seconds']:>7.0f}s  {row['experts']}")
    print(f"\n\"{INSTRUCTION}\"\n\n  {'base':<12}{before}")
    for row in done:
        print(f"  {row['name']:<12}{row['sample']}")
    print("\nMerged dense checkpoints\n")
    for row in rows:
        if row["verified"]:
            print(f"  {row['name']:<12}verified: {row['tensors_changed']} tensors changed, {row['tensors_unchanged']} "
                  f"byte-identical\n{'':14}{row['out']}/export/model")
        else:
            print(f"  {row['name']:<12}{row['state']}, NOT verified: {row['message']}\n{'':14}what its processes printed: "
                  f"{state}/jobs/{row['id']}/attempt_*/output.log")
    told = [(row["name"], warning) for row in rows for warning in row["warnings"]]
    for number, (name, warning) in enumerate(told):
        print(("" if number else "\nWarnings (warnings.json of each job)\n\n") +
              f"  {name:<12}{warning['code']}: {warning['text']}; see {warning['where']}")


def demo(coordinator, folder, overrides):
    coordinator.start()
    print(f"coordinator on {coordinator.addresses['grpc']}, metrics on {coordinator.addresses['metrics']}, "
          f"database in {coordinator.state}", flush=True)
    before = sample(ROOT / "demo" / "base")
    submitted = {}
    for name in JOBS:
        submitted[name] = coordinator.emoectl("submit", f"configs/demo/{name}.yaml", *overrides)["id"]
        print(f"submitted {name:<10} {submitted[name]}", flush=True)
    rows = [summarise(name, follow(coordinator, name, job_id)) for name, job_id in submitted.items()]
    (folder / "summary.json").write_text(json.dumps({"jobs": rows}, indent=1) + "\n")
    print_summary(rows, before, coordinator.state)
    return all(row["state"] == "SUCCEEDED" and row["verified"] for row in rows)


@contextlib.contextmanager
def own(folder):
    """The folder for this demo alone, emptied of an earlier one and of whatever an earlier one left running."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError(f"another demo runs in {folder}") from None
        processes.end_all(folder)
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
        yield


def main():
    parser = argparse.ArgumentParser(description="The whole path on this machine; see demo/README.md.")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build" / "demo")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of every job")
    arguments = parser.parse_args()
    folder = arguments.out.resolve()
    overrides = [part for override in arguments.set for part in ("--set", override)]
    os.environ[processes.VARIABLE] = str(folder)
    for number in SIGNALS:
        signal.signal(number, on_signal)
    began = time.monotonic()
    try:
        with own(folder):
            coordinator = Coordinator(folder)
            try:
                try:
                    good = demo(coordinator, folder, overrides)
                finally:
                    ignore_signals()
            finally:
                processes.end_all(folder)
    except Interrupted as interrupted:
        return 128 + interrupted.args[0]
    except (DemoError, OSError) as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    print(f"\n{time.monotonic() - began:.0f} s in all; {folder / 'summary.json'} has the numbers")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
