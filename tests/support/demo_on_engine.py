"""What is to hold for the demo's EMoE job on every engine: what a client sees of it."""
import pathlib

import yaml

import emoe_tools as tools


def demo_job(steps, every):
    """`steps` steps with a checkpoint after `every` of them."""
    spec = yaml.safe_load((tools.ROOT / "configs" / "demo" / "emoe-lora.yaml").read_text())
    paths = {f"{part}__{key}": str(tools.ROOT / spec[part][key])
             for part, key in (("model", "path"), ("data", "train"), ("data", "eval"))}
    return tools.changed(spec, train__max_steps=steps, train__log_every=1, checkpoint={"every_steps": every}, **paths)


def check_events(api, job, steps, every):
    events = api.events(job.id)
    assert [e.sequence for e in events] == list(range(1, len(events) + 1))
    states = [api.state_name(e.state_change.to) for e in events if e.WhichOneof("kind") == "state_change"]
    assert states == ["QUEUED", "STARTING", "RUNNING", "EXPORTING", "SUCCEEDED"]
    assert [e.step.step for e in events if e.WhichOneof("kind") == "step"] == list(range(steps))
    assert [e.eval.step for e in events if e.WhichOneof("kind") == "eval"] == [0, steps]
    assert [e.checkpoint.step for e in events if e.WhichOneof("kind") == "checkpoint"] == list(range(every, steps + 1, every))
    assert sum(e.WhichOneof("kind") == "merge" for e in events) == 1


def check_job(api, job, steps):
    assert api.reason_name(job.reason) == "REASON_COMPLETED" and job.progress.step == job.progress.steps_planned == steps
    assert len(job.attempts) == 1 and sorted(r.rank for r in job.attempts[0].ranks) == [0, 1]
    assert all(r.world_size == 2 and r.pid > 0 and r.host for r in job.attempts[0].ranks)
    assert job.eval_last.loss < job.eval_first.loss and job.merge.verified
    logs = api.call("GetJobLogs", id=job.id).text
    assert "[0] " in logs, logs


def check_metrics(api, job):
    listed = api.call("ListMetrics", id=job.id, page_size=1000)
    lines = tools.read_lines(f"{job.output_dir}/metrics.jsonl")
    numbers = ("step", "loss", "learning_rate", "grad_norm", "tokens", "target_tokens")
    assert [tuple(getattr(s, n) for n in numbers) for s in listed.steps] == [tuple(row[n] for n in numbers) for row in lines]


def check_export(job):
    out = pathlib.Path(job.output_dir)
    report = tools.read_json(out / "export" / "merge_report.json")
    assert report["tensors_changed"] == job.merge.tensors_changed > 0
    assert (out / "export" / "adapter").is_dir() and len(list((out / "partition").iterdir())) > 0
