"""A real Prometheus finds the ranks of a running job through /sd, scrapes them and the coordinator, and forgets them."""
import contextlib
import json
import shutil
import subprocess
import urllib.parse
import urllib.request

import pytest

import emoe_tools as tools


def get(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


class Prometheus:
    def __init__(self, folder, coordinator):
        self.port = tools.reserved_port()
        self.address = f"127.0.0.1:{self.port.getsockname()[1]}"
        target = coordinator.metrics_address
        config = tools.write_yaml(folder / "prometheus.yaml", {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
            "scrape_configs": [
                {"job_name": "emoe-coordinator", "static_configs": [{"targets": [target]}]},
                {"job_name": "emoe-ranks", "http_sd_configs": [{"url": f"http://{target}/sd", "refresh_interval": "1s"}]}]})
        tools.run(["promtool", "check", "config", config]).expect()
        self.running = tools.Background(["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
                                         f"--web.listen-address={self.address}"], folder / "prometheus.log")

    def query(self, expression):
        """[(labels, value)], also empty; None when it does not answer, as while it starts."""
        with contextlib.suppress(OSError):
            answer = json.loads(get(f"http://{self.address}/api/v1/query?query={urllib.parse.quote(expression)}"))
            return [(row["metric"], float(row["value"][1])) for row in answer["data"]["result"]]
        return None

    def wait(self, expression, what, wanted=bool):
        """The answer once it is as `wanted`. A scrape that times out (a busy machine) ends series for a while: no query
        is sure to find what an earlier one found."""
        return tools.wait_until(lambda: (found := self.query(expression)) and wanted(found) and found, 60,
                                f"{what} in Prometheus")


@pytest.fixture
def prometheus(coordinator, tmp_path):
    if not shutil.which("prometheus"):
        pytest.skip("prometheus is not installed (tools/setup/packages-test.txt)")
    server = Prometheus(tmp_path, coordinator)
    with server.port, server.running:
        yield server


def test_a_running_job_is_found_scraped_and_forgotten(coordinator, prometheus):
    api = coordinator.api
    job = api.create(tools.tiny_job(train__max_steps=100000, parallel__ranks=2, emoe=tools.TINY_EMOE,
                                    data__eval=str(tools.FIXTURES / "rows.json"), train__eval_every=20))
    api.wait_for_step(job.id, 1)
    mine = f'{{job_id="{job.id}"}}'
    series = prometheus.wait("emoe_step" + mine, "emoe_step of two ranks", lambda found: len(found) == 2)
    assert {labels["rank"] for labels, _ in series} == {"0", "1"} and all(labels["job"] == "emoe-ranks" for labels, _ in series)
    for name in ("emoe_train_loss", "emoe_learning_rate", "emoe_grad_norm", "emoe_steps_planned", "emoe_samples_total",
                 "emoe_tokens_total", "emoe_eta_seconds", "emoe_step_seconds_count", "emoe_phase_seconds_total",
                 "emoe_comm_sequence", "emoe_comm_seconds_total", "emoe_comm_bytes_total", "emoe_host_rss_bytes",
                 "emoe_model_flops_total",
                 "emoe_last_step_timestamp_seconds", "emoe_eval_loss", "emoe_expert_load_cv"):
        found = prometheus.wait(name + mine, name)
        assert all(labels["__name__"] == name for labels, _ in found)
    for name in ("emoe_comm_seconds_total", "emoe_comm_bytes_total"):
        prometheus.wait(f'{name}{{job_id="{job.id}",op!=""}}', f"{name} of two ranks by operation", lambda found:
                        {labels["rank"] for labels, _ in found} == {"0", "1"} and max(value for _, value in found) > 0)
    # It moves.
    first = max(value for _, value in series)
    prometheus.wait("emoe_step" + mine, "emoe_step rising", lambda found: max(value for _, value in found) > first)
    prometheus.wait('emoe_jobs{state="running"}', "one running job", lambda found: [value for _, value in found] == [1])
    for name in ("emoe_slots", "emoe_store_commit_seconds_count", "emoe_rpc_seconds_count"):
        prometheus.wait(name, name)
    api.call("CancelJob", id=job.id)
    api.wait(job.id)
    assert json.loads(get(f"http://{coordinator.metrics_address}/sd")) == [], "the ranks of an ended job are no targets"
    tools.wait_until(lambda: prometheus.query("emoe_step" + mine) == [], 60, "the job's series gone")


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
