"""deploy/grafana: dashboards whose queries parse, name metrics that exist, and find data while the demo's job runs."""
import contextlib
import json
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request

import pytest
import yaml

import emoe_api
import emoe_tools as tools
import promql

FOLDER = tools.ROOT / "deploy" / "grafana"
RULES = tools.ROOT / "deploy" / "prometheus" / "rules.yml"
BOARDS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((FOLDER / "dashboards").glob("*.json"))}
PROMETHEUS = {"up", "ALERTS"}  # its own

# Panels and annotations that find nothing while a sound job runs on CPUs: they need a failure, a warning, or a GPU.
NEED_MORE = {("fleet", "Alerts that fire"), ("fleet", "Calls that failed"),
                  ("fleet", "Attempts started again"), ("fleet", "Warnings that jobs got"), ("job", "Warnings"), ("job", "Memory of the GPUs")}


def queries(board):
    """(panel, expression) of every query."""
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield panel, target["expr"]


def filled_in(expression, **values):
    """With Grafana's variables replaced as Grafana does."""
    known = {"__rate_interval": "1m", "__range": "1h", "job_id": "x", "rank": ".*", "layer": ".*", **values}
    return re.sub(r"\$\{?(\w+)\}?", lambda match: known[match.group(1)], expression)


@pytest.fixture(params=BOARDS)
def board(request):
    return BOARDS[request.param]


def test_the_three_are_there():
    assert {board["uid"] for board in BOARDS.values()} == {"emoe-fleet", "emoe-job", "emoe-experts"}


def test_panels_are_whole(board):
    """What Grafana needs of each, and what a reader needs: a unit, and no panel on top of another."""
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["targets"] and panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        ids = [target["refId"] for target in panel["targets"]]
        assert len(set(ids)) == len(ids)


def test_variables_are_declared(board):
    declared = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert declared["datasource"]["type"] == "datasource" and declared["datasource"]["query"] == "prometheus"
    wanted = {"job_id", "rank"} if board["uid"] != "emoe-fleet" else set()
    assert wanted <= declared.keys()
    texts = [expression for _, expression in queries(board)]
    texts += [variable["query"]["query"] for variable in declared.values() if variable["type"] == "query"]
    texts += [annotation["expr"] for annotation in board["annotations"]["list"]]
    used = {name for text in texts for name in re.findall(r"\$\{?(\w+)", text) if not name.startswith("__")}
    assert used | {"datasource"} == declared.keys()


def test_links_lead_to_each_other(board):
    others = {f"/d/{other['uid']}" for other in BOARDS.values() if other is not board}
    assert {link["url"] for link in board["links"]} == others
    assert all(link["keepTime"] and link["includeVars"] for link in board["links"])
    assert set(re.findall(r"/d/[\w-]+", json.dumps(board["panels"]))) <= {f"/d/{other['uid']}" for other in BOARDS.values()}


def test_queries_parse_and_name_metrics_that_exist(board, tmp_path):
    known = promql.documented_metrics() | PROMETHEUS
    expressions = [expression for _, expression in queries(board)] + [a["expr"] for a in board["annotations"]["list"]]
    for expression in expressions:
        assert promql.metrics_of(filled_in(expression)) <= known, expression
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            series = re.fullmatch(r"label_values\((.*), \w+\)", variable["query"]["query"]).group(1)
            expressions.append(series)
            assert promql.metrics_of(filled_in(series)) <= known
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed (tools/setup/packages-test.txt)")
    rules = [{"record": f"query:{number}", "expr": filled_in(text)} for number, text in enumerate(expressions)]
    tools.run(["promtool", "check", "rules", tools.write_json(tmp_path / "rules.json", {"groups": [{"name": "x", "rules": rules}]})]).expect()


def test_provisioning_names_what_is_there():
    provider, = yaml.safe_load((FOLDER / "provisioning/dashboards/emoe.yaml").read_text(encoding="utf-8"))["providers"]
    source, = yaml.safe_load((FOLDER / "provisioning/datasources/prometheus.yaml").read_text(encoding="utf-8"))["datasources"]
    compose = yaml.safe_load((tools.ROOT / "deploy/docker/compose.yaml").read_text(encoding="utf-8"))["services"]["grafana"]
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in compose["volumes"]}
    assert mounted[provider["options"]["path"]] == "../grafana/dashboards"
    assert mounted["/etc/grafana/provisioning"] == "../grafana/provisioning"
    assert source["type"] == "prometheus" and source["url"] == "http://127.0.0.1:9090"


# ---------------------------------------------------------------- with a real Prometheus
class Prometheus:
    """As deploy/prometheus/prometheus.yml has it, on this coordinator, scraping every second."""

    def __init__(self, folder, coordinator):
        config = yaml.safe_load((RULES.parent / "prometheus.yml").read_text(encoding="utf-8"))
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(RULES)]
        for scrape in config["scrape_configs"]:
            scrape.pop("scrape_interval", None)
        text = json.dumps(config).replace("127.0.0.1:7071", coordinator.metrics_address).replace('"10s"', '"1s"')
        file = tools.write_json(folder / "prometheus.yml", json.loads(text))
        self.port = tools.reserved_port()
        self.address = f"127.0.0.1:{self.port.getsockname()[1]}"
        self.running = tools.Background(["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}",
                                         f"--web.listen-address={self.address}"], folder / "prometheus.log")

    def finds(self, expression):
        with contextlib.suppress(urllib.error.URLError):
            url = f"http://{self.address}/api/v1/query?query={urllib.parse.quote(expression)}"
            with urllib.request.urlopen(url, timeout=30) as answer:
                return any(row["value"][1] != "NaN" for row in json.load(answer)["data"]["result"])
        return False


def every_query(job_id):
    """{(board, panel or annotation, query): text to ask}."""
    asked = {}
    for name, board in BOARDS.items():
        for panel, expression in queries(board):
            asked[name, panel["title"], expression] = filled_in(expression, job_id=job_id)
        for annotation in board["annotations"]["list"]:
            asked[name, annotation["name"], annotation["expr"]] = filled_in(annotation["expr"], job_id=job_id)
    return asked


def test_every_panel_finds_data_of_the_demos_job(tmp_path):
    if not shutil.which("prometheus"):
        pytest.skip("prometheus is not installed (tools/setup/packages-test.txt)")
    spec = yaml.safe_load((tools.ROOT / "configs/demo/emoe-lora.yaml").read_text(encoding="utf-8"))
    for key, value in (("model.path", "demo/base"), ("data.train", "demo/data/train.jsonl"), ("data.eval", "demo/data/held-out.jsonl")):
        section, name = key.split(".")
        assert spec[section][name] == value
        spec[section][name] = str(tools.ROOT / value)
    with emoe_api.Coordinator(tmp_path, env={"EMOE_METRICS_EXPERTS": "1"}) as coordinator:
        server = Prometheus(tmp_path, coordinator)
        with server.port, server.running:
            tools.wait_until(lambda: server.finds("emoe_slots"), 60, "the coordinator in Prometheus, before it does anything")
            job_id = coordinator.api.create(spec).id
            empty = every_query(job_id)

            def all_found():
                coordinator.api.get(job_id)  # somebody who calls, for the panels about calls
                for key in [key for key, text in empty.items() if server.finds(text)]:
                    del empty[key]
                return {key[:2] for key in empty} <= NEED_MORE

            tools.wait_until(all_found, 180, lambda: "data of " + "\n".join(map(str, empty)))
