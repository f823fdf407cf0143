"""task: evaluate through the service: what admission asks for, what a success shows, how it is stopped."""
import pathlib
import re
import shutil
import urllib.request

import pytest

import emoe_tools as tools
from emoe_api import ApiError, Coordinator

ROWS = str(tools.FIXTURES / "rows.json")
ADAPTER = tools.FIXTURES / "emoe-lora" / "final_adapter"


def evaluation(**changes):
    return tools.as_evaluation(tools.tiny_job(data__eval=ROWS), **{"adapter": str(ADAPTER), "emoe": tools.TINY_EMOE, **changes})


def emoectl(coordinator, *arguments, code=0):
    return tools.run([tools.EMOECTL, "--server", coordinator.grpc_address, *arguments]).expect(code)


@pytest.fixture(scope="module")
def finished(shared_coordinator):
    api = shared_coordinator.api
    job = api.create(evaluation(parallel__ranks=2))
    return api.succeed(job.id)


def test_a_success_is_an_evaluation(shared_coordinator, finished, tmp_path):
    api, out = shared_coordinator.api, pathlib.Path(finished.output_dir)
    assert api.reason_name(finished.reason) == "REASON_COMPLETED" and not finished.HasField("merge")
    row, = tools.read_lines(out / "eval.jsonl")
    shown = finished.eval_last
    assert (shown.step, shown.loss, shown.loss_dense, shown.perplexity, shown.target_tokens) == tuple(row.values())
    assert shown.loss != shown.loss_dense, "the experts change nothing"
    assert not (out / "export").exists() and not (out / "metrics.jsonl").exists() and not (out / "checkpoints").exists()
    # The worker alone, on another number of ranks.
    alone, = tools.read_lines(tools.run_job(tmp_path, evaluation()) / "eval.jsonl")
    assert abs(alone["loss"] - row["loss"]) < 1e-7 * row["loss"]
    assert abs(alone["loss_dense"] - row["loss_dense"]) < 1e-7 * row["loss_dense"]


def test_every_call_shows_it(shared_coordinator, finished):
    api = shared_coordinator.api
    listed = api.call("ListMetrics", id=finished.id)
    assert list(listed.evals) == [finished.eval_last] and not listed.steps
    events = api.events(finished.id)
    assert [e.eval for e in events if e.WhichOneof("kind") == "eval"] == [finished.eval_last]
    assert {e.phase.phase for e in events if e.WhichOneof("kind") == "phase"} == {"prepare", "evaluate"}
    shown = emoectl(shared_coordinator, "get", finished.id).out
    assert "held-out:" in shown and "held-out, " not in shown and "perplexity" in shown, shown
    assert "HELD-OUT LOSS" in (table := emoectl(shared_coordinator, "metrics", finished.id).out) and "GRAD" not in table


def test_submitted_and_waited_for(shared_coordinator, tmp_path):
    job = tools.write_yaml(tmp_path / "job.yaml", evaluation(emoe=None))
    done = emoectl(shared_coordinator, "submit", job, "--wait")
    assert "evaluation" in done.err and "perplexity" in done.text, done.text


def write_suite(folder):
    """Two subjects of three questions, the first of which is to be asked with one shot."""
    for part, count in (("dev", 1), ("test", 3)):
        for subject in ("cats", "dogs"):
            (folder / part).mkdir(parents=True, exist_ok=True)
            (folder / part / f"{subject}_{part}.csv").write_text(
                "".join(f'"What runs, {i}?",The {subject},A stone,A tree,Bread,{"ABCD"[i]}\r\n' for i in range(count)))
    return folder


def test_a_training_asks_its_suite_before_and_after(shared_coordinator, tmp_path):
    suite = {"path": str(write_suite(tmp_path / "suite")), "shots": 1}
    spec = tools.tiny_job(name="asks", data__eval=ROWS, evaluate=suite, train__eval_every=2, parallel__ranks=2)
    job = tools.write_yaml(tmp_path / "job.yaml", spec)
    done = emoectl(shared_coordinator, "submit", job, "--wait")
    # The table at the end: before, after, and the change, of the suite, its subjects and the held-out rows.
    for what in ("mmlu/test, 1 shots, 6 questions", "BEFORE", "AFTER", "CHANGE", "held-out loss", "mean of subjects", "cats", "dogs"):
        assert what in done.text, done.text
    assert re.search(r"mmlu +\d+\.\d\d % +\d+\.\d\d % +[+-]\d+\.\d\d %", done.text), done.text
    api = shared_coordinator.api
    finished = next(j for j in api.call("ListJobs").jobs if j.name == "asks")
    lines = tools.read_lines(pathlib.Path(finished.output_dir) / "eval.jsonl")
    assert [line["step"] for line in lines] == [0, 2, 4]
    listed = api.call("ListMetrics", id=finished.id).evals
    assert [e.step for e in listed] == [0, 2, 4]
    for line, each in zip(lines, listed, strict=True):
        assert each.suite.suite == "mmlu" and (each.suite.shots, each.suite.scored) == (1, 6)
        assert (line["accuracy"], line["accuracy_dense"]) == (each.suite.accuracy, each.suite.accuracy_dense)
        assert [s.name for s in each.suite.subjects] == ["cats", "dogs"]
    job = api.get(finished.id)
    assert (job.eval_first, job.eval_last) == (listed[0], listed[2])
    shown = emoectl(shared_coordinator, "get", "asks").out
    assert "BEFORE" in shown and "mmlu" in shown, shown
    assert "ACCURACY" in emoectl(shared_coordinator, "metrics", finished.id).out
    report = tools.read_json(pathlib.Path(finished.output_dir) / "evaluation.json")
    assert report["accuracy"] == lines[-1]["accuracy"] and len(report["questions"]) == 6


def test_a_suite_s_accuracy_is_a_metric_of_its_run(shared_coordinator, tmp_path):
    """As a Prometheus sees it between the last evaluation and the end of the run."""
    suite = {"path": str(write_suite(tmp_path / "suite")), "shots": 0}
    holds = tools.Holds(tmp_path / "holds", "export")
    with Coordinator(tmp_path / "state", env=holds.env) as coordinator:
        api = coordinator.api
        job = api.create(tools.tiny_job(evaluate=suite))
        tools.wait_until(lambda: api.get(job.id).progress.phase == "export", 120, lambda: api.get(job.id))
        rank = api.get(job.id).attempts[0].ranks[0].metrics_address
        text = urllib.request.urlopen(f"http://{rank}/metrics", timeout=10).read().decode()
        value = float(re.search(r'^emoe_eval_accuracy\{[^}]*suite="mmlu"[^}]*\} (\S+)$', text, re.M).group(1))
        assert value == api.call("ListMetrics", id=job.id).evals[-1].suite.accuracy
        assert "emoe_eval_accuracy_subject_mean{" in text and "emoe_eval_accuracy_dense{" in text
        holds.release("export")
        api.succeed(job.id)


def test_a_cancelled_evaluation(shared_coordinator, tmp_path):
    api = shared_coordinator.api
    rows = tools.write_json(tmp_path / "rows.json", tools.read_json(ROWS) * 500)
    job = api.create(evaluation(data__eval=str(rows), train__micro_batch_tokens=1, parallel__ranks=2))
    tools.wait_until(lambda: api.get(job.id).progress.phase == "evaluate", 120, lambda: api.get(job.id))
    api.call("CancelJob", id=job.id)
    ended = api.wait(job.id)
    assert api.state_name(ended.state) == "CANCELLED" and not ended.HasField("eval_last")


def test_a_long_evaluation_shows_how_far_it_is(shared_coordinator, tmp_path):
    api = shared_coordinator.api
    rows = tools.write_json(tmp_path / "rows.json", tools.read_json(ROWS) * 400)
    job = api.create(evaluation(data__eval=str(rows), train__micro_batch_tokens=1))
    seen = tools.wait_until(lambda: api.get(job.id).progress.phase_percent, 120, lambda: api.get(job.id))
    assert 0 < seen < 100
    shown = emoectl(shared_coordinator, "get", job.id).out
    assert re.search(r"progress: +evaluate [1-9][0-9]?%\n", shown), shown
    api.call("CancelJob", id=job.id)
    api.wait(job.id)
    events = [e for e in api.events(job.id) if e.WhichOneof("kind") == "phase" and e.phase.percent]
    assert [e.phase.percent for e in events] == sorted({e.phase.percent for e in events})
    made_anew = [e for e in api.events(job.id) if e.WhichOneof("kind") == "log" and "experts are made anew" in e.log.text]
    assert len(made_anew) == 1


def test_a_stopped_evaluation_does_not_promise_to_go_on(tmp_path):
    rows = tools.write_json(tmp_path / "rows.json", tools.read_json(ROWS) * 400)
    spec = evaluation(data__eval=str(rows), train__micro_batch_tokens=1)
    job = tools.write_yaml(tmp_path / "job.yaml", spec)
    with tools.Background(tools.worker_command("run", job, "--out", tmp_path / "out"), tmp_path / "log", tools.new_marker()) as run:
        tools.wait_until(lambda: "experts are made anew" in (tmp_path / "log").read_text(), 60, "the evaluation")
        run.process.terminate()
        assert run.process.wait(60) == tools.PREEMPTED
    assert "nothing is kept: started again it begins anew" in (tmp_path / "log").read_text()


def violations(coordinator, spec):
    with pytest.raises(ApiError) as caught:
        coordinator.api.create(spec, validate_only=True)
    assert caught.value.code == "INVALID_ARGUMENT", caught.value
    return dict(caught.value.violations)


def test_what_is_refused(shared_coordinator, tmp_path):
    assert violations(shared_coordinator, evaluation(data__eval=None)) == {"data.eval": "is required for task: evaluate (rows), or evaluate.path (a suite)"}
    found = violations(shared_coordinator, evaluation(optimizer={"learning_rate": 1e-3}, train__epochs=2, data__train=ROWS))
    assert found == {key: "is not used by task: evaluate; leave it out" for key in ("optimizer", "train.epochs", "data.train")}
    assert "adapter" in violations(shared_coordinator, evaluation(adapter=str(tmp_path / "nowhere")))
    adapter = shutil.copytree(ADAPTER, tmp_path / "adapter")
    config = tools.read_json(adapter / "adapter_config.json")
    tools.write_json(adapter / "adapter_config.json", {**config, "use_dora": True})
    assert "use_dora" in violations(shared_coordinator, evaluation(adapter=str(adapter)))["adapter"]
    (adapter / "adapter_model.safetensors").unlink()
    tools.write_json(adapter / "adapter_config.json", config)
    assert "adapter_model.safetensors" in violations(shared_coordinator, evaluation(adapter=str(adapter)))["adapter"]


def test_an_adapter_of_another_model(shared_coordinator, tmp_path):
    adapter = shutil.copytree(ADAPTER, tmp_path / "adapter")
    config = tools.read_json(adapter / "adapter_config.json")
    tools.write_json(adapter / "adapter_config.json", {**config, "target_modules": ["q_proj"]})
    said = "more are in the adapter, but not among the model's target_modules"
    assert said in violations(shared_coordinator, evaluation(adapter=str(adapter)))["adapter"]
    job = tools.write_yaml(tmp_path / "job.yaml", evaluation(adapter=str(adapter)))
    assert said in tools.worker("run", job, "--out", tmp_path / "out").expect(tools.DATA).err


def test_the_worker_alone_says_the_same(tmp_path):
    job = tools.write_yaml(tmp_path / "job.yaml", evaluation(checkpoint={"keep": 2}, data__eval=None))
    done = tools.worker("run", job, "--out", tmp_path / "out").expect(tools.USAGE)
    assert "job.yaml:" in done.err and "checkpoint: is not used by task: evaluate" in done.err, done.err
    assert "data.eval: is required for task: evaluate" in done.err, done.err
    job = tools.write_yaml(tmp_path / "job.yaml", evaluation(adapter=str(tmp_path / "nowhere")))
    done = tools.worker("run", job, "--out", tmp_path / "out").expect(tools.USAGE)
    assert "nowhere" in done.err, done.err
    assert not (tmp_path / "out" / "eval.jsonl").exists()
