"""What was dropped, changed or never trained is said: on the terminal, in warnings.json, by the coordinator and emoectl."""
import json
import shutil
import urllib.request

import pytest

import emoe_tools as tools
from emoe_tools import DATA, TINY, USAGE

ROWS = [
    {"instruction": "Count", "output": "one two"},
    {"instruction": "Count", "output": "three four", "system": "You are brief.", "history": [["Hello", "Hi"]]},
    {"instruction": "Go on", "output": "five</s>", "system": "You are brief.", "history": []},
    {"instruction": "Go on", "output": "six " * 300, "system": ""},
    {"instruction": "a very long question " * 60, "output": "short"},
]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def quiet_job(folder, **changes):
    """A job of which nothing is to be said: rows that fit, and dtypes as the base has them."""
    rows = write_rows(folder / "quiet.jsonl", [{"instruction": f"Say {i}", "output": f"{i}"} for i in range(8)])
    return tools.tiny_job(**{"data__train": rows, "data__max_length": 250, "train__max_steps": 2, **changes})


def tensor_names(model):
    with open(model / "model.safetensors", "rb") as file:
        return [name for name in json.loads(file.read(int.from_bytes(file.read(8), "little"))) if name != "__metadata__"]


def told(out):
    return tools.read_json(out / "warnings.json")


def codes(out):
    return [warning["code"] for warning in told(out)]


# ---------------------------------------------------------------- a run by itself
def test_a_job_of_which_nothing_is_to_be_said(tmp_path):
    out = tools.run_job(tmp_path, quiet_job(tmp_path, data__strict=True))
    assert told(out) == []


def test_rows_that_lose_something(tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)
    job = tools.write_yaml(tmp_path / "job.yaml", quiet_job(tmp_path, data__train=rows, train__global_batch=4))
    done = tools.worker("run", job, "--out", tmp_path / "out").expect()
    found = {(w["code"], w["where"]): (w["count"], w["first"]) for w in told(tmp_path / "out")}
    assert found == {
        ("UNREAD_KEY", 'data.train: "system"'): (2, "rows.jsonl:2"),
        ("UNREAD_KEY", 'data.train: "history"'): (1, "rows.jsonl:2"),
        ("TOKEN_AS_TEXT", 'data.train: "</s>"'): (1, "rows.jsonl:3"),
        ("ROWS_CUT", "data.train"): (1, "rows.jsonl:4"),
        ("ROWS_DROPPED", "data.train"): (1, "rows.jsonl:5")}
    for warning in told(tmp_path / "out"):
        assert done.err.count(f"warning {warning['code']}: {warning['text']}; see {warning['where']}") == 1, done.err
    # The rows come from the cache now; the list is the same, and as long.
    again = tools.worker("run", job, "--out", tmp_path / "out").expect()
    assert len(told(tmp_path / "out")) == 5 and again.err.count("\nwarning ") == 5, again.err


@pytest.mark.parametrize("ranks", [None, 2])
def test_strict_lists_all_and_trains_nothing(tmp_path, ranks):
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)
    job = tools.write_yaml(tmp_path / "job.yaml", quiet_job(
        tmp_path, data__train=rows, train__global_batch=4, parallel__ranks=ranks or 1))
    refused = tools.worker("run", job, "--out", tmp_path / "out", "--strict", ranks=ranks).expect(DATA)
    for code in ("UNREAD_KEY", "TOKEN_AS_TEXT", "ROWS_CUT", "ROWS_DROPPED"):
        assert f"({code}, an error with data.strict)" in refused.err, refused.err
    assert "system" in refused.err and "history" in refused.err and not (tmp_path / "out" / "metrics.jsonl").exists()
    assert len(told(tmp_path / "out")) == 5
    tools.worker("run", job, "--out", tmp_path / "out", ranks=ranks).expect()  # of the same job, without it


def test_a_run_that_is_all_warm_up(tmp_path):
    job = quiet_job(tmp_path, train__max_steps=1, optimizer__warmup_ratio=0.03)
    out = tools.run_job(tmp_path, job)
    assert codes(out) == ["WARMUP_ONLY", "DELTA_ZERO"]
    assert "nothing is learned" in told(out)[0]["text"]


def test_a_base_that_is_rounded(tmp_path):
    out = tools.run_job(tmp_path / "default", quiet_job(tmp_path, model__dtype=None, export__dtype=None))
    assert codes(out) == ["DEFAULT_DIFFERS"]  # rounded to compute with; the export has the base's bytes
    assert told(out)[0]["text"].startswith("30 of 30 tensors are stored in F32, and model.dtype is bfloat16 by default")
    job = quiet_job(tmp_path, model__dtype="bfloat16", export__dtype="bfloat16", data__strict=True)
    out = tools.run_job(tmp_path / "asked", job)  # an explicit choice passes data.strict
    assert codes(out) == ["BASE_ROUNDED"]
    report = tools.read_json(out / "export" / "merge_report.json")
    lost = [tensor["name"] for tensor in report["converted"] if tensor["rounding_loss"] > 0]
    assert (told(out)[0]["count"], told(out)[0]["first"]) == (len(lost), lost[0]), "as many as it said"
    strict = tools.changed(job, model__dtype=None, export__dtype=None)
    assert codes(tools.run_job(tmp_path / "silent", strict, code=DATA)) == ["DEFAULT_DIFFERS"]


def test_an_index_whose_size_is_wrong(coordinator, tmp_path):
    model = shutil.copytree(TINY, tmp_path / "model")
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    index = {"metadata": {"total_size": 7}, "weight_map": dict.fromkeys(tensor_names(TINY), "model-00001-of-00001.safetensors")}
    tools.write_json(model / "model.safetensors.index.json", index)
    spec = quiet_job(tmp_path, model__path=str(model))
    out = tools.run_job(tmp_path, spec)
    assert [(w["code"], w["where"]) for w in told(out)] == [("INDEX_SIZE", "model.safetensors.index.json")]
    checked = emoectl(coordinator, "submit", tools.write_yaml(tmp_path / "job.yaml", spec), "--validate-only").out
    assert "INDEX_SIZE" in checked and "metadata.total_size is 7, the tensors have" in checked, checked


def test_what_the_export_has_to_say_counts_too(tmp_path):
    job = quiet_job(tmp_path, optimizer__learning_rate=1e-30)  # below what a float next to the weights holds
    strict = tools.run_job(tmp_path / "strict", tools.changed(job, data__strict=True), code=DATA)
    assert codes(strict) == ["DELTA_ZERO"] and not (strict / "export").exists()
    out = tools.run_job(tmp_path / "lenient", job)
    report = tools.read_json(out / "export" / "merge_report.json")
    assert report["warnings"] == told(out) and told(out)[0]["first"] == report["trained"][0]["name"]


def test_held_out_rows_that_are_trained_on(tmp_path):
    job = quiet_job(tmp_path)
    train = [json.loads(line) for line in open(job["data"]["train"], encoding="utf-8")]
    held_out = write_rows(tmp_path / "held-out.jsonl", [{"instruction": "Say nothing", "output": "."}, *train[2:4],
                                                      {**train[4], "output": f"\t{train[4]['output']}\r\n"}])
    out = tools.run_job(tmp_path, tools.changed(job, data__eval=held_out))
    assert [(w["code"], w["count"], w["first"]) for w in told(out)] == [("EVAL_IN_TRAIN", 3, "held-out.jsonl:2")]
    copied = shutil.copy(job["data"]["train"], tmp_path / "copy.jsonl")
    out = tools.run_job(tmp_path / "copied", tools.changed(job, data__eval=str(copied)))
    assert [(w["code"], w["count"]) for w in told(out)] == [("EVAL_IN_TRAIN", 8)]


# ---------------------------------------------------------------- under a coordinator
def emoectl(coordinator, *arguments, code=0):
    return tools.run([str(a) for a in (tools.EMOECTL, "--server", coordinator.grpc_address, *arguments)]).expect(code)


def test_the_coordinator_tells_and_keeps_them(coordinator, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)
    spec = quiet_job(tmp_path, data__train=rows, train__global_batch=4, model__dtype=None)
    job = tools.write_yaml(tmp_path / "job.yaml", spec)
    early = emoectl(coordinator, "submit", job, "--validate-only").out
    for code in ("UNREAD_KEY", "DEFAULT_DIFFERS", "TOKEN_AS_TEXT", "ROWS_CUT", "ROWS_DROPPED"):
        assert code in early, early

    done = emoectl(coordinator, "submit", job, "--wait")
    every = ("DEFAULT_DIFFERS", "UNREAD_KEY", "TOKEN_AS_TEXT", "ROWS_CUT", "ROWS_DROPPED")
    for code in every:
        assert f"warning {code}: " in done.err, done.err  # at once
        assert f"\n{code} " in done.out, done.out  # and at the end
    assert done.err.index("warning UNREAD_KEY") < done.err.index("STARTING"), done.err

    job_id = next(word for word in done.err.split() if word.startswith("job-"))
    kept = json.loads(emoectl(coordinator, "-o", "json", "get", job_id).out)
    listed = [(w["code"], w["where"]) for w in kept["warnings"]]
    assert len(listed) == len(set(listed)) == 6, listed
    for code in every:
        assert f"\n{code} " in emoectl(coordinator, "get", job_id).out
    in_folder = tools.read_json(f"{kept['output_dir']}/warnings.json")
    assert sorted((w["code"], w["where"]) for w in in_folder) == sorted(listed), "the default too, that no rank can see"
    events = emoectl(coordinator, "-o", "json", "watch", job_id).out
    assert sum('"warning":' in line for line in events.splitlines()) == 6, events
    with urllib.request.urlopen(f"http://{coordinator.metrics_address}/metrics", timeout=30) as answer:
        metrics = answer.read().decode()
    assert 'emoe_job_warnings_total{code="UNREAD_KEY"} 2' in metrics, metrics


def test_the_coordinator_refuses_them_with_strict(coordinator, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)
    job = tools.write_yaml(tmp_path / "job.yaml", quiet_job(tmp_path, data__train=rows, data__eval=rows,
                                                            train__global_batch=4))
    refused = emoectl(coordinator, "submit", job, "--strict", code=USAGE)
    for word in ("INVALID_ARGUMENT", "system", "history", "UNREAD_KEY", "EVAL_IN_TRAIN"):
        assert word in refused.err, refused.err
    assert "no jobs" in emoectl(coordinator, "list").out
    # Of many rows the first are tokenised before the answer; what the others tell ends the first attempt.
    short, long = {"instruction": "Go on", "output": "six"}, {"instruction": "Go on", "output": "six " * 300}
    plain = write_rows(tmp_path / "first.jsonl", [long, *[short] * 600])
    job = tools.write_yaml(tmp_path / "first.yaml", quiet_job(tmp_path, data__train=plain, train__global_batch=4))
    refused = emoectl(coordinator, "submit", job, "--strict", code=USAGE)
    assert "1 of the first 500 rows (0.2 %) cut at data.max_length" in refused.err, refused.err
    plain = write_rows(tmp_path / "cut.jsonl", [*[short] * 600, long])
    job = tools.write_yaml(tmp_path / "cut.yaml", quiet_job(tmp_path, data__train=plain, train__global_batch=4))
    failed = emoectl(coordinator, "submit", job, "--strict", "--wait", code=DATA)
    assert "ROWS_CUT, an error with data.strict" in failed.out, failed.out
