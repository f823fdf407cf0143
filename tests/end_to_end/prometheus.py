"""A real Prometheus finds the ranks of a running job through /sd, scrapes them and the coordinator, and forgets them."""
import contextlib
import json
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request

import pytest

import emoe_tools as tools


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Prometheus:
    def __init__(self, folder, coordinator):
        self.address = f"127.0.0.1:{free_port()}"
        target = coordinator.metrics_address
        config = tools.write_yaml(folder / "prometheus.yaml", {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "400ms"},
            "scrape_configs": [
                {"job_name": "emoe-coordinator", "static_configs": [{"targets": [target]}]},
                {"job_name": "emoe-ranks", "http_sd_configs": [{"url": f"http://{target}/sd", "refresh_interval": "1s"}]}]})
        tools.run(["promtool", "check", "config", config]).expect()
        self.running = tools.Background(["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
                                         f"--web.listen-address={self.address}"], folder / "prometheus.log")

    def query(self, expression):
        """[(labels, value)]; nothing while it starts."""
        with contextlib.suppress(OSError):
            answer = json.loads(get(f"http://{self.address}/api/v1/query?query={urllib.parse.quote(expression)}"))
            return [(row["metric"], float(row["value"][1])) for row in answer["data"]["result"]]
        return []


@pytest.fixture
def prometheus(coordinator, tmp_path):
    if not shutil.which("prometheus"):
        pytest.skip("prometheus is not installed (tools/setup/packages-test.txt)")
    server = Prometheus(tmp_path, coordinator)
    with server.running:
        yield server


def test_a_running_job_is_found_scraped_and_forgotten(coordinator, prometheus):
    api = coordinator.api
    job = api.create(tools.tiny_job(train__max_steps=100000, parallel__ranks=2, emoe=tools.TINY_EMOE,
                                    data__eval=str(tools.FIXTURES / "rows.json"), train__eval_every=20))
    api.wait_for_step(job.id, 1)
    mine = f'{{job_id="{job.id}"}}'
    series = tools.wait_until(lambda: len(found := prometheus.query("emoe_step" + mine)) == 2 and found, 30,
                              "emoe_step of two ranks in Prometheus")
    assert {labels["rank"] for labels, _ in series} == {"0", "1"} and all(labels["job"] == "emoe-ranks" for labels, _ in series)
    for name in ("emoe_train_loss", "emoe_learning_rate", "emoe_grad_norm", "emoe_steps_planned", "emoe_samples_total",
                 "emoe_tokens_total", "emoe_eta_seconds", "emoe_step_seconds_count", "emoe_phase_seconds_total",
                 "emoe_comm_sequence", "emoe_comm_seconds_total", "emoe_comm_bytes_total", "emoe_host_rss_bytes",
                 "emoe_model_flops_total",
                 "emoe_last_step_timestamp_seconds", "emoe_eval_loss", "emoe_expert_load_cv"):
        found = tools.wait_until(lambda n=name: prometheus.query(n + mine), 15, f"{name} in Prometheus")
        assert all(labels["__name__"] == name for labels, _ in found)
    for name in ("emoe_comm_seconds_total", "emoe_comm_bytes_total"):
        found = tools.wait_until(lambda n=name: prometheus.query(f'{n}{{job_id="{job.id}",op!=""}}'), 15, f"{name} by operation")
        assert {labels["rank"] for labels, _ in found} == {"0", "1"} and max(value for _, value in found) > 0, found
    # It moves.
    first = max(value for _, value in series)
    tools.wait_until(lambda: max((v for _, v in prometheus.query("emoe_step" + mine)), default=0) > first, 15, "emoe_step rising")
    assert tools.wait_until(lambda: prometheus.query('emoe_jobs{state="running"}'), 10, "emoe_jobs")[0][1] == 1
    assert prometheus.query("emoe_slots") and prometheus.query("emoe_store_commit_seconds_count")
    assert prometheus.query("emoe_rpc_seconds_count")
    api.call("CancelJob", id=job.id)
    api.wait(job.id)
    assert json.loads(get(f"http://{coordinator.metrics_address}/sd")) == [], "the ranks of an ended job are no targets"
    tools.wait_until(lambda: not prometheus.query("emoe_step" + mine), 20, "the job's series gone")


def test_exposition_passes_promtool(coordinator):
    """Names, units and help texts as Prometheus wants them, of the coordinator and of a rank."""
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed (tools/setup/packages-test.txt)")
    api = coordinator.api
    job = api.create(tools.tiny_job(train__max_steps=100000, emoe=tools.TINY_EMOE))
    running = api.wait_for_step(job.id, 3)
    for address in (coordinator.metrics_address, running.attempts[0].ranks[0].metrics_address):
        text = get(f"http://{address}/metrics")
        assert text.count("# HELP emoe_") >= 5, text
        checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    api.call("CancelJob", id=job.id)
    api.wait(job.id)
