#!/usr/bin/env python3
"""Makes tests/reference/data: a tiny Llama of the suite's own and what training it must give.

    build/python/bin/python tests/reference/make_fixtures.py        (10 s; only when a rule of the computation changes)

(partition-n8 is made from the tiny model by make_partition_fixture.py, which needs a library of its own.)

The numbers come from stock transformers and PEFT; what is added here are the published rules and nothing else:
experts are masks on the input of down_proj (arXiv 2310.10908, section 3), the loss is the mean over target tokens of the
whole batch or the mean over examples of their token means, AdamW decays matrices only, clipping is global, rate i/W in
the warm-up. Nothing is batched or padded: each example goes through the model alone and gradients add up, so there is no
mask or padding rule to get wrong. Neurons stay in their original order; an expert is the set of neurons with its label.
"""
import io
import json
import math
import pathlib
import random
import shutil

import sentencepiece
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

DATA = pathlib.Path(__file__).resolve().parent / "data"
PREAMBLE = "Below is an instruction that describes a task{}. Write a response that appropriately completes the request.\n\n"
WITH_INPUT = (PREAMBLE.format(", paired with an input that provides further context")
              + "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:")
WITHOUT_INPUT = PREAMBLE.format("") + "### Instruction:\n{instruction}\n\n### Response:"
PROMPT = "The cat sits on the"

CASES = {
    "lora": dict(method="lora", data_start=0, max_steps=6, learning_rate=5e-3, lr_scheduler_type="cosine", warmup_ratio=0.2,
                 weight_decay=0.0, loss_reduction="token",
                 lora=dict(r=4, alpha=8, target_modules=["q_proj", "v_proj"], init_b_std=0.0)),
    "emoe-lora": dict(method="emoe_lora", experts="../experts-n8.json", layers=[0, 2], num_selected=3, selector="top", seed=2,
                      data_start=16, max_steps=6, learning_rate=4e-3, lr_scheduler_type="linear", warmup_ratio=0.3,
                      weight_decay=0.1, loss_reduction="example",
                      lora=dict(r=4, alpha=4, init_b_std=0.02, target_modules=[
                          "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])),
    "full": dict(method="full", data_start=8, max_steps=5, learning_rate=2e-3, lr_scheduler_type="linear", warmup_ratio=0.0,
                 weight_decay=0.1, loss_reduction="token"),
    "emoe-full": dict(method="emoe_full", experts="../experts-n12.json", layers=[1, 2], num_selected=7, selector="not_top",
                      data_start=24, max_steps=5, learning_rate=2e-3, lr_scheduler_type="constant_with_warmup",
                      warmup_ratio=0.2, weight_decay=0.0, loss_reduction="token"),
}
COMMON = dict(command="train", model="../tiny", data="../rows.json", data_count=32, eval_start=64, eval_count=8,
              max_length=128, global_batch_size=8, max_grad_norm=1.0, seed=0, prompt=PROMPT)
TOKENIZE = dict(command="tokenize", data="../rows.json", records=[0, 1, 2, 10, 21, 30], max_length=128, texts=[
    "", " ", "The cat sat on the mat.", "  two spaces  in  front and behind  ", "a\nnew\n\nline\n", "\ttab\tand\r\nreturn",
    "### Instruction:\n", "Café naïve über — “quoted” …", "ﬁ ligature, ½, ＡＢＣ, e\u0301", "日本語 中文 한국어", "😀 family 👨‍👩‍👧‍👦",
    "zero\u200bwidth\u00a0space\ufeff", "\u0001\u0007\u001b[0m\u007f", "<s> </s> <unk> ▁under", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "1234567890 3.14 -7e-5", "مرحبا שלום"])
FORWARD = dict(command="forward", model="../tiny", experts="../experts-n8.json", layers=[0, 1, 2], num_selected=2,
               selectors=["top", "bottom", "not_top"], prompt=PROMPT)
MERGE = dict(command="merge", model="../tiny", adapter="../emoe-lora/final_adapter", prompt=PROMPT)
OTHERS = {
    "tokenize": dict(TOKENIZE, model="../tiny"),
    "tokenize-bytes": dict(TOKENIZE, model="../bytes.model"),
    "forward": FORWARD,
    "merge": MERGE,
}


# ---------------------------------------------------------------- data, tokenizer, model
def make_rows():
    """72 rows of own text; some have an input, one is too long for max_length, one has no room left for its answer."""
    draw = random.Random(5)
    animals = ["cat", "dog", "hen", "goat", "duck", "fox", "bee", "owl"]
    places = ["mat", "roof", "hill", "road", "tree", "boat"]
    verbs = {"sits": "sat", "runs": "ran", "sings": "sang", "eats": "ate"}
    rows = []
    for i in range(72):
        animal, place, verb = draw.choice(animals), draw.choice(places), draw.choice(list(verbs))
        rows.append([
            {"instruction": "Put the sentence into the past.", "input": f"The {animal} {verb} on the {place}.",
             "output": f"The {animal} {verbs[verb]} on the {place}."},
            {"instruction": f"Say where the {animal} {verb}.", "output": f"The {animal} {verb} on the {place}."},
            {"instruction": f"Count from 1 to {i % 7 + 2}.", "input": "",
             "output": " ".join(str(n) for n in range(1, i % 7 + 3))},
        ][i % 3])
    rows[10]["output"] = " ".join(f"The {a} {v} on the {p}." for a in animals for v in verbs for p in places[:2])
    rows[21]["instruction"] = " ".join(f"Tell of the {a} on the {p}." for a in animals for p in places)
    return rows


def prompt_of(row):
    return (WITH_INPUT if row.get("input") else WITHOUT_INPUT).format(**row)


def make_tokenizer(rows, file, **options):
    text = [line for row in rows for line in (prompt_of(row) + row["output"]).split("\n") if line]
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*text, PROMPT, "abcdefghijklmnopqrstuvwxyz"]), model_writer=made,
        model_type="bpe", unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2, **options)
    file.write_bytes(made.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())


def make_tokenizers(rows):
    """The tiny model's, which keeps every space and knows nothing but its letters; and one that does what others do:
    collapses spaces, normalises, and spells what it does not know in bytes."""
    make_tokenizer(rows, DATA / "bytes.model", vocab_size=400, byte_fallback=True, normalization_rule_name="nmt_nfkc")
    return make_tokenizer(rows, DATA / "tiny" / "tokenizer.model", vocab_size=256, normalization_rule_name="identity",
                          character_coverage=1.0, remove_extra_whitespaces=False, user_defined_symbols=["\n"])


def make_model():
    """Random, but with weights large enough that experts and attention differ; own output head, 2 of 4 heads for keys."""
    torch.manual_seed(11)
    config = LlamaConfig(vocab_size=256, hidden_size=16, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-6, initializer_range=0.25,
                         tie_word_embeddings=False, bos_token_id=1, eos_token_id=2)
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:  # norms that are not all ones
            parameter.data = 1.0 + 0.2 * torch.randn_like(parameter)
    model.save_pretrained(DATA / "tiny")
    (DATA / "tiny" / "generation_config.json").unlink(missing_ok=True)


def make_experts(count, seed):
    """A random balanced partition of each layer: what is tested with it does not ask how it came about."""
    draw, labels = random.Random(seed), []
    for _ in range(3):
        row = [c % count for c in range(48)]
        draw.shuffle(row)
        labels.append(row)
    write_json(DATA / f"experts-n{count}.json", {"num_experts": count, "labels": labels})


# ---------------------------------------------------------------- the rules
def choose(scores, k, selector):
    """Mask over experts [.., N] and the distance of the last chosen to the first left out; ties go to the lower index."""
    keys = scores if selector == "bottom" else -scores
    order = torch.argsort(keys, dim=-1, stable=True)
    chosen = torch.zeros_like(scores).scatter(-1, order[..., :k], 1.0)
    ranked = keys.gather(-1, order)
    return (1 - chosen if selector == "not_top" else chosen), ranked[..., k] - ranked[..., k - 1]


class Experts:
    """Multiplies the input of down_proj by the mask of the chosen experts, in the layers of a case."""

    def __init__(self, model, case, selector):
        table = json.loads((DATA / "case" / case["experts"]).resolve().read_text())
        self.count, self.k, self.selector, self.on = table["num_experts"], case["num_selected"], selector, True
        self.seen = {}  # layer → (mask [T, N], margin [T]) of the last forward pass
        modules = dict(model.named_modules())
        prefix = next(name for name in modules if name.endswith("model.layers"))
        for layer in case["layers"]:
            mlp = modules[f"{prefix}.{layer}.mlp"]  # with LoRA, its projections are the wrapped ones
            labels = torch.tensor(table["labels"][layer])
            mlp.gate_proj.register_forward_hook(
                lambda _, __, gate, layer=layer, labels=labels: self.score(layer, labels, gate))
            mlp.down_proj.register_forward_pre_hook(
                lambda _, inputs, layer=layer, labels=labels: self.mask(layer, labels, inputs[0]))

    def score(self, layer, labels, gate):
        members = torch.nn.functional.one_hot(labels, self.count).to(gate) * (self.count / labels.numel())
        self.seen[layer] = choose(gate.detach()[0] @ members, self.k, self.selector)

    def mask(self, layer, labels, hidden):
        return hidden * self.seen[layer][0][None, :, labels] if self.on else None


def example_of(tokenizer, row, max_length):
    prompt = [1] + tokenizer.encode(prompt_of(row))
    ids = ([1] + tokenizer.encode(prompt_of(row) + row["output"]) + [2])[:max_length]
    return torch.tensor(ids), min(len(prompt), len(ids))


def token_losses(model, example):
    ids, first = example
    logits = model(input_ids=ids[None]).logits[0]
    return torch.nn.functional.cross_entropy(logits[first - 1:-1], ids[first:], reduction="none")


def rate(case, step):
    steps, warm = case["max_steps"], math.ceil(case["warmup_ratio"] * case["max_steps"])
    if step < warm:
        return case["learning_rate"] * step / warm
    done = (step - warm) / max(1, steps - warm)
    shape = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant_with_warmup": 1.0}
    return case["learning_rate"] * shape[case["lr_scheduler_type"]]


def evaluate(model, experts, examples):
    def mean():
        with torch.no_grad():
            losses = torch.cat([token_losses(model, e) for e in examples]).double()
        return losses.mean().item()

    result = {"loss": mean()}
    if experts:
        experts.on = False
        result["loss_mask_off"] = mean()
        experts.on = True
    return result


# ---------------------------------------------------------------- the cases
def start_of(case, folder):
    base = stock_model((folder / case["model"]).resolve())
    # After LoRA's wrapping: the gate's score includes the adapter of gate_proj.
    experts_of = lambda model: Experts(model, case, case["selector"]) if "experts" in case else None
    if "lora" not in case:
        return base, experts_of(base)
    spec = case["lora"]
    torch.manual_seed(case["seed"])
    model = get_peft_model(base, LoraConfig(r=spec["r"], lora_alpha=spec["alpha"], lora_dropout=0.0, bias="none",
                                            target_modules=spec["target_modules"], task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name and spec["init_b_std"]:
            parameter.data.normal_(0.0, spec["init_b_std"])
    save_adapter(model, folder / "init_adapter")
    return model, experts_of(model)


def save_adapter(model: PeftModel, folder):
    model.peft_config["default"].base_model_name_or_path = "tiny"
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    config["target_modules"] = sorted(config["target_modules"])  # a set: its order is not fixed
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def step_loss(model, experts, batch, case):
    """Adds the gradients of one optimiser step; returns its loss, target tokens, the smallest margin of a choice, and how
    often each layer chose each expert."""
    targets = sum(len(ids) - first for ids, first in batch)
    total, margin, tokens = 0.0, math.inf, {}
    for example in batch:
        losses = token_losses(model, example)
        loss = losses.sum() / targets if case["loss_reduction"] == "token" else losses.mean() / len(batch)
        loss.backward()
        total += loss.item()
        if experts:
            margin = min(margin, *(m.min().item() for _, m in experts.seen.values()))
            for layer, (mask, _) in experts.seen.items():
                tokens[layer] = tokens.get(layer, 0) + mask.sum(0)
    return total, targets, margin, tokens


def train(case, folder, tokenizer, rows):
    model, experts = start_of(case, folder)
    make = lambda start, count: [example_of(tokenizer, r, case["max_length"]) for r in rows[start:start + count]]
    examples = make(case["data_start"], case["data_count"])
    kept = [(ids, first) for ids, first in examples if first < len(ids)]
    held_out = make(case["eval_start"], case["eval_count"])
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    matrices, vectors = ([p for p in trained.values() if (p.dim() > 1) == wide] for wide in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": case["weight_decay"]},
                                   {"params": vectors, "weight_decay": 0.0}], betas=(0.9, 0.999), eps=1e-8, foreach=False)
    size, result = case["global_batch_size"], {"records_skipped": len(examples) - len(kept), "steps": []}
    result["records_truncated"] = sum(ids[-1].item() != 2 for ids, _ in kept)
    result["eval_initial"] = evaluate(model, experts, held_out)
    for step in range(case["max_steps"]):
        begin = step % (len(kept) // size) * size
        loss, targets, margin, tokens = step_loss(model, experts, kept[begin:begin + size], case)
        if step == 0:
            result["first_step_grad_norms"] = {n: p.grad.norm().item() for n, p in trained.items()}
            result |= {"first_step_expert_tokens": {str(l): t.int().tolist() for l, t in tokens.items()}} if experts else {}
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), case["max_grad_norm"], foreach=False).item()
        for group in optimizer.param_groups:
            group["lr"] = rate(case, step)
        optimizer.step()
        optimizer.zero_grad()
        assert margin > case.get("least_margin", 1e-5), f"{folder.name} step {step}: a choice hangs on {margin:.1e}; take another seed"
        result["steps"].append({"step": step, "lr": rate(case, step), "loss": loss, "grad_norm": norm,
                                "target_tokens": targets})
    result["eval_final"] = evaluate(model, experts, held_out)
    result["prompt_ids"] = [1] + tokenizer.encode(case["prompt"])
    result["last_logits"] = logits_of(model, result["prompt_ids"])[-1].tolist()
    result |= choices_of(experts) if experts else {}
    if "lora" in case:
        save_adapter(model, folder / "final_adapter")
    else:
        (folder / "final").mkdir()
        save_file({n: p.detach().contiguous() for n, p in trained.items()}, folder / "final" / "model.safetensors",
                  metadata={"format": "pt"})
    write_json(folder / "result.json", result)


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].contiguous()


def choices_of(experts):
    """Of the last forward pass: chosen experts of each layer and token, and the margins of the choices."""
    return {"chosen": {str(l): [r.nonzero().flatten().tolist() for r in m] for l, (m, _) in experts.seen.items()},
            "margin": {str(l): [float(f"{x:.3g}") for x in g] for l, (_, g) in experts.seen.items()}}


def stock_model(folder=DATA / "tiny"):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def forward(case, folder, tokenizer, _):
    ids = [1] + tokenizer.encode(case["prompt"])
    result, tensors = {"ids": ids}, {}
    for selector in ["dense", *case["selectors"]]:
        model = stock_model()
        experts = Experts(model, case, selector) if selector != "dense" else None
        tensors[selector] = logits_of(model, ids)
        if experts:
            result[selector] = choices_of(experts)
    save_file(tensors, folder / "logits.safetensors")
    write_json(folder / "result.json", result)


def merge(case, folder, tokenizer, _):
    ids = [1] + tokenizer.encode(case["prompt"])
    model = PeftModel.from_pretrained(stock_model(), (folder / case["adapter"]).resolve()).eval()
    adapter_on = logits_of(model, ids)
    model.merge_and_unload().save_pretrained(folder / "merged")
    (folder / "merged" / "generation_config.json").unlink(missing_ok=True)
    save_file({"adapter_on": adapter_on, "merged": logits_of(stock_model(folder / "merged"), ids)},
              folder / "logits.safetensors")
    write_json(folder / "result.json", {"ids": ids})


def tokenize(case, folder, _, rows):
    file = (folder / case["model"]).resolve()
    tokenizer = sentencepiece.SentencePieceProcessor(
        model_file=str(file / "tokenizer.model" if file.is_dir() else file))
    result = {"texts": [{"text": t, "ids": [1] + tokenizer.encode(t)} for t in case["texts"]],
              "max_length": case["max_length"], "examples": []}
    for record in case["records"]:
        whole = [1] + tokenizer.encode(prompt_of(rows[record]) + rows[record]["output"]) + [2]
        ids, first = example_of(tokenizer, rows[record], case["max_length"])
        result["examples"].append({"record": record, "ids": ids.tolist(), "prompt_tokens": first,
                                   "target_tokens": len(ids) - first, "truncated": len(whole) > case["max_length"]})
    write_json(folder / "result.json", result)


def write_json(path, document):
    rounded = json.loads(json.dumps(document), parse_float=lambda text: float(f"{float(text):.9g}"))
    path.write_text(json.dumps(rounded, separators=(",", ":")).replace("},{", "},\n{").replace("],[", "],\n[") + "\n")


def main():
    torch.set_num_threads(1)
    for entry in DATA.iterdir():
        if entry.name == "partition-n8":
            continue
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    (DATA / "tiny").mkdir(parents=True)
    rows = make_rows()
    (DATA / "rows.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    tokenizer = make_tokenizers(rows)
    make_model()
    make_experts(8, seed=1)
    make_experts(12, seed=2)
    for name, case in {**{k: {**COMMON, **v} for k, v in CASES.items()}, **OTHERS}.items():
        folder = DATA / name
        folder.mkdir()
        (folder / "config.yaml").write_text(yaml.safe_dump(case, sort_keys=False, allow_unicode=True))
        {"train": train, "forward": forward, "merge": merge, "tokenize": tokenize}[case["command"]](
            case, folder, tokenizer, rows)
    for file in DATA.rglob("*.safetensors"):
        file.chmod(0o644)


if __name__ == "__main__":
    main()
