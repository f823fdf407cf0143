"""One case, asked of the worker in one configuration: the deviations from its golden numbers."""
import pathlib

import numpy as np
from safetensors.numpy import load_file

import emoe_tools as tools
from cases import prompt_of
from tolerances import AFTER_A_TIE, TOLERANCES, relative


# ---------------------------------------------------------------- tokens, logits, experts
def tokenize(case, folder):
    """Texts and Alpaca rows to ids."""
    result, records = case.result, tools.read_json(case.path("data"))
    rows = [(records[e["record"]], e) for e in result["examples"]]
    texts = ([t["text"] for t in result["texts"]] + [prompt_of(r) for r, _ in rows]
             + [prompt_of(r) + r["output"] for r, _ in rows])
    tools.write_json(folder / "texts.json", texts)
    tools.worker("tokenize", "--model", case.path("model"), "--texts", folder / "texts.json", "--out",
                 folder / "ids.json").expect()
    ids = tools.read_json(folder / "ids.json")
    assert len(ids) == len(texts), f"{len(texts)} texts, {len(ids)} id lists"
    plain, prompts, whole = ids[:-2 * len(rows)], ids[-2 * len(rows):-len(rows)], ids[-len(rows):]
    wrong = sum(got != want["ids"] for got, want in zip(plain, result["texts"], strict=True))
    for prompt, row, (_, want) in zip(prompts, whole, rows, strict=True):
        cut = [*row, 2][:result["max_length"]]
        wrong += cut != want["ids"] or min(len(prompt), result["max_length"]) != want["prompt_tokens"]
        wrong += (len(row) + 1 > result["max_length"]) != want["truncated"]
    return {"token ids": wrong}


def logits(folder, model, ids, *options):
    """The tensors `emoe-worker logits` writes."""
    tokens, out = tools.write_json(folder / "tokens.json", ids), folder / "logits.safetensors"
    tools.worker("logits", "--model", model, "--tokens", tokens, "--out", out, *options).expect()
    return load_file(out)


def emoe_options(case, folder, emoe):
    """--emoe and --partition for one emoe section."""
    spec = {"name": case.name, "model": {"path": str(case.path("model")), "dtype": "float32"},
            "emoe": emoe, "resources": {"device": "cpu"}}
    return ["--emoe", tools.write_yaml(folder / "emoe.yaml", spec), "--partition", emoe["partition"]["path"]]


def suite(ours, golden):
    """The answers to a suite's questions."""
    key = lambda question: (question["subject"], question["row"])
    answers = {key(question): question for question in ours["questions"]}
    assert list(answers) == [key(question) for question in golden["questions"]], "other questions are scored"
    pairs = [(answers[key(question)], question) for question in golden["questions"]]
    assert all(a["shots"] == b["shots"] and a["answer"] == b["answer"] for a, b in pairs)
    assert ours["unscored"] == golden["unscored"] and ours["scored"] == golden["scored"]
    return {"suite predictions": sum(a["prediction"] != b["prediction"] for a, b in pairs),
            "suite scores": max(abs(x - y) for a, b in pairs for x, y in zip(a["scores"], b["scores"], strict=True)),
            "suite accuracy": max(abs(ours[k] - golden[k]) for k in ("accuracy", "accuracy_subject_mean"))}


def worst(ours, golden):
    assert ours.shape == golden.shape, f"shape {ours.shape}, expected {golden.shape}"
    return float(np.abs(ours.astype(np.float64) - golden).max())


def forward(case, folder, selector):
    result, golden = case.result, case.tensors("logits.safetensors")
    options = [] if selector == "dense" else emoe_options(case, folder, case.emoe(folder, selector))
    ours = logits(folder, case.path("model"), result["ids"], *options)
    deviations = {"logits": worst(ours["logits"], golden[selector])}
    if selector != "dense":
        deviations["experts"] = flips(ours, result[selector])
    return deviations


def flips(ours, report, doubt=1e-5):
    """Tokens whose experts are others than the golden ones although the margin of the choice is above `doubt`."""
    count = 0
    for layer, golden in report["chosen"].items():
        got = ours[f"experts.{layer}"].tolist()
        assert len(got) == len(golden), f"{len(got)} tokens, expected {len(golden)}"
        count += sum(g != w and m > doubt for g, w, m in zip(got, golden, report["margin"][layer], strict=True))
    return count


def all_experts_equal_dense(case, folder):
    """k = N keeps every channel: with neurons in their own order the logits are the dense ones bit for bit."""
    ids, emoe = case.result["ids"], case.emoe(folder)
    count = emoe["experts"]
    for path in pathlib.Path(emoe["partition"]["path"]).glob("layer_*.json"):
        document = tools.read_json(path)
        size = len(document["labels"]) // count
        tools.write_json(path, {**document, "labels": [c // size for c in range(size * count)]})
    dense = logits(folder, case.path("model"), ids)["logits"]
    full = logits(folder, case.path("model"), ids, *emoe_options(case, folder, {**emoe, "top_k": count}))["logits"]
    return {"k = N": worst(full, dense)}


# ---------------------------------------------------------------- partition
def partition(case, folder):
    """Our k-means on every layer, as a run of one step leaves it; inertia also computed from the labels here."""
    golden, model = tools.read_json(case.folder / "experts.json"), case.path("model")
    count = golden["num_experts"]
    row = {"instruction": "Name a colour.", "input": "", "output": "Red."}
    spec = tools.tiny_job(model__path=str(model), data__train=str(tools.write_json(folder / "train.json", [row] * 2)),
                          data__max_length=256, train__global_batch=2, train__max_steps=1, export=None,
                          emoe={"experts": count, "top_k": 1, "layers": {"list": list(range(len(golden["labels"])))},
                                "partition": {"method": "kmeans", "seed": 0}})
    out = tools.run_job(folder, spec)
    weights, ratio, off = load_file(model / "model.safetensors"), 0.0, 0.0
    for layer, golden_inertia in enumerate(golden["inertia"]):
        ours = tools.read_json(out / "partition" / f"layer_{layer:02d}.json")
        labels = np.array(ours["labels"])
        sizes = np.bincount(labels, minlength=count)
        assert sizes.tolist() == [len(labels) // count] * count, f"layer {layer}: experts of sizes {sizes.tolist()}"
        gate = weights[f"model.layers.{layer}.mlp.gate_proj.weight"].astype(np.float64)
        gate /= np.linalg.norm(gate, axis=1, keepdims=True)
        inertia = sum(((gate[labels == e] - gate[labels == e].mean(0)) ** 2).sum() for e in range(count))
        ratio, off = max(ratio, inertia / golden_inertia), max(off, relative(ours["inertia"], inertia))
    return {"inertia ratio": ratio, "inertia": off}


# ---------------------------------------------------------------- training
def training(case, out, prompt):
    """(deviations, note) of an output folder from the golden run; `prompt` as prompt_after_training() gives it."""
    golden, rows = case.result, tools.read_lines(out / "metrics.jsonl")
    steps = golden["steps"]
    assert [r["step"] for r in rows] == [s["step"] for s in steps], f"steps {[r['step'] for r in rows]}"
    pairs = list(zip(rows, steps))
    evals = tools.read_lines(out / "eval.jsonl")
    assert [e["step"] for e in evals] == [0, len(steps)], f"evaluations at {[e['step'] for e in evals]}"
    report = tools.read_json(out / "data_report.json")["train"]
    skipped, truncated = (report[key]["count"] for key in ("skipped", "truncated"))
    wanted = golden["records_skipped"], golden.get("records_truncated", golden.get("examples_truncated"))
    tie = tie_met(pairs)
    deviations = {
        "target tokens": max(abs(r["target_tokens"] - s["target_tokens"]) for r, s in pairs),
        "rows skipped": abs(skipped - (len(wanted[0]) if isinstance(wanted[0], list) else wanted[0])),
        "rows truncated": abs(truncated - wanted[1]),
        "learning rate": max(relative(r["learning_rate"], s["lr"]) for r, s in pairs),
        "evaluation loss": max(evaluation(evals[0], golden["eval_initial"]), evaluation(evals[1], golden["eval_final"])),
        "tensor change": tensor_change(case, out),
        **step_deviations(pairs, tie),
        **prompt_deviations(prompt, golden, tie),
    }
    return deviations, "" if tie is None else f"a token chose otherwise at step {tie}, where the golden margin is below 1e-6"


def evaluation(ours, golden):
    # Without experts there is one loss; both of ours must be it.
    return max(relative(ours["loss"], golden["loss"]),
               relative(ours["loss_dense"], golden.get("loss_mask_off", golden["loss"])))


STEP_NUMBERS = {"loss": "loss", "gradient norm": "grad_norm"}


def tie_met(pairs):
    """The step at which our run left the golden one, if it is one where a golden choice hung on less than 1e-6; else None.
    Who leaves it at any other step has an error, and so has who leaves it earlier."""
    off = [s["step"] for r, s in pairs if any(relative(r[key], s[key]) > TOLERANCES[q][0] for q, key in STEP_NUMBERS.items())]
    ties = [s["step"] for _, s in pairs if s.get("margins_below_1e_6")]
    return off[0] if off and off[0] in ties else None


def step_deviations(pairs, tie):
    """Of loss and gradient norm; from a tie on under the names with bounds of their own."""
    worst_of = lambda key, part: max((relative(r[key], s[key]) for r, s in part), default=0.0)
    if tie is None:
        return {q: worst_of(key, pairs) for q, key in STEP_NUMBERS.items()}
    return {**{q: worst_of(key, pairs[:tie]) for q, key in STEP_NUMBERS.items()},
            **{q + AFTER_A_TIE: worst_of(key, pairs[tie:]) for q, key in STEP_NUMBERS.items()}}


def prompt_after_training(case, folder, out):
    """What `emoe-worker logits` makes of the golden prompt with the exported result, its experts on."""
    if "lora" in case.config:
        model, options = case.path("model"), ["--adapter", out / "export" / "adapter"]
    else:
        model, options = out / "export" / "model", []
    if "experts" in case.config:
        options += emoe_options(case, folder, case.emoe(folder / "after", model=model))
    return logits(folder, model, case.result["prompt_ids"], *options)


def prompt_deviations(prompt, golden, tie):
    after = "" if tie is None else AFTER_A_TIE
    last = np.array(golden["last_logits"], dtype=np.float32)
    deviations = {"logits after training" + after: worst(prompt["logits"][-1], last)}
    if "chosen" in golden:
        deviations["experts"] = flips(prompt, golden, 1e-5 if tie is None else 1e-3)
    return deviations


def tensor_change(case, out):
    if "lora" in case.config:
        golden, start = (case.tensors(f"{n}/adapter_model.safetensors") for n in ("final_adapter", "init_adapter"))
        ours = load_file(out / "export" / "adapter" / "adapter_model.safetensors")
    else:
        golden = case.tensors("final/model.safetensors")
        start = load_file(case.path("model") / "model.safetensors")
        ours = load_file(out / "export" / "model" / "model.safetensors")
    assert ours.keys() == golden.keys(), f"tensors {sorted(ours.keys() ^ golden.keys())}"
    norm = lambda x: float(np.linalg.norm(x.astype(np.float64)))
    # A tensor the golden run hardly moved is judged by its absolute distance.
    return max(norm(ours[n] - golden[n]) / max(norm(golden[n] - start[n]), 1e-5) for n in golden)


def first_step_gradient_norms(out, names, beta1):
    """‖gradient‖ of each tensor at step 0, from Adam's first moment (1 - beta1) g in the checkpoint after it."""
    moments = load_file(out / "checkpoints" / "step_00000001" / "optimizer.safetensors")
    norms = {}
    for name in names:
        stored = "exp_avg." + name.replace(".default.", ".")
        norms[name] = float(np.linalg.norm(moments[stored].astype(np.float64))) / (1 - beta1)
    return norms


def merged_export(case, out):
    """A run's export/model against the golden merge of the golden adapter: values, and bytes of what no adapter touches."""
    golden = load_file(case.folder / "merged" / "model.safetensors")
    base = load_file(case.path("model") / "model.safetensors")
    ours = load_file(out / "export" / "model" / "model.safetensors")
    assert ours.keys() == golden.keys(), f"tensors {sorted(ours.keys() ^ golden.keys())}"
    untouched = [n for n in base if np.array_equal(base[n], golden[n])]
    return {"tensor": max(worst(ours[n], golden[n]) for n in golden),
            "untouched tensors": sum(ours[n].tobytes() != base[n].tobytes() for n in untouched)}
