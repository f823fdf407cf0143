"""What the coordinator plans for ten small jobs (tests/plan/plan_and_actual.py) beside what they take."""
import statistics
import time

from measure import PYTHON, ROOT, TimeIsUp, row, run_json

SECONDS = 40  # kept for it


def bench_plans(args):
    left = args.deadline - time.monotonic()
    if left < 30:
        raise TimeIsUp
    jobs = run_json([PYTHON, ROOT / "tests" / "plan" / "plan_and_actual.py", "--seconds", min(left, 2 * SECONDS)], args)
    rows = []
    for part, what, goal in (("memory", "peak memory of a rank", 0.10), ("time", "seconds, learned from one run of each", None),
                             ("disk", "export and cache", None)):
        errors = {job["name"]: abs(job[part]) for job in jobs if job[part] is not None}
        if not errors:
            print(f"NOTE: plans of {part}: not measured, time is up", flush=True)
            continue
        worst = max(errors, key=errors.get)
        rows.append(row(f"plan.{part}", f"plan against actual, {what}: the worst of {len(errors)} jobs ({worst})", errors[worst], "lower", goal))
        rows.append(row(f"plan.{part}.mean", f"plan against actual, {what}: the mean error", statistics.mean(errors.values()), "lower", None))
    return rows
