"""A real Prometheus discovers a rank through /sd, scrapes its /metrics, and answers queries on it.

Usage: prometheus_test.py RANK_METRICS_PROGRAM. Exit code 77: Prometheus is not installed.
"""

import json
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

PATIENCE = 60.0  # seconds; Prometheus takes up its targets every 5 s

# Query → the one value it must have.
EXPECTED = {
    'up{job="emoe-ranks",job_id="job-1",rank="0"}': 1,
    'emoe_step{job_id="job-1",rank="0"}': 4,
    'emoe_steps_planned{job_id="job-1"}': 10,
    'emoe_train_loss{job_id="job-1"}': 2.5,
    'emoe_tokens_total{job_id="job-1",kind="trained"}': 240,
    'emoe_phase_seconds_total{job_id="job-1",rank="0",phase="forward"}': 0.5,
    'emoe_step_seconds_count{job_id="job-1",rank="0"}': 4,
    'emoe_step_seconds_bucket{job_id="job-1",le="0.25"}': 0,
    'emoe_step_seconds_bucket{job_id="job-1",le="0.5"}': 4,
    'emoe_comm_sequence{job_id="job-1"}': 9,
    'emoe_comm_seconds_total{job_id="job-1",op="all_reduce",rank="0"}': 0.25,
    'emoe_comm_bytes_total{job_id="job-1",op="all_reduce",rank="0"} > bool 4096': 1,
    'emoe_model_flops_total{job_id="job-1"}': 4e9,
    'emoe_expert_tokens_total{job_id="job-1",layer="2",expert="2",rank="0"}': 7,
    'emoe_checkpoint_bytes{job_id="job-1"}': 1000,
    'emoe_dead_experts{job_id="job-1",layer="2"}': 1,
    'time() - emoe_last_step_timestamp_seconds{job_id="job-1"} < bool 600': 1,
}

CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: emoe-ranks
    honor_labels: true
    http_sd_configs: [{{url: "http://{address}/sd", refresh_interval: 1s}}]
"""


def reserved_port() -> socket.socket:
    """Bound: nobody else gets the port by chance, and a server that is told it may listen there (by SO_REUSEADDR)."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder


def query(server: str, expression: str) -> list:
    url = f"http://{server}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)["data"]["result"]


def wait_for_samples(server: str, prometheus: subprocess.Popen) -> list:
    """What is still wrong with them after all patience. A scrape that times out takes them away until the next."""
    deadline = time.monotonic() + PATIENCE
    problems = ["Prometheus does not answer"]
    while problems and time.monotonic() < deadline:
        if prometheus.poll() is not None:
            sys.exit(f"prometheus ended with {prometheus.returncode}")
        try:
            problems = check_samples(server)
        except OSError:
            pass  # it still starts
        if problems:
            time.sleep(0.2)
    return problems


def check_names(address: str) -> list:
    """What Prometheus' own linter says about names, units and help texts."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        text = answer.read()
    lint = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=60)
    return [] if lint.returncode == 0 else [f"promtool: {lint.stdout.decode()}{lint.stderr.decode()}"]


def check_samples(server: str) -> list:
    problems = []
    for expression, expected in EXPECTED.items():
        values = [float(sample["value"][1]) for sample in query(server, expression)]
        if values != [expected]:
            problems.append(f"{expression}: {values}, expected {expected}")
    return problems


def main() -> int:
    if not shutil.which("prometheus") or not shutil.which("promtool"):
        print("skipped: no prometheus (Debian package prometheus)")
        return 77
    started = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            rank = subprocess.Popen([sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            started.append(rank)
            address = rank.stdout.readline().strip()
            config = pathlib.Path(folder) / "prometheus.yml"
            config.write_text(CONFIG.format(address=address))
            port = reserved_port()
            server = f"127.0.0.1:{port.getsockname()[1]}"
            prometheus = subprocess.Popen([
                "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address={server}", "--log.level=warn"])
            started.append(prometheus)
            problems = check_names(address)
            problems += wait_for_samples(server, prometheus)
        finally:
            for process in started:
                process.kill()
                process.wait()
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
