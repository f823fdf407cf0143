"""Rows of whole training steps: P1 (LoRA, full tuning), P2 (rows of Alpaca's lengths), P3 (experts), P6 (memory), P7 (ranks),
and what a checkpoint after every step costs (P10)."""
import math
import statistics
import sys
import time

from measure import BIN, PYTHON, ROOT, TimeIsUp, instruction_set, interleaved, measure, row

OURS = BIN / "step_bench"
PROGRAMS = {"ours": [OURS], "peer": [PYTHON, ROOT / "bench" / "peer_step.py"]}
FULL = {"hidden": 768, "ffn": 2048, "layers": 12, "heads": 12, "kv-heads": 12, "vocab": 32000, "rows": 4, "length": 512}
SHAPES = [FULL, {**FULL, "layers": 4, "rows": 2, "length": 256}, {**FULL, "layers": 2, "rows": 1, "length": 128}]
# Steps by which those of FULL are judged. The first costs little on any machine, but does small products, slowly.
PROBES = [{**FULL, "layers": 1, "vocab": 4000, "rows": 1, "length": 32}, {**FULL, "layers": 2, "rows": 1, "length": 256}]
TINY = {"hidden": 64, "ffn": 96, "layers": 2, "heads": 4, "kv-heads": 2, "vocab": 128, "rows": 2, "length": 32}
# Rounds, and steps measured in each after one to warm up: the first for which the time suffices.
ROUNDS = ((3, 3), (2, 2), (2, 1), (1, 2), (1, 1))
# 16 rows as long as Alpaca's 52,000 are in tokens of Llama: one of two templates, then a log-normal number of tokens.
TEMPLATES = (33, 45)
MEDIAN, DEVIATION, PROMPT_SHARE = 68, 0.65, 0.45
EXPERTS = {"experts": 64, "top-k": 16}
# Layers converted (every so many), and the goal of an EMoE step over the LoRA step.
EMOE_GOALS = {"all layers": (1, 0.85), "8 of 32 layers": (4, 0.97)}
SINGLE_SECONDS = 80  # kept for P2, P6 and full tuning, of each dtype
# Over the peer at least, over the replay at most.
GOALS = {"float32": (1.35, 1.25), "bfloat16 AMX": (3.0, 1.4), "bfloat16 AVX-512": (1.8, 1.3)}


def products(shape):
    """Multiplications of a step but for a constant factor; attention, small at these lengths, left out."""
    head = shape["hidden"] // shape["heads"] * shape["kv-heads"]
    layer = 2 * shape["hidden"] * (shape["hidden"] + head) + 3 * shape["hidden"] * shape["ffn"]
    return shape["rows"] * shape["length"] * (shape["layers"] * layer + shape["vocab"] * shape["hidden"])


def turns_of(dtype, programs, shape, args):
    """What takes turns in a round: name to (command, options, threads). Beside the programs P3, P7 and P10's checkpoints, all of
    which are measured against ours; not where two builds of ours are compared."""
    turns = {name: (command, shape, None) for name, command in programs.items()}
    if args.against:
        return turns
    ours = {**shape, "replay": 0}
    experts = {"experts": 8, "top-k": 2} if args.tiny else EXPERTS
    for name, (every, _) in EMOE_GOALS.items():
        turns[name] = (programs["ours"], {**ours, **experts, "every": every}, None)
    if dtype == "float32":
        mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", args.threads]
        turns["ranks"] = ([*mpirun, *programs["ours"]], ours, 1)
        turns["checkpoints"] = (programs["ours"], {**ours, "checkpoints": 1}, None)
    return turns


def probe(dtype, programs, shape, args):
    """Seconds of a round but for its steps, and of one step of FULL, all that takes turns together."""
    beside = len(turns_of(dtype, programs, shape, args)) - len(programs)
    fixed = step = 0.0
    for name, command in programs.items():
        done = measure(command, shape, 1, dtype, args)
        seconds = done["step_seconds"]
        turn = seconds * (1 + 1 / done.get("step_over_replay", float("inf")))
        start = max(done["all_seconds"] - 2 * turn, 0.0)
        fixed += start
        step += turn * products(FULL) / products(shape)
        if name == "ours":
            fixed += beside * start
            step += beside * seconds * products(FULL) / products(shape)
    return fixed, step


def fit(fixed, step, seconds):
    """The largest (shape, rounds, steps) for which so many seconds suffice."""
    for shape in SHAPES:
        each = step * products(shape) / products(FULL)
        for rounds, steps in ROUNDS:
            if rounds * (fixed + (steps + 1) * each) <= seconds:
                return shape, rounds, steps
    return SHAPES[-1], *ROUNDS[-1]


def choose(dtype, programs, args, seconds):
    end = time.monotonic() + seconds
    fixed, step = probe(dtype, programs, PROBES[0], args)
    chosen = fit(fixed, step, end - time.monotonic())
    if chosen != (FULL, *ROUNDS[0]) and 2 * step * products(PROBES[1]) / products(FULL) < seconds / 8:
        chosen = fit(*probe(dtype, programs, PROBES[1], args), end - time.monotonic())
    return chosen


def bench(dtype, programs, args, seconds):
    """The rounds of one dtype, or None where the time did not suffice for one."""
    shape, rounds, steps = TINY, 1, 1
    if not args.tiny:
        shape, rounds, steps = choose(dtype, programs, args, seconds)
        if shape != FULL:
            print(f"NOTE: {dtype} is measured with a smaller model ({shape['layers']} layers, {shape['rows']} x "
                  f"{shape['length']} tokens): steps of the full one do not fit into {seconds:.0f} s here", flush=True)
        print(f"{dtype} is measured in {rounds} round(s) of {steps} step(s)", flush=True)
    done = []
    for number in range(rounds):
        print(f"{dtype}, round {number + 1} of {rounds} …", file=sys.stderr, flush=True)
        try:
            done.append({name: measure(command, options, steps, dtype, args, threads)
                         for name, (command, options, threads) in turns_of(dtype, programs, shape, args).items()})
        except TimeIsUp:
            print(f"NOTE: {dtype}: time is up after {number} of {rounds} rounds", flush=True)
            break
    return {"dtype": dtype, "shape": shape, "steps": steps, "rounds": done} if done else None


def median(result, figure):
    return statistics.median(figure(each) for each in result["rounds"])


def speed(program, name="tokens_per_second"):
    return lambda each: each[program][name]


def over_peer(each):
    return each["ours"]["tokens_per_second"] / each["peer"]["tokens_per_second"]


def over_replay(each):
    return each["ours"]["step_over_replay"]


def over_ours(name):
    return lambda each: each[name]["step_seconds"] / each["ours"]["step_seconds"]


def rows_of(result, args):
    """P1, P3, P7, P10's checkpoints."""
    dtype = result["dtype"]
    peer, replay = GOALS.get(dtype if dtype == "float32" else f"{dtype} {instruction_set()}", (None, None))
    rows = [row(f"P1.{dtype}", "tokens/s of a LoRA step over transformers + PEFT", median(result, over_peer), "higher", peer),
            row(f"P1.{dtype}.replay", "time of a LoRA step over its matrix products", median(result, over_replay), "lower", replay)]
    for name, (every, goal) in EMOE_GOALS.items():
        ratio = median(result, over_ours(name))
        print(f"EMoE step, {name}, {dtype}: {ratio:.2f} of the LoRA step, {result['rounds'][-1][name]['ffn']} FFN", flush=True)
        rows.append(row(f"P3.{dtype}.1/{every}", f"time of a step with 16 of 64 experts in {name} over the LoRA step", ratio,
                        "lower", goal))
    if "ranks" in result["rounds"][0]:
        rows += [row(f"P7.{dtype}", f"tokens/s of {args.threads} ranks over one rank with {args.threads} threads",
                     1 / median(result, over_ours("ranks")), "higher", 0.97),
                 row("P10.checkpoint", "time of a LoRA step with a checkpoint over one without",
                     median(result, over_ours("checkpoints")), "lower", 1.01)]
    if result["shape"] != FULL:  # the goals are of the full model
        rows = [{**each, "goal": None, "met": None} for each in rows]
    return rows


def alpaca_lengths(count=16):
    """template:prompt:answer of each row, at the quantiles of the distribution."""
    rows = []
    for i in range(count):
        own = round(MEDIAN * math.exp(DEVIATION * statistics.NormalDist().inv_cdf((i + 0.5) / count)))
        prompt = max(1, round(PROMPT_SHARE * own))
        rows.append(f"{TEMPLATES[i % 5 in (1, 3)]}:{prompt}:{own - prompt}")
    return ",".join(rows)


def bench_rows(dtype, plain_ratio, programs, args):
    """P2: rows of Alpaca's lengths against the peer's padding, over the ratio of full-length rows."""
    shape = {**(TINY if args.tiny else FULL), "lengths": alpaca_lengths(3 if args.tiny else 16)}
    ours = {**shape, "replay": 0}
    done = interleaved({"ours": (programs["ours"], ours), "peer": (programs["peer"], shape)}, dtype, args)
    if done is None:
        return []
    ratio = done["ours"]["tokens_per_second"] / done["peer"]["tokens_per_second"]
    print(f"rows of Alpaca's lengths, {dtype}: {done['ours']['tokens_per_second']:.0f} tokens/s, "
          f"{ratio:.2f}x the peer with padding", flush=True)
    return [row(f"P2.{dtype}", "tokens/s on rows of Alpaca's lengths over transformers + PEFT with padding", ratio, "higher", None),
            row(f"P2.{dtype}.gain", "that ratio over P1's", ratio / plain_ratio, "higher", 2.0)]


def bench_memory(dtype, peer, programs, args):
    """P6. What a LoRA step takes beside the model: the growth of the process from before the first step to its peak, over the
    peer's (`peer`, None where it ran with another model); and the tensors among it as the allocator counts them, against
    plan/step_memory.h."""
    shape = {**(TINY if args.tiny else FULL), "replay": 0}
    done = interleaved({"ours": (programs["ours"], shape)}, dtype, args)
    if done is None:
        return []
    ours = done["ours"]
    rows = [row(f"P6.{dtype}.plan", "planned memory of a step over its tensors at the peak, the further from 1 of the two ways",
                max(ours["planned_bytes"] / ours["tensor_bytes"], ours["tensor_bytes"] / ours["planned_bytes"]), "lower", 1.1)]
    if peer is not None:
        rows.append(row(f"P6.{dtype}", "tokens per GiB of a LoRA step over transformers + PEFT", peer["step_bytes"] / ours["step_bytes"],
                        "higher", 3.0))
    print(f"memory of a LoRA step, {dtype}: {ours['step_bytes'] / 2**20:.0f} MiB, planned {ours['planned_bytes'] / 2**20:.0f} MiB of "
          f"tensors, counted {ours['tensor_bytes'] / 2**20:.0f} MiB", flush=True)
    return rows


def bench_full(dtype, programs, args):
    """P1 of full tuning: the step over its own products."""
    shape = {**(TINY if args.tiny else FULL), "full": 1}
    done = interleaved({"full tuning": (programs["ours"], shape)}, dtype, args)
    if done is None:
        return []
    ratio = done["full tuning"]["step_over_replay"]
    print(f"full tuning, {dtype}: {ratio:.2f} of its matrix products", flush=True)
    return [row(f"P1.{dtype}.full.replay", "time of a full-tuning step over its matrix products", ratio, "lower",
                GOALS.get(dtype if dtype == "float32" else f"{dtype} {instruction_set()}", (None, None))[1])]


def print_steps(results):
    print(f"{'tokens/s':<10}{'ours':>8}{'peer':>8}{'replay':>8}{'ours/peer':>12}{'step/replay':>13}")
    for result in results:
        print(f"{result['dtype']:<10}{median(result, speed('ours')):>8.0f}{median(result, speed('peer')):>8.0f}"
              f"{median(result, speed('ours', 'replay_tokens_per_second')):>8.0f}"
              f"{median(result, over_peer):>11.2f}x{median(result, over_replay):>12.2f}x")


def report_against(results):
    print(f"{'s per step':<10}{'ours':>8}{'other':>8}{'ours/other':>12}")
    for result in results:
        ratio = median(result, lambda each: each["ours"]["step_seconds"] / each["other"]["step_seconds"])
        print(f"{result['dtype']:<10}{median(result, speed('ours', 'step_seconds')):>8.3f}"
              f"{median(result, speed('other', 'step_seconds')):>8.3f}{ratio:>11.3f}x")
