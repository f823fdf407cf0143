#!/usr/bin/env python3
"""The golden cases against the real worker: tokens, partitions, logits, training at several numbers of ranks, merges.

    golden.py own|shared [--full] [--only NAME]

`own` are the cases of tests/reference/data, `shared` those of EMOE_SHARED/reference/golden (not part of the
repository: see tests/support/emoe_tools.py; skipped where they are absent). The table of deviations goes to
build/reports/golden-<which>.md. By default each training case runs on one rank and in two of four configurations of ranks,
packing, micro-batch sizes and sharding, the next case in the other two; --full (make test-full) runs every combination, its
table is golden-<which>-full.md.
"""
import argparse
import concurrent.futures
import itertools
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import emoe_tools as tools  # noqa: E402
import compare  # noqa: E402
from cases import find_cases  # noqa: E402
from tolerances import Table, relative  # noqa: E402

# How many cases there are: a folder that lost some, or a wrong folder, must not pass.
EXPECTED_CASES = {"own": 9, "shared": 20}
# (ranks, packing, micro_batch_tokens, shard_base, tensor): no mpirun for None; 0: as the worker chooses.
CONFIGURATIONS = [(None, False, 0, False, 1), (2, True, 600, False, 1), (4, False, 256, False, 2), (4, True, 0, True, 2),
                  (2, False, 256, True, 1)]
ALL_CONFIGURATIONS = [configuration for configuration in itertools.product((None, 2, 4), (False, True), (0, 256, 1000), (False, True), (1, 2))
                      if configuration[0] or configuration[3:] == (False, 1)]


def describe(configuration):
    ranks, packing, micro, shard, tensor = configuration
    return (f"{ranks or 1} rank{'s' if (ranks or 1) > 1 else ''}, {'packed' if packing else 'padded'}, "
            f"micro {micro or 'auto'}{', sharded' if shard else ''}{f', tensor {tensor}' if tensor > 1 else ''}")


# What ctest gives this program (PROCESSORS).
CORES = 2


class Runner:
    def __init__(self, table, folder, full):
        self.table, self.folder = table, pathlib.Path(folder)
        self.full = full
        self.trained = 0  # cases so far
        self.steps = []

    def step(self, case, configuration, work, ranks=1):
        """One row of the table, and how many ranks its worker has."""
        self.steps.append((case, configuration, work, ranks))

    def run(self, cases):
        """Steps of one rank side by side, then those of several, each by itself."""
        for case in cases:
            getattr(self, "run_" + case.command)(case)
        single = [number for number, step in enumerate(self.steps) if step[-1] == 1]
        with concurrent.futures.ThreadPoolExecutor(CORES) as pool:
            list(pool.map(self.run_step, single))
        for number in sorted(set(range(len(self.steps))) - set(single)):
            self.run_step(number)
        names = [case.name for case in cases]
        self.table.rows.sort(key=lambda row: names.index(row[0]))

    def run_step(self, number):
        """An assertion fails the row, not the run."""
        case, configuration, work, _ = self.steps[number]
        folder = self.folder / f"{case.name}-{number}"
        folder.mkdir()
        begin = time.monotonic()
        try:
            outcome = work(folder)
        except (AssertionError, OSError, LookupError, TypeError, ValueError) as error:
            self.table.fail(case.name, configuration, f"{type(error).__name__}: {error}")
            return
        deviations, note = outcome if isinstance(outcome, tuple) else (outcome, "")
        self.table.add(case.name, configuration, deviations, time.monotonic() - begin, note)

    def run_tokenize(self, case):
        self.step(case, "tokenize", lambda folder: compare.tokenize(case, folder))

    def run_partition(self, case):
        self.step(case, "k-means, 10 restarts", lambda folder: compare.partition(case, folder))

    def run_forward(self, case):
        selectors = case.config.get("selectors", [])
        for selector in ["dense", *selectors]:
            self.step(case, selector, lambda folder, s=selector: compare.forward(case, folder, s))
        if selectors:
            self.step(case, "k = N", lambda folder: compare.all_experts_equal_dense(case, folder))

    def configurations(self):
        if self.full:
            return ALL_CONFIGURATIONS
        self.trained += 1
        return CONFIGURATIONS[:1] + CONFIGURATIONS[1 + self.trained % 2::2]

    def tensor_of(self, case, wanted):
        """So many ranks share each layer, or one where the experts are no multiple of them."""
        experts = case.job(self.folder).get("emoe", {}).get("experts", 0)
        return wanted if experts % wanted == 0 else 1

    def run_train(self, case):
        for *others, tensor in self.configurations():
            configuration = (*others, self.tensor_of(case, tensor))
            self.step(case, describe(configuration), lambda folder, c=configuration: self.train(case, folder, c),
                      configuration[0] or 1)
        self.step(case, "step 0", lambda folder: self.first_step(case, folder))
        for ranks, tensor in ((None, 1), (2, 1), (2, 2)):
            if self.tensor_of(case, tensor) != tensor:
                continue
            shared = f", tensor {tensor}" if tensor > 1 else ""
            self.step(case, f"task: evaluate, {ranks or 1} rank{'s' if ranks else ''}{shared}",
                      lambda folder, ranks=ranks, tensor=tensor: self.evaluate(case, folder, ranks, tensor), ranks or 1)

    def evaluate(self, case, folder, ranks, tensor):
        spec = tools.changed(case.evaluation(folder), parallel__ranks=ranks or 1, parallel__tensor=tensor,
                             data__packing=ranks is not None)
        row, = tools.read_lines(tools.run_job(folder, spec, ranks=ranks) / "eval.jsonl")
        return {"evaluation loss": compare.evaluation(row, case.result["eval_final"])}

    def train(self, case, folder, configuration):
        ranks, packing, micro, shard, tensor = configuration
        micro = max(micro, case.config["max_length"]) if micro else 0
        spec = tools.changed(case.job(folder), parallel__ranks=ranks or 1, parallel__shard_base=shard, parallel__tensor=tensor,
                             data__packing=packing, train__micro_batch_tokens=micro)
        out = tools.run_job(folder, spec, ranks=ranks)
        return compare.training(case, out, compare.prompt_after_training(case, folder, out))

    def first_step(self, case, folder):
        """Each tensor's gradient norm at step 0, read from Adam's first moment in the checkpoint after it: (1 - beta1) g
        where nothing is clipped; and the experts' loads of that step."""
        spec = tools.changed(case.job(folder), train__max_steps=1, checkpoint__every_steps=1, optimizer__max_grad_norm=0,
                             data__eval=None)
        out = tools.run_job(folder, spec)
        golden = case.result["first_step_grad_norms"]
        ours = compare.first_step_gradient_norms(out, golden, beta1=0.9)
        floor = 1e-6 * max(golden.values())
        deviations = {"tensor gradient norm": max(relative(ours[n], g) if g > floor else ours[n] for n, g in golden.items())}
        if "first_step_expert_tokens" in case.result:
            stats = tools.read_json(out / "expert_stats.json")
            selections = {str(layer["layer"]): layer["selections"] for layer in stats["layers"]}
            deviations["expert tokens"] = sum(
                abs(a - b) for l, row in case.result["first_step_expert_tokens"].items()
                for a, b in zip(selections[l], row, strict=True))
        return deviations

    def run_merge(self, case):
        golden, ids = case.tensors("logits.safetensors"), case.result["ids"]
        model, adapter = case.path("model"), case.path("adapter")

        def logits(folder):
            on = compare.logits(folder, model, ids, "--adapter", adapter)["logits"]
            merged = compare.logits(folder, case.folder / "merged", ids)["logits"]
            return {"logits": max(compare.worst(on, golden["adapter_on"]), compare.worst(merged, golden["merged"]))}

        def export(folder):
            """One step at rate 0 (warm-up) from the golden adapter leaves it as it is; its export is the merge."""
            source = next(c for c in find_cases(case.folder.parent) if c.name == adapter.parent.name)
            spec = tools.changed(source.job(folder), train__max_steps=1, optimizer__warmup_ratio=0.99,
                                 lora__init_adapter=str(adapter), data__eval=None)
            out = tools.run_job(folder, spec)
            ours = compare.logits(folder, out / "export" / "model", ids)["logits"]
            return {"logits": compare.worst(ours, golden["merged"]), **compare.merged_export(case, out)}

        self.step(case, "adapter on, golden merge", logits)
        self.step(case, "our merge", export)

    def run_mmlu(self, case):
        for ranks in (None, 2):
            self.step(case, f"task: evaluate, {ranks or 1} rank{'s' if ranks else ''}",
                      lambda folder, ranks=ranks: self.suite(case, folder, ranks), ranks or 1)

    def suite(self, case, folder, ranks):
        spec = tools.changed(case.suite(folder), parallel__ranks=ranks or 1)
        out = tools.run_job(folder, spec, ranks=ranks)
        return compare.suite(tools.read_json(out / "evaluation.json"), case.result)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("which", choices=("own", "shared"))
    parser.add_argument("--full", action="store_true", help="every combination of ranks, packing and micro-batches")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    root = tools.FIXTURES if options.which == "own" else tools.SHARED / "reference" / "golden"
    if not root.is_dir():
        print(f"skipped: {root} is not there (EMOE_SHARED names the folder that holds reference/golden)")
        sys.exit(tools.SKIPPED)
    table = Table(f"Golden cases: {options.which}")
    order = ["tokenize", "partition", "forward", "train", "merge", "mmlu"]
    cases = sorted((c for c in find_cases(root) if options.only in c.name), key=lambda c: order.index(c.command))
    if not cases or not options.only and len(cases) != EXPECTED_CASES[options.which]:
        print(f"{root}: {len(cases)} cases" + (f" with {options.only} in their name" if options.only else
                                               f", expected are {EXPECTED_CASES[options.which]}"))
        sys.exit(1)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="emoe-golden-") as folder:
        Runner(table, folder, options.full).run(cases)
    table.write(tools.ROOT / "build" / "reports" / f"golden-{options.which}{'-full' * options.full}.md")
    print(f"{time.monotonic() - begin:.0f} s")
    print("\n".join(table.failures))
    sys.exit(bool(table.failures))


if __name__ == "__main__":
    main()
