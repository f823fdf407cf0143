#!/usr/bin/env python3
"""The checks of gpu_check.sh, which says what they are. Needs torch and no other package.

With --device cpu (for trying the script where there is no GPU) part 1 compares the CPU with itself and skips what needs one.
"""
import argparse
import ctypes
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
BUNDLE = HERE.parent
WORKER = BUNDLE / "bin" / "emoe-worker"
BASE, DATA = HERE / "demo" / "base", HERE / "demo" / "data"
LAYERS, HIDDEN, FFN, VOCABULARY = 32, 4096, 11008, 32000


class CheckError(Exception):
    """What a check found wrong; the others go on."""


class Checks:
    """Makes checks once: what is in RESULTS is not made again."""

    def __init__(self, results, device):
        self.results, self.device = results, device
        self.failed = 0
        results.mkdir(parents=True, exist_ok=True)
        self.refuse_results_of_others()

    def refuse_results_of_others(self):
        """Figures of two GPUs, drivers or bundles are not mixed."""
        of = {"device": self.device, "worker": hashlib.sha256(WORKER.read_bytes()).hexdigest()}
        if self.device == "cuda":
            of["gpus"] = run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], 30).splitlines()
        file = self.results / "of"
        if file.exists() and json.loads(file.read_text()) != of:
            sys.exit(f"gpu_check.py: {self.results} has results of another GPU, driver or bundle ({file}); name another folder")
        file.write_text(json.dumps(of) + "\n")

    def made(self, name):
        file = self.results / f"{name}.json"
        return file.exists() and json.loads(file.read_text())["ok"]

    def make(self, name, check, seconds, needs=None):
        """`needs`: a check without which this one says nothing."""
        file = self.results / f"{name}.json"
        if self.made(name):
            return
        start = time.monotonic()
        try:
            if needs and not self.made(needs):
                raise CheckError(f"not tried: {needs} failed")
            found, ok = check(seconds) or {}, True
        except (CheckError, OSError, subprocess.SubprocessError, RuntimeError, ValueError) as error:
            found, ok = {"error": str(error)[-2000:]}, False
        self.failed += not ok
        record = {"check": name, "ok": ok, "seconds": round(time.monotonic() - start, 1), **found}
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(record, indent=1) + "\n")
        temporary.rename(file)
        print(line_of(record), flush=True)
        self.write_table()

    def write_table(self):
        records = [json.loads(file.read_text()) for file in sorted(self.results.glob("*.json"))]
        (self.results / "table.txt").write_text("".join(line_of(record) + "\n" for record in records))


def line_of(record):
    figures = ", ".join(f"{key} {value}" for key, value in record.items()
                        if key not in ("check", "ok", "seconds", "error", "log") and not isinstance(value, (dict, list)))
    text = figures if record["ok"] else record.get("error", "").strip().splitlines()[-1:] or [""]
    return f"{record['check']:<28} {'ok' if record['ok'] else 'FAILED':<7} {record['seconds']:>6} s  {text if isinstance(text, str) else text[0]}"


def run(command, seconds, skip=()):
    """What a command prints; in a group of its own, all of which ends with the time."""
    process = subprocess.Popen([str(part) for part in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               start_new_session=True)
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise CheckError(f"{command[0]}: not done after {seconds} s\n{output}") from None
    if process.returncode not in (0, *skip):
        raise CheckError(f"{command[0]}: exit code {process.returncode}\n{output}")
    return output


def libraries():
    """The environment of a test program: LibTorch and the bundle's libraries, as the wrappers in bin/ set it."""
    import torch
    lib = pathlib.Path(torch.__file__).parent / "lib"
    return ["env", f"LD_LIBRARY_PATH={BUNDLE / 'lib'}:{lib}"]


def test_program(name):
    def check(seconds):
        output = run([*libraries(), HERE / name], seconds, skip=(77,))
        passed = re.search(r"\[  PASSED  \] (\d+) test", output)
        return {"tests": int(passed.group(1))} if passed else {"tests": "skipped: no GPU"}
    return check


def sanitized(name):
    """A test program under NVIDIA's checker of memory, where the host has that."""
    def check(seconds):
        checker = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
        if checker is None:
            return {"memory_errors": "unknown: no compute-sanitizer on this host"}
        run([*libraries(), checker, "--error-exitcode", "9", HERE / name], seconds, skip=(77,))
        return {"memory_errors": 0}
    return check


def host_facts(seconds):
    import torch
    query = "name,driver_version,memory.total,clocks.max.sm"
    gpus = run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], seconds).strip().splitlines()
    return {"gpu": gpus[0], "gpus": len(gpus), "torch": torch.__version__}


def read_tensor(file, name):
    """An fp32 tensor of a safetensors file, as a flat tensor."""
    import torch
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8:8 + size])[name]["data_offsets"]
    return torch.frombuffer(bytearray(data[8 + size + begin:8 + size + end]), dtype=torch.float32)


def same_logits(checks):
    def check(seconds):
        tokens = checks.results / "tokens.list"
        tokens.write_text(json.dumps([1] + [3 + 7 * i % 1200 for i in range(200)]))
        logits = {}
        for device in ("cpu", checks.device):
            out = checks.results / f"logits-{device}.safetensors"
            run([WORKER, "logits", "--model", BASE, "--tokens", tokens, "--out", out, "--device", device], seconds)
            logits[device] = read_tensor(out, "logits")
        largest = (logits["cpu"] - logits[checks.device]).abs().max().item()
        if not largest <= 1e-3:
            raise CheckError(f"logits differ by {largest}")
        return {"largest_difference": f"{largest:.2g}"}
    return check


def steps_of(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def train(checks, name, job, settings, seconds):
    """A run of its own, on one rank; its steps."""
    out = checks.results / "runs" / f"{name}-{int(time.time() * 1000)}"
    out.parent.mkdir(exist_ok=True)
    sets = [part for setting in settings for part in ("--set", setting)]
    run([WORKER, "run", job, "--out", out, *sets], seconds)
    return steps_of(out)


def demo_job(checks, job):
    """The same losses on both devices, and on the GPU twice the same bits."""
    def check(seconds):
        common = [f"model.path={BASE}", f"data.train={DATA / 'train.jsonl'}", f"data.eval={DATA / 'held-out.jsonl'}",
                  "parallel.ranks=1", "resources.threads_per_rank=4", "train.max_steps=8", "checkpoint.every_steps=0"]
        runs = {}
        for run_of, device in (("cpu", "cpu"), ("gpu", checks.device), ("again", checks.device), ("recomputed", checks.device)):
            sets = [*common, f"resources.device={device}", f"train.recompute={str(run_of == 'recomputed').lower()}"]
            steps = train(checks, f"{job}-{run_of}", HERE / "jobs" / f"{job}.yaml", sets, seconds / 2)
            runs[run_of] = [step["loss"] for step in steps]
        largest = max(abs(a - b) for a, b in zip(runs["cpu"], runs["gpu"]))
        if not largest <= 1e-3:
            raise CheckError(f"losses differ by {largest}: {runs}")
        return {"largest_difference": f"{largest:.2g}", "rerun_is_equal": runs["gpu"] == runs["again"],
                "recomputed_is_equal": runs["gpu"] == runs["recomputed"], "losses": runs}
    return check


def golden(checks, name):
    """The losses and norms of a golden run, which transformers and PEFT made in fp32 on a CPU."""
    def check(seconds):
        folder = HERE / "golden"
        spec = json.loads((folder / name / "job.json").read_text().replace("@", str(folder)))
        spec["resources"]["device"] = checks.device
        job = checks.results / f"golden-{name}.yaml"
        job.write_text(json.dumps(spec))
        steps = train(checks, f"golden-{name}", job, [], seconds)
        expected = json.loads((folder / name / "expected.json").read_text())
        if len(steps) != len(expected):
            raise CheckError(f"{len(steps)} steps, expected {len(expected)}")
        off = {key: max(abs(a[key] - b[key]) / abs(b[key]) for a, b in zip(steps, expected)) for key in ("loss", "grad_norm")}
        if not (off["loss"] <= 1e-4 and off["grad_norm"] <= 1e-3):
            raise CheckError(f"off by {off}, relative")
        return {key: f"{value:.2g}" for key, value in off.items()}
    return check


def model_files():
    """(name, shape) of a Llama of 7B parameters."""
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name in ("q", "k", "v", "o"):
            yield f"{prefix}self_attn.{name}_proj.weight", (HIDDEN, HIDDEN)
        yield f"{prefix}mlp.gate_proj.weight", (FFN, HIDDEN)
        yield f"{prefix}mlp.up_proj.weight", (FFN, HIDDEN)
        yield f"{prefix}mlp.down_proj.weight", (HIDDEN, FFN)
        yield f"{prefix}input_layernorm.weight", (HIDDEN,)
        yield f"{prefix}post_attention_layernorm.weight", (HIDDEN,)
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def make_7b(checks):
    def check(_seconds):
        import torch
        folder = checks.results / "model-7b"
        folder.mkdir(exist_ok=True)
        config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FFN,
                  "num_hidden_layers": LAYERS, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": VOCABULARY,
                  "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
                  "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16"}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer.model").write_bytes((BASE / "tokenizer.model").read_bytes())
        header, end = {}, 0
        for name, shape in model_files():
            size = 2 * torch.Size(shape).numel()
            header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
            end += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        torch.manual_seed(1)
        with open(folder / "model.safetensors", "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for _, shape in model_files():
                values = torch.ones(shape) if len(shape) == 1 else torch.randn(shape, device=checks.device) * 0.02
                host = values.to(torch.bfloat16).cpu()
                file.write((ctypes.c_char * (2 * host.numel())).from_address(host.data_ptr()))
        return {"gigabytes": round(end / 1e9, 1)}
    return check


class PeakMemory:
    """The most memory of GPU 0 in use while it lives, as nvidia-smi sees it each half second."""

    def __enter__(self):
        self.most, self.done = 0, threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.done.wait(0.5):
            answer = subprocess.run(["nvidia-smi", "-i", "0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
                                    text=True, capture_output=True)
            if answer.stdout.strip().isdigit():
                self.most = max(self.most, int(answer.stdout))

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()


def replay(tokens, full):
    """Seconds of the matrix products of a step over so many tokens, alone: forward, gradients of the inputs, and in full tuning
    of the weights."""
    import torch

    def product(rows, inner, columns):
        a = torch.randn(rows, inner, device="cuda", dtype=torch.bfloat16)
        b = torch.randn(inner, columns, device="cuda", dtype=torch.bfloat16)
        for _ in range(3):
            a @ b
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(10):
            a @ b
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e4
    # A matrix of `outputs` by `inputs`, and how many of it a model has.
    seconds = 0.0
    for count, inputs, outputs in ((4 * LAYERS, HIDDEN, HIDDEN), (2 * LAYERS, HIDDEN, FFN), (LAYERS, FFN, HIDDEN), (1, HIDDEN, VOCABULARY)):
        seconds += count * (product(tokens, inputs, outputs) + product(tokens, outputs, inputs))
        seconds += count * product(outputs, tokens, inputs) if full else 0.0
    return seconds


LORA = "tuning: lora\nlora: {rank: 8, alpha: 16, targets: [q_proj, v_proj]}"
MICRO_BATCH, MICRO_BATCH_FULL = 8192, 2048


def speed_7b(checks, name, settings, full=False):
    def check(seconds):
        tokens, rows = (MICRO_BATCH_FULL, 16) if full else (MICRO_BATCH, 64)
        job = checks.results / f"{name}.yaml"
        job.write_text(f"""name: {name}
model: {{path: {checks.results.resolve() / 'model-7b'}, dtype: bfloat16}}
data: {{train: {rows_7b(checks)}, format: alpaca, max_length: 512}}
{"tuning: full" if full else LORA}
optimizer: {{learning_rate: {"1.0e-6" if full else "2.0e-4"}}}
train: {{max_steps: 6, global_batch: {rows}, micro_batch_tokens: {tokens}}}
checkpoint: {{every_steps: 0}}
export: {{merged: false, verify: false}}
resources: {{device: {checks.device}}}
""")
        with PeakMemory() as memory:
            steps = train(checks, name, job, settings, seconds)
        measured = steps[2:]  # behind the first two everything is warm
        rate = sum(step["tokens"] for step in measured) / sum(step["seconds"] for step in measured)
        return {"tokens_per_second": round(rate), "of_bare_products": round(rate * replay(tokens, full) / tokens, 3),
                "peak_MiB": memory.most, "losses": [step["loss"] for step in steps]}
    return check


def peer_7b(checks):
    """The LoRA step of transformers and PEFT with the same rows, where the host has them."""
    def check(_seconds):
        try:
            import peft
            import transformers
        except ImportError:
            return {"tokens_per_second": "unknown: no transformers and PEFT on this host"}
        import torch
        model = transformers.AutoModelForCausalLM.from_pretrained(checks.results / "model-7b", dtype=torch.bfloat16).to("cuda")
        settings = peft.LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, settings).train()
        optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=2e-4)
        ids = torch.randint(3, VOCABULARY, (MICRO_BATCH // 512, 512), device="cuda")  # full rows: nothing is padded
        seconds = []
        for _ in range(5):
            torch.cuda.synchronize()
            begin = time.monotonic()
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            torch.cuda.synchronize()
            seconds.append(time.monotonic() - begin)
        return {"tokens_per_second": round(MICRO_BATCH / min(seconds[2:])), "peak_MiB": torch.cuda.max_memory_allocated() >> 20}
    return check


def ratios(checks):
    def check(_seconds):
        read = lambda name: json.loads((checks.results / f"2-{name}.json").read_text())["tokens_per_second"]
        found = {"emoe_step_over_lora_step": round(read("lora-dropout") / read("emoe-lora"), 3),
                 "dropout_step_over_lora_step": round(read("lora") / read("lora-dropout"), 3)}
        peer = read("peer")
        return found | ({"over_transformers_and_peft": round(read("lora-dropout") / peer, 2)} if isinstance(peer, int) else {})
    return check


def rows_7b(checks):
    """Answers of 200 to 450 words of the demo's data, from one seed."""
    import random
    file = checks.results.resolve() / "rows-7b.jsonl"
    if file.exists():
        return file
    words = [word for line in (DATA / "train.jsonl").read_text().splitlines() for word in json.loads(line)["output"].split()]
    draw = random.Random(3)
    rows = [{"instruction": "Go on.", "input": "", "output": " ".join(draw.choice(words) for _ in range(draw.randint(80, 180)))}
            for _ in range(512)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("1", "2", "all"))
    parser.add_argument("results", type=pathlib.Path, metavar="RESULTS")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args()
    part, results, device = args.part, args.results, args.device
    checks = Checks(results, device)
    os.environ["EMOE_CACHE_DIR"] = str(results.resolve() / "cache")  # hashes of 13 GB are made once
    on_gpu = device == "cuda"
    if part in ("1", "all"):
        if on_gpu:
            checks.make("1-host", host_facts, 10)
            checks.make("1-nccl", test_program("nccl_test"), 60)
        checks.make("1-kernels", test_program("device_kernels_test"), 60)
        if on_gpu:
            checks.make("1-kernels-memory", sanitized("device_kernels_test"), 60)
        checks.make("1-logits", same_logits(checks), 30)
        for job in ("lora", "emoe-lora", "emoe-full"):
            checks.make(f"1-demo-{job}", demo_job(checks, job), 60)
        for case in sorted(HERE.glob("golden/*/job.json")):
            checks.make(f"1-golden-{case.parent.name}", golden(checks, case.parent.name), 30)
    if part in ("2", "all") and on_gpu:
        model = "2-model-7b"
        checks.make(model, make_7b(checks), 90)
        emoe = ["emoe.experts=64", "emoe.top_k=16", "emoe.layers.start=1", "emoe.layers.every=2",
                "emoe.partition.method=random"]
        checks.make("2-lora", speed_7b(checks, "lora", ["lora.dropout=0"]), 100, model)
        checks.make("2-lora-dropout", speed_7b(checks, "lora-dropout", ["lora.dropout=0.05"]), 100, model)
        checks.make("2-lora-recomputed", speed_7b(checks, "lora-recomputed", ["lora.dropout=0.05", "train.recompute=true"]), 100, model)
        checks.make("2-emoe-lora", speed_7b(checks, "emoe-lora", ["lora.dropout=0.05", *emoe]), 100, model)
        checks.make("2-lora-padded", speed_7b(checks, "lora-padded", ["lora.dropout=0.05", "data.packing=false"]), 100, model)
        checks.make("2-peer", peer_7b(checks), 100, model)
        checks.make("2-full", speed_7b(checks, "full", [], full=True), 120)
        checks.make("2-ratios", ratios(checks), 1)
    print(f"\n{results / 'table.txt'}:")
    print((results / "table.txt").read_text(), end="")
    sys.exit(checks.failed > 0)


if __name__ == "__main__":
    main()
