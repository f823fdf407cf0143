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
STEPS = 3  # measured in each round, after one to warm up
# 16 rows as long as Alpaca's 52,000 are in tokens of Llama: one of two templates, then a log-normal number of tokens.
TEMPLATES = (33, 45)
MEDIAN, DEVIATION, PROMPT_SHARE = 68, 0.65, 0.45
EXPERTS = {"experts": 64, "top-k": 16}
# Layers converted (every so many), and the goal of an EMoE step over the LoRA step.
EMOE_GOALS = {"all layers": (1, 0.85), "8 of 32 layers": (4, 0.97)}
ROW_SECONDS = 75  # kept for both, of each dtype
# Over the peer at least, over the replay at most.
GOALS = {"float32": (1.35, 1.25), "bfloat16 AMX": (3.0, 1.4), "bfloat16 AVX-512": (1.8, 1.3)}


def products(shape):
    """Multiplications of a step but for a constant factor; attention, small at these lengths, left out."""
    head = shape["hidden"] // shape["heads"] * shape["kv-heads"]
    layer = 2 * shape["hidden"] * (shape["hidden"] + head) + 3 * shape["hidden"] * shape["ffn"]
    return shape["rows"] * shape["length"] * (shape["layers"] * layer + shape["vocab"] * shape["hidden"])


def probe(programs, shape, dtype, args):
    """Seconds of a round but for its steps, and of one step of FULL, all programs together."""
    fixed = step = 0.0
    for command in programs.values():
        done = measure(command, shape, 1, dtype, args)
        turn = done["step_seconds"] * (1 + 1 / done.get("step_over_replay", float("inf")))
        fixed += max(done["all_seconds"] - 2 * turn, 0.0)
        step += turn * products(FULL) / products(shape)
    return fixed, step


def fit(fixed, step, args, seconds):
    """The largest (shape, rounds, steps) for which so many seconds suffice."""
    for shape in SHAPES:
        each = step * products(shape) / products(FULL)
        for rounds, steps in ((args.rounds, STEPS), (min(args.rounds, 2), 2), (1, 1)):
            if rounds * (fixed + (steps + 1) * each) <= seconds:
                return shape, rounds, steps
    return SHAPES[-1], 1, 1


def choose(programs, dtype, args, seconds):
    end = time.monotonic() + seconds
    fixed, step = probe(programs, PROBES[0], dtype, args)
    chosen = fit(fixed, step, args, end - time.monotonic())
    if chosen != (FULL, args.rounds, STEPS) and 2 * step * products(PROBES[1]) / products(FULL) < seconds / 8:
        chosen = fit(*probe(programs, PROBES[1], dtype, args), args, end - time.monotonic())
    return chosen


def bench(dtype, programs, args, seconds):
    """The rounds of one dtype, or None where the time did not suffice for one."""
    shape, rounds, steps = TINY, args.rounds, 1
    if not args.tiny:
        shape, rounds, steps = choose(programs, dtype, args, seconds)
        if shape != FULL:
            print(f"NOTE: {dtype} is measured with a smaller model ({shape['layers']} layers, {shape['rows']} x "
                  f"{shape['length']} tokens): steps of the full one do not fit into {seconds:.0f} s here", flush=True)
        if (rounds, steps) != (args.rounds, STEPS):
            print(f"NOTE: {dtype} is measured in {rounds} round(s) of {steps} step(s) for lack of time", flush=True)
    done = []
    for number in range(rounds):
        print(f"{dtype}, round {number + 1} of {rounds} …", file=sys.stderr, flush=True)
        try:
            done.append({name: measure(command, shape, steps, dtype, args) for name, command in programs.items()})
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


def rows_of(result):
    dtype = result["dtype"]
    peer, replay = GOALS.get(dtype if dtype == "float32" else f"{dtype} {instruction_set()}", (None, None))
    if result["shape"] != FULL:
        peer = replay = None  # the goals are of the full model
    return [row(f"P1.{dtype}", "tokens/s of a LoRA step over transformers + PEFT", median(result, over_peer), "higher", peer),
            row(f"P1.{dtype}.replay", "time of a LoRA step over its matrix products", median(result, over_replay), "lower", replay)]


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


def bench_emoe(dtype, peer, programs, args):
    """P3: an EMoE step (64 experts, 16 a token) over the LoRA step of the same model. P6: the memory of that LoRA step
    against the plan and the peer's (`peer`, None where it ran with another model)."""
    shape = {**(TINY if args.tiny else FULL), "replay": 0}
    experts = {"experts": 8, "top-k": 2} if args.tiny else EXPERTS
    commands = {"LoRA": (programs["ours"], shape)}
    for name, (every, _) in EMOE_GOALS.items():
        commands[name] = (programs["ours"], {**shape, **experts, "every": every})
    done = interleaved(commands, dtype, args)
    rows = memory_rows(dtype, done["LoRA"], peer) if done else []
    for name, (every, goal) in EMOE_GOALS.items() if done else ():
        ratio = done[name]["step_seconds"] / done["LoRA"]["step_seconds"]
        print(f"EMoE step, {name}, {dtype}: {ratio:.2f} of the LoRA step, {done[name]['ffn']} FFN", flush=True)
        rows.append(row(f"P3.{dtype}.1/{every}", f"time of a step with 16 of 64 experts in {name} over the LoRA step", ratio,
                        "lower", goal))
    return rows


def memory_rows(dtype, ours, peer):
    """P6. What a step takes beside the model: the growth of the process from before the first step to its peak, and the
    tensors among it as the allocator counts them, against plan/step_memory.h."""
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


def bench_edges(programs, args):
    """P7: two ranks with a thread each against one rank with two, the same rows. P10: a checkpoint after every step."""
    shape = {**(TINY if args.tiny else FULL), "replay": 0}
    ranks = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", args.threads, *programs["ours"]]
    seconds = {"one rank": [], "ranks": [], "checkpoints": []}
    try:
        for _ in range(2):
            seconds["one rank"].append(measure(programs["ours"], shape, 2, "float32", args))
            seconds["checkpoints"].append(measure(programs["ours"], {**shape, "checkpoints": 1}, 2, "float32", args))
            seconds["ranks"].append(measure(ranks, shape, 2, "float32", args, threads=1))
    except TimeIsUp:
        print("NOTE: ranks and checkpoints are not measured: time is up", flush=True)
        return []
    best = {name: min(each["step_seconds"] for each in runs) for name, runs in seconds.items()}
    rows = [row("P7.float32", f"tokens/s of {args.threads} ranks over one rank with {args.threads} threads",
                best["one rank"] / best["ranks"], "higher", 0.97),
            row("P10.checkpoint", "time of a LoRA step with a checkpoint over one without", best["checkpoints"] / best["one rank"],
                "lower", 1.01)]
    for each in rows:
        print(f"{each['what']}: {each['value']:.3f} (goal {each['goal']})", flush=True)
    return rows


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
