"""The Prometheus files in deploy/: valid, every alert tested both ways, no metric that nobody serves."""
import re
import shutil

import pytest
import yaml

import emoe_tools as tools
import promql

FOLDER = tools.ROOT / "deploy" / "prometheus"
# Served by others: the targets themselves, node_exporter, the kubelet.
FOREIGN = {"up", "node_filesystem_avail_bytes", "node_filesystem_size_bytes", "kubelet_volume_stats_available_bytes",
           "kubelet_volume_stats_capacity_bytes"}


def load(name):
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def rules(kind):
    return {rule[kind]: rule for group in load("rules.yml")["groups"] for rule in group["rules"] if kind in rule}


def promtool(*arguments):
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed (tools/setup/packages-test.txt)")
    return tools.run(["promtool", *arguments]).expect()


def test_configuration_and_rules_are_valid():
    promtool("check", "config", FOLDER / "prometheus.yml")


def test_rules_do_what_their_cases_say():
    promtool("test", "rules", FOLDER / "rules_test.yml")


def test_every_alert_has_a_case_that_fires_and_one_that_does_not():
    fires, rests = set(), set()
    for test in load("rules_test.yml")["tests"]:
        for case in test.get("alert_rule_test", []):
            (fires if case["exp_alerts"] else rests).add(case["alertname"])
    assert fires == rests == set(rules("alert"))


def test_every_recorded_series_has_a_case():
    tested = {case["expr"] for test in load("rules_test.yml")["tests"] for case in test.get("promql_expr_test", [])}
    assert tested == set(rules("record"))


def test_alerts_say_how_urgent_they_are_and_what_to_do():
    for name, alert in rules("alert").items():
        assert alert["labels"]["severity"] in ("page", "ticket"), name
        assert {"summary", "description"} == set(alert["annotations"]), name


def test_rules_name_metrics_that_are_served():
    known = promql.documented_metrics() | set(rules("record")) | FOREIGN
    for rule in (*rules("record").values(), *rules("alert").values()):
        assert promql.metrics_of(rule["expr"]) <= known, rule


def test_scrape_jobs_have_the_names_that_the_rules_use():
    jobs = {job["job_name"] for job in load("prometheus.yml")["scrape_configs"]}
    named = {job for rule in rules("alert").values() for text in re.findall(r'\bjob=~?"([^"]+)"', rule["expr"]) for job in text.split("|")}
    assert named and named <= jobs
