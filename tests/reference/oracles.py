"""Truths about EMoE and data parallelism that need no golden number (arXiv 2310.10908), on whole runs."""
import numpy as np
import pytest
from safetensors.numpy import load_file

import emoe_tools as tools

ROWS = str(tools.FIXTURES / "rows.json")
FULL = {"tuning": "full", "lora": None, "optimizer__learning_rate": 1e-3}
CONTIGUOUS = {"method": "contiguous"}


def weights(out):
    return load_file(out / "export" / "model" / "model.safetensors")


def change(ours, theirs, start):
    """Distance of two results as a part of how far training moved, of the worst tensor."""
    norm = lambda x: float(np.linalg.norm(x.astype(np.float64)))
    return max(norm(ours[n] - theirs[n]) / max(norm(theirs[n] - start[n]), 1e-6) for n in start)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_experts_chosen_is_dense(tmp_path, dtype):
    """Whole runs bit for bit. The last layer stays dense: where its experts are counted all tokens go through it, else
    only those with a target, and a product over other rows may round otherwise."""
    spec = tools.tiny_job(**FULL, data__eval=ROWS, model__dtype=dtype)
    dense = tools.run_job(tmp_path / "dense", spec)
    emoe = {"experts": 8, "top_k": 8, "layers": {"list": [0, 1]}, "partition": CONTIGUOUS}
    every = tools.run_job(tmp_path / "every", tools.changed(spec, emoe=emoe))
    tools.assert_same_training(every, dense)
    ours, theirs = (tools.read_lines(out / "eval.jsonl") for out in (every, dense))
    assert ours == theirs and all(row["loss"] == row["loss_dense"] for row in ours), "the mask of all experts is no mask"


def test_all_experts_chosen_in_the_last_layer_is_dense_to_rounding(tmp_path):
    dense = tools.run_job(tmp_path / "dense", tools.tiny_job(**FULL, data__eval=ROWS))
    emoe = {"experts": 8, "top_k": 8, "layers": {"list": [0, 1, 2]}, "partition": CONTIGUOUS}
    every = tools.run_job(tmp_path / "every", tools.tiny_job(**FULL, data__eval=ROWS, emoe=emoe))
    ours, theirs = (tools.read_lines(out / "metrics.jsonl") for out in (every, dense))
    assert all(abs(a["loss"] - b["loss"]) < 1e-6 * b["loss"] for a, b in zip(ours, theirs, strict=True))
    ours, theirs = (tools.read_lines(out / "eval.jsonl") for out in (every, dense))
    assert ours[0]["loss"] == ours[0]["loss_dense"] == theirs[0]["loss"]
    assert all(row["loss"] == row["loss_dense"] for row in ours), "the mask of all experts is no mask"
    assert change(weights(every), weights(dense), load_file(tools.TINY / "model.safetensors")) < 1e-3


def test_neurons_of_experts_never_chosen_do_not_move(tmp_path):
    emoe = {"experts": 48, "top_k": 1, "layers": {"list": [1]}, "partition": {"method": "random", "seed": 3}}
    out = tools.run_job(tmp_path, tools.tiny_job(**FULL, emoe=emoe, train__max_steps=2, train__global_batch=2))
    stats = tools.read_json(out / "expert_stats.json")["layers"][0]
    assert stats["layer"] == 1
    dead = [e for e, n in enumerate(stats["selections"]) if n == 0]
    assert dead and len(dead) < 48, stats["selections"]
    labels = np.array(tools.read_json(out / "partition" / "layer_01.json")["labels"])
    base, ours = load_file(tools.TINY / "model.safetensors"), weights(out)
    for name, axis in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
        key = f"model.layers.1.mlp.{name}.weight"
        moved = np.any(base[key] != ours[key], axis=1 - axis)
        assert not moved[np.isin(labels, dead)].any(), f"{name}: a neuron of a dead expert moved"
        assert moved[~np.isin(labels, dead)].all(), f"{name}: a neuron of a chosen expert did not move"


def test_top_and_not_top_are_complements(tmp_path):
    tokens = tools.write_json(tmp_path / "tokens.json", list(range(3, 120)))
    chosen = {}
    for selector, k in (("top", 3), ("not_top", 3), ("bottom", 5), ("top", 4), ("not_top", 4), ("bottom", 4)):
        job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job(
            emoe={"experts": 8, "top_k": k, "layers": {"list": [0, 2]}, "selector": selector,
                  "partition": {"method": "random", "seed": 1}}))
        out = tmp_path / "logits.safetensors"
        tools.worker("logits", "--model", tools.TINY, "--tokens", tokens, "--out", out, "--emoe", job).expect()
        tensors = load_file(out)
        assert set(tensors) == {"logits", "experts.0", "experts.2"} and tensors["experts.0"].dtype == np.int32
        chosen[selector, k] = {layer: [set(row) for row in tensors[f"experts.{layer}"].tolist()] for layer in (0, 2)}
        for layer in (0, 2):
            rows = tensors[f"experts.{layer}"]
            assert (np.diff(rows, axis=1) > 0).all(), "ascending, none twice"
    # In the first layer all see the same input; the later one depends on what the first chose.
    for k in (3, 4):
        for top, rest in zip(chosen["top", k][0], chosen["not_top", k][0], strict=True):
            assert not top & rest and len(top) == k and top | rest == set(range(8))
    assert chosen["not_top", 4][0] == chosen["bottom", 4][0], "at k = N / 2 the rest is the bottom"


@pytest.mark.parametrize("reduction", ["token", "example"])
def test_one_step_is_the_same_over_ranks_micro_batches_and_packing(tmp_path, reduction):
    """A rate in the linear range of Adam's first step would hide a wrong sum (it takes the sign): epsilon is made large."""
    base = load_file(tools.TINY / "model.safetensors")
    results = {}
    for name, ranks, packing, micro in (("one", None, False, 0), ("two", 2, True, 300), ("three", 3, True, 0),
                                        ("four", 4, False, 128), ("small", 1, True, 128)):
        spec = tools.tiny_job(**{**FULL, "optimizer__learning_rate": 0.1}, emoe=tools.TINY_EMOE, optimizer__epsilon=1.0,
                              train__max_steps=1, train__global_batch=11, train__loss_reduction=reduction,
                              optimizer__max_grad_norm=0, data__packing=packing, train__micro_batch_tokens=micro,
                              parallel__ranks=ranks or 1)
        out = tools.run_job(tmp_path / name, spec, ranks=ranks)
        results[name] = (weights(out), tools.read_lines(out / "metrics.jsonl")[0])
    golden, metrics = results.pop("one")
    for name, (ours, row) in results.items():
        assert change(ours, golden, base) < 1e-4, name
        assert row["target_tokens"] == metrics["target_tokens"] and row["tokens"] == metrics["tokens"], name
        for key in ("loss", "grad_norm"):
            assert abs(row[key] - metrics[key]) < 1e-5 * metrics[key], (name, key)


def test_the_same_job_twice_is_the_same_bit_for_bit(tmp_path):
    spec = tools.tiny_job(emoe=tools.TINY_EMOE, lora__dropout=0.2, lora__targets=tools.ALL_LINEARS, parallel__ranks=2)
    first, second = (tools.run_job(tmp_path / name, spec, ranks=2) for name in ("first", "second"))
    tools.assert_same_training(second, first)


def test_dense_loss_in_training_is_the_loss_of_the_export(tmp_path):
    spec = tools.tiny_job(emoe=tools.TINY_EMOE, lora__targets=tools.ALL_LINEARS, data__eval=ROWS)
    out = tools.run_job(tmp_path / "first", spec)
    last = tools.read_lines(out / "eval.jsonl")[-1]
    assert abs(last["loss"] - last["loss_dense"]) > 1e-3, "the mask makes no difference"
    assert abs(last["perplexity"] - np.exp(last["loss_dense"])) < 1e-6 * last["perplexity"]
    # The exported dense model, evaluated before the first step of a dense job and of a masked one.
    dense = tools.run_job(tmp_path / "dense", tools.changed(spec, model__path=str(out / "export" / "model"), emoe=None,
                                                            train__max_steps=1, export=None))
    again = tools.read_lines(dense / "eval.jsonl")[0]
    assert abs(again["loss"] - last["loss_dense"]) < 1e-5 * last["loss_dense"]
    file = {**tools.TINY_EMOE, "partition": {"method": "file", "path": str(labels_only(out / "partition", tmp_path / "labels"))}}
    masked = tools.run_job(tmp_path / "masked", tools.changed(spec, model__path=str(out / "export" / "model"), emoe=file,
                                                              train__max_steps=1, export=None))
    again = tools.read_lines(masked / "eval.jsonl")[0]
    assert abs(again["loss"] - last["loss"]) < 1e-5 * last["loss"]


def labels_only(source, folder):
    """A partition without the hash of the weights it was made from: those of the export are others."""
    for path in source.glob("layer_*.json"):
        document = tools.read_json(path)
        document.pop("weight_hash")
        tools.write_json(folder / path.name, document)
    return folder


def test_a_run_leaves_what_the_contract_says(tmp_path):
    spec = tools.tiny_job(emoe=tools.TINY_EMOE, data__eval=ROWS, train__eval_every=2, checkpoint__every_steps=1,
                          checkpoint__keep=2, train__max_steps=5)
    out = tools.run_job(tmp_path, spec)
    for name in ("job.yaml", "metrics.jsonl", "eval.jsonl", "data_report.json", "expert_stats.json", "partition/layer_00.json",
                 "partition/layer_02.json", "export/merge_report.json", "export/model/config.json",
                 "export/model/model.safetensors", "export/model/tokenizer.model", "export/adapter/adapter_config.json",
                 "export/adapter/adapter_model.safetensors"):
        assert (out / name).is_file(), name
    assert not (out / "partition" / "layer_01.json").exists(), "only converted layers have a partition"
    for row in tools.read_lines(out / "metrics.jsonl"):
        assert set(row) >= {"step", "loss", "learning_rate", "grad_norm", "tokens", "target_tokens", "seconds"}
    assert [row["step"] for row in tools.read_lines(out / "eval.jsonl")] == [0, 2, 4, 5]
    assert len(tools.valid_checkpoints(out)) == 2
    layer = tools.read_json(out / "partition" / "layer_00.json")
    assert set(layer) >= {"experts", "labels", "inertia", "method", "seed"}
    # job.yaml is the resolved spec: it runs again, to the same weights.
    again = tmp_path / "again"
    tools.worker("run", out / "job.yaml", "--out", again / "out").expect()
    assert tools.exported_weights(again / "out") == tools.exported_weights(out)


def test_generate(tmp_path):
    greedy = [tools.worker("generate", "--model", tools.TINY, "--prompt", "The cat", "--max-tokens", 8).expect().out for _ in range(2)]
    assert greedy[0] == greedy[1] and greedy[0].strip()
    warm = lambda seed: tools.worker("generate", "--model", tools.TINY, "--prompt", "The cat", "--max-tokens", 12,
                                     "--temperature", 1.5, "--seed", seed).expect().out
    assert warm(1) == warm(1) and warm(1) != warm(2)


def test_generate_follows_the_logits(tmp_path):
    """The KV cache changes nothing: each token is the likeliest after all before it."""
    import sentencepiece
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tools.TINY / "tokenizer.model"))
    prompt = "The cat sits on"
    text = tools.worker("generate", "--model", tools.TINY, "--prompt", prompt, "--max-tokens", 6).expect().out
    ids = [1] + processor.encode(prompt)
    wanted = []
    for _ in range(6):
        tokens = tools.write_json(tmp_path / "tokens.json", ids)
        tools.worker("logits", "--model", tools.TINY, "--tokens", tokens, "--out", tmp_path / "l.safetensors").expect()
        wanted.append(int(load_file(tmp_path / "l.safetensors")["logits"][-1].argmax()))
        ids.append(wanted[-1])
    assert processor.decode(wanted).strip() in text, (text, processor.decode(wanted))
