"""A job that may do with fewer ranks: what is to hold of it on every engine."""
import pathlib
import re

import numpy as np
from safetensors.numpy import load_file

import emoe_tools as tools
from fault_support import STEPS, hurt_job, undisturbed_run

# Equal to rounding: another number of ranks is another order of the sums, nothing else. All experts are chosen: rounding that
# turns a choice between two that are as good would set the run on another course.
EVERY_EXPERT = {"emoe": {**tools.TINY_EMOE, "top_k": tools.TINY_EMOE["experts"]}}


def elastic_job(**changes):
    return hurt_job(parallel__min_ranks=1, **EVERY_EXPERT, **changes)


def undisturbed_elastic_run(folder):
    return undisturbed_run(folder, **EVERY_EXPERT)


def assert_equal_to_rounding(out, undisturbed):
    ours, theirs = tools.read_lines(out / "metrics.jsonl"), tools.read_lines(undisturbed / "metrics.jsonl")
    assert [r["step"] for r in ours] == list(range(STEPS))
    for a, b in zip(ours, theirs):
        assert abs(a["loss"] - b["loss"]) <= 1e-5 * b["loss"], (a, b)
    assert exported_distance(out, undisturbed) <= 2e-2


def exported_distance(out, other):
    """The worst tensor's distance between two merged models, as a fraction of what training changed in it."""
    base, ours, theirs = (load_file(folder / "model.safetensors")
                          for folder in (tools.TINY, out / "export" / "model", other / "export" / "model"))
    changed = [name for name in base if not np.array_equal(base[name], theirs[name])]
    assert len(changed) == 3 * len(tools.ALL_LINEARS), changed
    assert all(np.array_equal(ours[name], base[name]) for name in base if name not in changed)
    return max(np.linalg.norm(ours[name] - theirs[name]) / np.linalg.norm(theirs[name] - base[name]) for name in changed)


def of_attempt(api, job_id, number, step, timeout=60):
    """The job once this attempt has done `step` steps. (Its progress is the earlier attempt's until then.)"""
    def reached():
        done = [s.step for s in api.call("ListMetrics", id=job_id, page_size=10000).steps if s.attempt == number]
        return api.get(job_id) if done and max(done) >= step - 1 else None

    return tools.wait_until(reached, timeout, lambda: f"attempt {number} at step {step}\n{api.get(job_id)}")


def check_shrunk_and_grown(coordinator, job_id, undisturbed, attempts):
    """`attempts`: how many ranks those that trained had, and the step each went on from."""
    api = coordinator.api
    job = api.succeed(job_id)
    assert [(a.world_size, a.resumed_from_step) for a in job.attempts if a.ranks] == attempts, job.attempts
    ends = [begin for _, begin in attempts[1:]] + [STEPS]
    ranks = [count for (count, begin), end in zip(attempts, ends) for _ in range(begin, end)]
    assert [r["ranks"] for r in tools.read_lines(pathlib.Path(job.output_dir) / "metrics.jsonl")] == ranks
    assert [s.ranks for s in api.call("ListMetrics", id=job_id, page_size=10000).steps] == ranks
    told = [e.state_change.message for e in api.events(job_id) if e.HasField("state_change")]
    narrow = sum(count < 2 for count, _ in attempts)
    assert [m for m in told if m.startswith("runs with")] == \
        ["runs with 1 of 2 ranks: there are no slots for more now"] * narrow, told
    shown = tools.run([tools.EMOECTL, "--server", coordinator.grpc_address, "get", job_id]).expect().out
    assert len(re.findall(r" ago +1 of 2 ", shown)) == narrow, shown  # in the attempts' column of ranks
    assert_equal_to_rounding(pathlib.Path(job.output_dir), undisturbed)
    return job
