"""Small jobs run under a coordinator: what their plans said stands beside what was measured.

Peak memory of a rank is the kernel's (VmHWM), so it holds the program and its libraries, the allocator's waste and whatever
the step model forgets. The models are as large as a test may be slow, so that tensors are most of it.
"""
import argparse
import json
import pathlib
import random
import shutil
import struct
import sys
import tempfile
import time

import numpy
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import emoe_tools as tools  # noqa: E402
from emoe_api import ApiError, Coordinator  # noqa: E402

WIDE = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 8,
        "num_key_value_heads": 8, "head_dim": 64}
DEEP = {"hidden_size": 320, "intermediate_size": 896, "num_hidden_layers": 12, "num_attention_heads": 10,
        "num_key_value_heads": 2, "head_dim": 32}
EMOE = {"experts": 16, "top_k": 4, "layers": {"start": 1, "every": 2}, "partition": {"method": "contiguous"}}
LORA = {"rank": 8, "alpha": 16, "dropout": 0.0, "targets": tools.ALL_LINEARS}

JOBS = {  # name: (shape, dtype, tuning, experts, rows of a step and rank); two ranks share the weights of "sharded" ones
    "lora fp32": (WIDE, "float32", "lora", None, 3),
    "lora bf16": (WIDE, "bfloat16", "lora", None, 3),
    "full fp32": (WIDE, "float32", "full", None, 2),
    "full bf16": (WIDE, "bfloat16", "full", None, 2),
    "lora fp32 emoe": (WIDE, "float32", "lora", EMOE, 3),
    "lora bf16 emoe": (WIDE, "bfloat16", "lora", EMOE, 3),
    "full fp32 emoe": (WIDE, "float32", "full", EMOE, 2),
    "full bf16 emoe": (WIDE, "bfloat16", "full", EMOE, 2),
    "deep lora fp32": (DEEP, "float32", "lora", None, 2),
    "deep full fp32": (DEEP, "float32", "full", None, 2),
    "sharded lora fp32": (WIDE, "float32", "lora", None, 3),
    "sharded full fp32": (WIDE, "float32", "full", None, 2),
    "sharded full bf16": (WIDE, "bfloat16", "full", EMOE, 2),
    "tensor lora fp32": (WIDE, "float32", "lora", None, 3),
    "padded lora fp32": (WIDE, "float32", "lora", None, 3),
    "evaluate fp32": (WIDE, "float32", "evaluate", None, 0),
    "evaluate bf16": (WIDE, "bfloat16", "evaluate", None, 0),
    "evaluate fp32 emoe": (WIDE, "float32", "evaluate", EMOE, 0),
    "deep evaluate fp32": (DEEP, "float32", "evaluate", None, 0),
    "merge fp32": (WIDE, "float32", "merge", None, 0),
    "merge bf16": (WIDE, "bfloat16", "merge", None, 0),
    "convert fp32": (WIDE, "float32", "convert", EMOE, 0),
}


def rows(folder):
    """Rows of about 250 tokens with little in common, so that what is computed once for several is small."""
    words = random.Random(3)
    text = lambda count: " ".join(words.choice("abcdefgh") * 2 for _ in range(count))
    return tools.write_json(folder / "rows.json", [{"prompt": text(40), "completion": text(80)} for _ in range(10)])


def model(folder, shape, dtype):
    """A folder with small random weights, stored in the dtype that they are computed in."""
    folder = folder / f"{shape['hidden_size']}-{dtype}"
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    config = {**tools.read_json(tools.TINY / "config.json"), **shape, "max_position_embeddings": 512, "dtype": dtype}
    tools.write_json(folder / "config.json", config)
    shutil.copy(tools.TINY / "tokenizer.model", folder)
    hidden, inner, keys = shape["hidden_size"], shape["intermediate_size"], shape["num_key_value_heads"] * shape["head_dim"]
    linears = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (keys, hidden), "self_attn.v_proj": (keys, hidden),
               "self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
               "mlp.down_proj": (hidden, inner), "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "lm_head.weight": (config["vocab_size"], hidden),
              "model.norm.weight": (hidden,)}
    for layer in range(shape["num_hidden_layers"]):
        shapes.update({f"model.layers.{layer}.{name}.weight": size for name, size in linears.items()})
    draw, header, data, at = numpy.random.default_rng(1), {"__metadata__": {"format": "pt"}}, [], 0
    for name, size in shapes.items():
        values = (draw.standard_normal(size, dtype=numpy.float32) * 0.02 + (len(size) == 1)).view(numpy.uint32)
        raw = values.tobytes() if dtype == "float32" else (values >> 16).astype(numpy.uint16).tobytes()
        header[name] = {"dtype": "F32" if dtype == "float32" else "BF16", "shape": size, "data_offsets": [at, at + len(raw)]}
        data.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))
    return folder


def other_task(name, folder):
    """An evaluation, a merge of an adapter that was trained before, a model with its experts' neurons side by side."""
    shape, dtype, task, experts, _ = JOBS[name]
    spec = {"name": name, "task": task, "model": {"path": str(model(folder, shape, dtype))},
            "resources": {"device": "cpu", "threads_per_rank": 1}}
    if task == "evaluate":
        spec["model"]["dtype"] = dtype
        spec["data"] = {"eval": str(folder / "rows.json"), "format": "completion", "max_length": 256}
        spec["train"] = {"micro_batch_tokens": 1024}
        if experts:
            spec["emoe"] = experts
    if task == "merge":
        spec["adapter"] = str(folder / f"adapter-{dtype}")
    if task == "convert":
        spec["emoe"] = {key: value for key, value in experts.items() if key != "top_k"}
        spec["export"] = {"original_order": False}
    return spec


def job_of(name, folder):
    shape, dtype, tuning, experts, batch = JOBS[name]
    if tuning not in ("lora", "full"):
        return other_task(name, folder)
    sharded, tensor = name.startswith("sharded"), 2 if name.startswith("tensor") else 1
    ranks = 2 if sharded or tensor > 1 else 1
    return tools.tiny_job(
        name=name, model={"path": str(model(folder, shape, dtype)), "dtype": dtype},
        data={"train": str(folder / "rows.json"), "format": "completion", "max_length": 256,
              "packing": not name.startswith("padded")}, tuning=tuning,
        lora=LORA if tuning == "lora" else None, emoe=experts, export={"merged": False, "adapter": tuning == "lora"},
        train={"max_steps": 1, "global_batch": batch * ranks}, optimizer=None,
        parallel={"ranks": ranks, "shard_base": sharded, "tensor": tensor})


def run_all(api, folder, names):
    """{name: job} of all that ran; what a merge merges is trained before it."""
    first = {name: api.create(job_of(name, folder)).id for name in names if JOBS[name][2] != "merge"}
    jobs = {name: api.succeed(job_id) for name, job_id in first.items()}
    for dtype, short in (("float32", "fp32"), ("bfloat16", "bf16")):
        adapter = folder / f"adapter-{dtype}"
        if not adapter.exists() and f"lora {short}" in jobs:
            adapter.symlink_to(pathlib.Path(jobs[f"lora {short}"].output_dir) / "export" / "adapter")
    last = {name: api.create(job_of(name, folder)).id for name in names if name not in jobs}
    return jobs | {name: api.succeed(job_id) for name, job_id in last.items()}


def off(planned, measured):
    return planned / measured - 1 if planned and measured else None


def print_table(jobs):
    # Of the memory by component what is most: the rest is in `emoectl plan`.
    print(f"\n{'job':20}{'ranks':>6}{'planned MiB':>12}{'measured':>9}{'off':>9}{'s planned':>10}{'measured':>9}{'disk KiB':>9}{'measured':>9}"
          "   program base trained gradients optimizer activations workspace gathered exporting")
    for name, job in jobs.items():
        memory, taken = job.plan.memory, job.measured
        disk = job.plan.disk.export_bytes + job.plan.disk.cache_bytes
        parts = (memory.program, memory.base, memory.trained, memory.gradients, memory.optimizer, memory.activations,
                 memory.workspace, memory.gathered, memory.exporting)
        seconds = f"{job.plan.time.seconds:.1f}" if job.plan.HasField("time") else "unknown"
        print(f"{name:20}{memory.ranks:>6}{memory.rank_bytes / 2**20:>12.0f}{taken.rank_bytes / 2**20:>9.0f}"
              f"{100 * off(memory.rank_bytes, taken.rank_bytes):>+7.1f} %{seconds:>10}{taken.seconds:>9.1f}"
              f"{disk / 1024:>9.0f}{(taken.export_bytes + taken.cache_bytes) / 1024:>9.0f}   "
              + " ".join(f"{part / 2**20:.0f}" for part in parts))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """{name: job} of all that ran, two at a time."""
    folder = tmp_path_factory.mktemp("plans")
    rows(folder)
    with Coordinator(folder, slots=2, env={"EMOE_FFN": "masked"}) as coordinator:
        yield coordinator.api, folder, run_all(coordinator.api, folder, JOBS)


def test_peak_memory_is_as_planned(finished):
    *_, jobs = finished
    print_table(jobs)
    errors = {name: off(job.plan.memory.rank_bytes, job.measured.rank_bytes) for name, job in jobs.items()}
    assert all(abs(error) <= 0.10 for error in errors.values()), errors


def test_work_and_files_are_as_planned(finished):
    *_, jobs = finished
    for name, job in jobs.items():
        if JOBS[name][2] in ("merge", "convert"):
            assert not job.plan.HasField("work"), name
            continue
        assert job.plan.work.exact, name
        assert job.plan.work.steps == job.progress.step, name
        if JOBS[name][2] == "evaluate":
            assert job.plan.work.target_tokens == job.eval_last.target_tokens, name
        else:
            assert job.plan.work.tokens == job.measured.tokens, name
    with_export = [job for job in jobs.values() if job.measured.export_bytes]
    assert with_export
    for job in with_export:  # an adapter, and the files beside it
        assert job.plan.disk.export_bytes == pytest.approx(job.measured.export_bytes, rel=0.1), job.name


def test_times_are_learned(finished):
    api, folder, jobs = finished
    assert not jobs["lora fp32"].plan.HasField("time"), "nothing had finished when it was submitted"
    plan = api.call("PlanJob", spec=api.spec(job_of("lora fp32", folder))).plan
    kind = jobs["lora fp32"].measured.machine
    assert plan.time.machine == kind
    trainings = [job for name, job in jobs.items() if JOBS[name][2] in ("lora", "full")]
    assert plan.time.learned_from == sum(job.measured.machine == kind for job in trainings)
    taken = jobs["lora fp32"].measured.seconds
    print(f"\nestimated {plan.time.seconds:.2f} s, said to be off by {100 * plan.time.relative_error:.0f} %; took {taken:.2f} s")
    for name in ("evaluate fp32", "merge fp32"):  # each task learns from its own
        of_task = api.call("PlanJob", spec=api.spec(job_of(name, folder))).plan.time
        assert of_task.machine == f"{jobs[name].measured.machine}, {JOBS[name][2]}" and of_task.learned_from >= 1, name
        assert jobs[name].measured.seconds / 10 < of_task.seconds < jobs[name].measured.seconds * 10, name
    # Two at a time on a machine with other work: the order of magnitude is what holds.
    assert taken / 10 < plan.time.seconds < taken * 10
    assert 0 <= plan.time.relative_error < 10
    assert plan.queue.position == 1 and plan.queue.jobs_ahead == 0 and plan.queue.HasField("start_time")


def test_a_job_that_cannot_fit_is_refused_with_both_numbers(tmp_path):
    rows(tmp_path)
    with Coordinator(tmp_path / "small", slots=1, slots__host_memory=300 << 20) as coordinator:
        api = coordinator.api
        with pytest.raises(ApiError) as refused:
            api.create(job_of("full fp32", tmp_path))
        error = refused.value
        assert (error.code, error.reason) == ("FAILED_PRECONDITION", "MODEL_DOES_NOT_FIT"), str(error)
        plan = api.call("PlanJob", spec=api.spec(job_of("full fp32", tmp_path))).plan
        assert error.metadata == {"needed_bytes": str(plan.memory.rank_bytes), "available_bytes": str(300 << 20)}
        assert not api.call("ListJobs").jobs, "nothing was stored"


TEN = ("lora fp32", "lora bf16", "full fp32", "full bf16", "lora fp32 emoe", "sharded lora fp32", "padded lora fp32", "evaluate fp32",
       "merge fp32", "convert fp32")


def main():
    """Ten jobs one after the other, twice: the second time their times have been learned. Prints the table and, last, a line of JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="no second round that would end later than this")
    options = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="emoe-plans-") as name:
        folder = pathlib.Path(name)
        rows(folder)
        with Coordinator(folder, slots=2, env={"EMOE_FFN": "masked"}) as coordinator:
            jobs = run_all(coordinator.api, folder, TEN)
            if 2.2 * (time.monotonic() - begin) < options.seconds:
                jobs = run_all(coordinator.api, folder, TEN)
            print_table(jobs)
    disk = lambda plan, taken: off(plan.export_bytes + plan.cache_bytes, taken.export_bytes + taken.cache_bytes)
    print(json.dumps([{"name": name, "memory": off(job.plan.memory.rank_bytes, job.measured.rank_bytes),
                       "time": off(job.plan.time.seconds, job.measured.seconds), "disk": disk(job.plan.disk, job.measured)}
                      for name, job in jobs.items()]))


if __name__ == "__main__":
    main()
