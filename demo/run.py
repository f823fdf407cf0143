#!/usr/bin/env python3
"""`make demo`: the main job on this machine, from submission over gRPC to verified dense checkpoints.

Starts a coordinator of its own on free ports, submits LoRA, EMoE + LoRA and EMoE full tuning of the small base model
(two ranks each), shows their progress, and ends with a summary. Everything it makes lies in build/demo. Exit 0 only if
every job succeeded and every merge was verified. Ctrl-C cancels the jobs and stops the coordinator.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = ROOT / "build" / "bin"
OUT = ROOT / "build" / "demo"
STATE = OUT / "state"
PID_FILE = OUT / "coordinator.pid"
JOBS = ["lora", "emoe-lora", "emoe-full"]
ENDED = {"SUCCEEDED", "FAILED", "CANCELLED"}
INSTRUCTION = json.loads((ROOT / "demo" / "sample.json").read_text(encoding="utf-8"))


class DemoError(Exception):
    """Something a user can act on; printed without a traceback."""


def run(*command):
    done = subprocess.run([str(part) for part in command], cwd=ROOT, text=True, capture_output=True)
    if done.returncode != 0:
        raise DemoError(f"{pathlib.Path(command[0]).name} {command[1]} failed ({done.returncode}):\n{done.stderr.strip()}")
    return done.stdout


class Coordinator:
    """The service under demonstration, with its embedded database in build/demo/state."""

    def __init__(self):
        stop_earlier_run()
        shutil.rmtree(OUT, ignore_errors=True)
        STATE.mkdir(parents=True)
        self.log = open(OUT / "coordinator.log", "w", encoding="utf-8")
        self.process = subprocess.Popen(
            [BIN / "emoe-coordinator", "--state-dir", STATE, "--listen", "127.0.0.1:0",
             "--metrics-listen", "127.0.0.1:0", "--set", "slots.total=2"],
            cwd=ROOT, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)
        PID_FILE.write_text(str(self.process.pid))
        self.addresses = self.wait_until_ready()

    def wait_until_ready(self):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                return json.loads((STATE / "addresses.json").read_text())
            except (FileNotFoundError, json.JSONDecodeError):
                time.sleep(0.05)
        raise DemoError(f"the coordinator did not start; see {OUT / 'coordinator.log'}")

    def emoectl(self, *arguments):
        return json.loads(run(BIN / "emoectl", "--server", self.addresses["grpc"], "-o", "json", *arguments))

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()


def stop_earlier_run():
    """A demo that was killed may have left its coordinator behind."""
    try:
        pid = int(PID_FILE.read_text())
        if str(STATE).encode() in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        pass


class ProgressLine:
    """One updating line a job on a terminal, a line every few seconds elsewhere."""

    def __init__(self, name):
        self.name, self.terminal, self.last = name, sys.stdout.isatty(), 0.0

    def show(self, job):
        progress = job.get("progress", {})
        step, total = int(progress.get("step", 0)), int(progress.get("steps_planned", 0))
        filled = 20 * step // total if total else 0
        text = f"  {self.name:<10} {job['state']:<9} [{'#' * filled}{'.' * (20 - filled)}] {step}/{total or '?'}"
        if step:
            text += (f"  loss {progress.get('loss', 0):.3f}  {progress.get('tokens_per_second', 0):,.0f} tokens/s"
                     f"  ETA {progress.get('eta_seconds', 0):.0f} s")
        if self.terminal:
            print("\r\x1b[2K" + text[:shutil.get_terminal_size().columns - 1], end="", flush=True)
        elif time.monotonic() - self.last > 5 or job["state"] in ENDED:
            self.last = time.monotonic()
            print(text, flush=True)

    def end(self):
        if self.terminal:
            print()


def follow(coordinator, name, job_id):
    line = ProgressLine(name)
    while True:
        job = coordinator.emoectl("get", job_id)
        line.show(job)
        if job["state"] in ENDED:
            line.end()
            return job
        time.sleep(0.3)


def sample(model):
    return run(BIN / "emoe-worker", "generate", "--model", model, "--instruction", INSTRUCTION["instruction"],
               "--max-tokens", "40").strip().replace("\n", " ")


def seconds_of(job):
    return timestamp(job["end_time"]) - timestamp(job["start_time"])


def timestamp(text):
    whole, _, fraction = text.rstrip("Z").partition(".")
    return time.mktime(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float("0." + (fraction or "0"))


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
           "verified": False, "experts": "-", "sample": ""}
    if job["state"] != "SUCCEEDED":
        return row
    report = json.loads((out / "export" / "merge_report.json").read_text())
    row.update(eval_loss_base=job["eval_first"]["loss_dense"], eval_loss=job["eval_last"]["loss_dense"],
               eval_loss_as_trained=job["eval_last"]["loss"], seconds=seconds_of(job),
               tokens_per_second=tokens_per_second(out), verified=bool(job.get("merge", {}).get("verified")),
               tensors_changed=report["tensors_changed"], tensors_unchanged=report["tensors_unchanged"],
               experts=experts_used(out), sample=sample(out / "export" / "model"))
    return row


def print_summary(rows, before):
    done = [row for row in rows if row["state"] == "SUCCEEDED"]
    print("\nHeld-out loss (lower is better; 'dense' is the checkpoint you get, 'as trained' has the experts on)\n")
    print(f"  {'method':<12}{'base':>8}{'as trained':>12}{'dense':>8}{'tokens/s':>11}{'time':>8}  experts used")
    for row in done:
        print(f"  {row['name']:<12}{row['eval_loss_base']:>8.3f}{row['eval_loss_as_trained']:>12.3f}{row['eval_loss']:>8.3f}"
              f"{row['tokens_per_second']:>11,.0f}{row['seconds']:>7.0f}s  {row['experts']}")
    print(f"\n\"{INSTRUCTION['instruction']}\"\n\n  {'base':<12}{before}")
    for row in done:
        print(f"  {row['name']:<12}{row['sample']}")
    print("\nMerged dense checkpoints\n")
    for row in rows:
        if row["verified"]:
            print(f"  {row['name']:<12}verified: {row['tensors_changed']} tensors changed, {row['tensors_unchanged']} "
                  f"byte-identical\n{'':14}{row['out']}/export/model")
        else:
            print(f"  {row['name']:<12}{row['state']}, NOT verified; see `build/bin/emoectl logs {row['id']}` or {row['out']}")


def cancel_all(coordinator, ids):
    print("\nstopping: cancelling the jobs …", flush=True)
    for job_id in ids:
        try:
            coordinator.emoectl("cancel", job_id)
        except DemoError:
            pass  # it had ended
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(coordinator.emoectl("get", i)["state"] not in ENDED for i in ids):
        time.sleep(0.2)


def demo(coordinator, submitted):
    print(f"coordinator on {coordinator.addresses['grpc']}, metrics on {coordinator.addresses['metrics']}, database in {STATE}")
    before = sample(ROOT / "demo" / "base")
    for name in JOBS:
        submitted[name] = coordinator.emoectl("submit", f"configs/demo/{name}.yaml")["id"]
        print(f"submitted {name:<10} {submitted[name]}")
    rows = [summarise(name, follow(coordinator, name, job_id)) for name, job_id in submitted.items()]
    (OUT / "summary.json").write_text(json.dumps({"jobs": rows}, indent=1) + "\n")
    print_summary(rows, before)
    return all(row["state"] == "SUCCEEDED" and row["verified"] for row in rows)


def main():
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    began, coordinator, submitted, good = time.monotonic(), None, {}, False
    try:
        coordinator = Coordinator()
        good = demo(coordinator, submitted)
    except KeyboardInterrupt:
        if coordinator:
            cancel_all(coordinator, submitted.values())
        return 130
    except DemoError as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        if coordinator and coordinator.process.poll() is None:
            cancel_all(coordinator, submitted.values())
    finally:
        if coordinator:
            coordinator.stop()
    print(f"\n{time.monotonic() - began:.0f} s in all; {OUT / 'summary.json'} has the numbers")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
