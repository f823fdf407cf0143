"""task: evaluate against the evaluations that training makes of the same weights, and what it leaves behind."""
import signal
import subprocess

import pytest

import emoe_tools as tools
from emoe_tools import PREEMPTED

ROWS = str(tools.FIXTURES / "rows.json")
TOLERANCE = 1e-7  # relative: the same sums over another number of ranks or other micro-batches
EMOE_LORA = {"lora__targets": tools.ALL_LINEARS, "emoe": tools.TINY_EMOE, "data__eval": ROWS}


def only_evaluation(out):
    row, = tools.read_lines(out / "eval.jsonl")
    assert set(row) == {"step", "loss", "loss_dense", "perplexity", "target_tokens"} and row["step"] == 0
    return row


def assert_same(ours, theirs):
    assert ours["target_tokens"] == theirs["target_tokens"]
    for key in ("loss", "loss_dense", "perplexity"):
        assert abs(ours[key] - theirs[key]) <= TOLERANCE * theirs[key], (key, ours, theirs)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The spec and the output folder of an EMoE run with LoRA."""
    spec = tools.tiny_job(**EMOE_LORA)
    return spec, tools.run_job(tmp_path_factory.mktemp("trained"), spec)


@pytest.mark.parametrize("ranks", [None, 2, 3])
def test_an_adapter_has_the_loss_that_its_training_saw(trained, tmp_path, ranks):
    spec, run = trained
    before, after = tools.read_lines(run / "eval.jsonl")
    assert after["loss"] != after["loss_dense"] and after["loss"] < before["loss"], "the case shows nothing"
    spec = tools.as_evaluation(spec, adapter=str(run / "export" / "adapter"), parallel__ranks=ranks or 1)
    assert_same(only_evaluation(tools.run_job(tmp_path / "after", spec, ranks=ranks)), after)
    spec = tools.changed(spec, adapter=None)
    assert_same(only_evaluation(tools.run_job(tmp_path / "before", spec, ranks=ranks)), before)


def test_a_dense_model_has_one_loss(tmp_path):
    run = tools.run_job(tmp_path / "run", tools.tiny_job(data__eval=ROWS))
    after = tools.read_lines(run / "eval.jsonl")[-1]
    spec = tools.as_evaluation(tools.tiny_job(data__eval=ROWS), model__path=str(run / "export" / "model"))
    row = only_evaluation(tools.run_job(tmp_path / "merged", spec))
    assert row["loss"] == row["loss_dense"] and abs(row["loss"] - after["loss"]) < 1e-6 * after["loss"]


def test_a_model_tuned_in_full_keeps_the_experts_it_was_tuned_with(tmp_path):
    """Its gate rows have moved: clusters of them are other experts, those of the run's partition folder are its own."""
    spec = tools.tiny_job(tuning="full", lora=None, optimizer__learning_rate=1e-2, emoe=tools.TINY_EMOE, data__eval=ROWS)
    run = tools.run_job(tmp_path / "run", spec)
    after = tools.read_lines(run / "eval.jsonl")[-1]
    spec = tools.as_evaluation(spec, model__path=str(run / "export" / "model"))
    anew = tools.run_job(tmp_path / "anew", spec)
    assert only_evaluation(anew)["loss"] != pytest.approx(after["loss"], rel=1e-3), "the case shows nothing"
    spec = tools.changed(spec, emoe__partition={"method": "file", "path": str(run / "partition")})
    assert_same(only_evaluation(tools.run_job(tmp_path / "own", spec)), after)


def test_what_it_leaves(trained, tmp_path):
    spec, run = trained
    spec = tools.as_evaluation(spec, adapter=str(run / "export" / "adapter"), parallel__ranks=2)
    out = tools.run_job(tmp_path, spec, ranks=2)
    left = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and "cache" not in path.parts}
    assert left == {".lock", "job.yaml", "data_report.json", "eval.jsonl", "warnings.json", "partition/layer_00.json",
                    "partition/layer_02.json"}
    report = tools.read_json(out / "data_report.json")
    assert report["train"] is None and report["eval"]["rows_used"] > 0
    # Again in the same folder, from the job.yaml that the first one left: the same line, once.
    first = (out / "eval.jsonl").read_bytes()
    tools.worker("run", out / "job.yaml", "--out", out, ranks=2).expect()
    assert (out / "eval.jsonl").read_bytes() == first
    other = tools.write_yaml(tmp_path / "other.yaml", tools.changed(spec, adapter=None))
    done = tools.worker("run", other, "--out", out, ranks=2).expect(tools.USAGE)
    assert "belongs to another job (the adapter has other content)" in done.text, done.text


def test_a_stop_ends_it_and_it_can_be_run_again(tmp_path):
    spec = tools.as_evaluation(tools.tiny_job(data__eval=ROWS), train__micro_batch_tokens=1)  # a forward pass a row
    rows = tools.write_json(tmp_path / "rows.json", tools.read_json(ROWS) * 200)
    job = tools.write_yaml(tmp_path / "job.yaml", tools.changed(spec, data__eval=str(rows)))
    with tools.Background(tools.worker_command("run", job, "--out", tmp_path / "out"), tmp_path / "log") as running:
        # Its files are there once it has prepared: what follows is the evaluation.
        tools.wait_until((tmp_path / "out" / "data_report.json").exists, 120, lambda: running.text)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == PREEMPTED, running.text
    assert not (tmp_path / "out" / "eval.jsonl").exists()
