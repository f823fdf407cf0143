"""Every decoder shape against stock transformers and PEFT: random models of odd widths, made by transformers; logits, ten
steps with LoRA and in full, with experts and without, what comes out, and a run that was stopped."""
import json
import shutil

import numpy as np
import pytest
import sentencepiece
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

import compare
import emoe_api
import emoe_tools as tools
import make_fixtures as oracle
from cases import Case
from tolerances import Table

VOCABULARY = 256 + 7  # the tokenizer has 256 pieces
EXPERTS = 3
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}
WINDOWS = {"use_sliding_window": True, "sliding_window": 11}
# Class, its keys, and whether config.json is written as transformers 4 did.
SHAPES = {
    "llama-2": (LlamaConfig, dict(hidden_size=20, num_attention_heads=5, num_key_value_heads=5), True),
    "llama-3.2": (LlamaConfig, dict(hidden_size=24, num_attention_heads=6, num_key_value_heads=2, rope_parameters=LLAMA3,
                                    tie_word_embeddings=True), False),
    "llama-biases": (LlamaConfig, dict(hidden_size=21, num_attention_heads=3, num_key_value_heads=1, head_dim=10,
                                       attention_bias=True, mlp_bias=True,
                                       rope_parameters={"rope_type": "linear", "factor": 2.5, "rope_theta": 1e4}), True),
    "mistral": (MistralConfig, dict(hidden_size=24, num_attention_heads=4, num_key_value_heads=2, sliding_window=7), True),
    "mistral-no-window": (MistralConfig, dict(hidden_size=18, num_attention_heads=3, num_key_value_heads=3,
                                              sliding_window=None, tie_word_embeddings=True), False),
    "qwen2": (Qwen2Config, dict(hidden_size=28, num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True),
              True),
    "qwen2-windows": (Qwen2Config, dict(hidden_size=20, num_attention_heads=2, num_key_value_heads=1, max_window_layers=1,
                                        **WINDOWS), False),
    "qwen3": (Qwen3Config, dict(hidden_size=17, num_attention_heads=4, num_key_value_heads=2, head_dim=6), False),
    "qwen3-biases": (Qwen3Config, dict(hidden_size=16, num_attention_heads=3, num_key_value_heads=1, head_dim=14,
                                       attention_bias=True, tie_word_embeddings=True, rope_parameters=LLAMA3,
                                       layer_types=["sliding_attention", "full_attention"], **WINDOWS), True),
}
# Rank 1 and 2, rsLoRA or not; experts in the other method of each shape.
RUNS = [(name, method, bool((i + (method == "full")) % 2)) for i, name in enumerate(SHAPES) for method in ("lora", "full")]
RUNS += [("llama-biases", "lora", True), ("llama-biases", "full", False), ("qwen3", "lora", False)]


def as_version_4(path):
    config = tools.read_json(path)
    rope = config.pop("rope_parameters")
    config["rope_theta"], kind = rope.pop("rope_theta"), rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=4, sort_keys=False) + "\n")


def make_model(name, folder):
    kind, keys, older = SHAPES[name]
    torch.manual_seed(sorted(SHAPES).index(name))
    model = AutoModelForCausalLM.from_config(kind(**{
        "vocab_size": VOCABULARY, "intermediate_size": 33, "num_hidden_layers": 2, "max_position_embeddings": 256,
        "initializer_range": 0.25, "bos_token_id": 1, "eos_token_id": 2, **keys}))
    for path, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.data = ("bias" not in path) + 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if older:
        as_version_4(folder / "config.json")
    shutil.copy(tools.TINY / "tokenizer.model", folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Each made once: a folder of folders."""
    root = tmp_path_factory.mktemp("shapes")
    for name in SHAPES:
        make_model(name, root / name)
    shutil.copy(tools.FIXTURES / "rows.json", root)
    labels = [c % EXPERTS for c in range(33)]
    tools.write_json(root / "experts.json", {"num_experts": EXPERTS, "labels": [labels, labels[::-1]]})
    return root


def make_case(models, name, method, experts):
    """A golden case, as make_fixtures.py makes them, of a shape."""
    folder = models / f"{name}-{method}-{experts}"
    folder.mkdir()
    case = dict(command="train", model=f"../{name}", data="../rows.json", data_start=0, data_count=8, eval_start=32,
                eval_count=2, max_length=112, global_batch_size=2, max_steps=10, max_grad_norm=1.0, seed=3, prompt=oracle.PROMPT,
                learning_rate=3e-3, lr_scheduler_type="cosine", warmup_ratio=0.1, weight_decay=0.1, loss_reduction="token",
                least_margin=1e-6)
    if method == "lora":
        case["lora"] = dict(r=1 + len(name) % 2, alpha=4, target_modules=tools.ALL_LINEARS, init_b_std=0.05)
    if experts:
        case |= dict(experts=str(models / "experts.json"), layers=[1], num_selected=2, selector="top")
    (folder / "config.yaml").write_text(yaml.safe_dump(case, sort_keys=False))
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(models / name / "tokenizer.model"))
    oracle.train(case, folder, tokenizer, tools.read_json(models / "rows.json"))
    return Case(folder)


def size_off(ours, theirs):
    """The largest difference as a part of the largest logit."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


IDS = [1] + [(i * 37 + 11) % VOCABULARY for i in range(60)]


@pytest.mark.parametrize("name", SHAPES)
def test_logits(models, tmp_path, name):
    theirs = oracle.logits_of(oracle.stock_model(models / name), IDS).numpy()
    off = size_off(compare.logits(tmp_path, models / name, IDS)["logits"], theirs)
    print(f"{name}: logits off by {off:.1e} of their size")
    assert off < 1e-5, "wanted is 1e-4"


@pytest.mark.parametrize("name,method,experts", RUNS)
def test_ten_steps_and_the_export(models, tmp_path, name, method, experts):
    case = make_case(models, name, method, experts)
    spec = case.job(tmp_path)
    if method == "lora":
        spec["lora"]["targets"] = ["all-linear"]
    out = tools.run_job(tmp_path, spec)
    deviations, note = compare.training(case, out, compare.prompt_after_training(case, tmp_path, out))
    table = Table("shapes")
    table.add(name, f"{method}, experts {experts}", deviations, note=note)
    assert not table.failures
    exported = out / "export" / "model"
    assert (exported / "config.json").read_bytes() == (models / name / "config.json").read_bytes()
    theirs = oracle.logits_of(oracle.stock_model(exported), IDS).numpy()
    assert size_off(compare.logits(tmp_path, exported, IDS)["logits"], theirs) < 1e-5
    if method == "lora":
        adapter = out / "export" / "adapter"
        peft = oracle.logits_of(PeftModel.from_pretrained(oracle.stock_model(models / name), adapter).eval(), IDS).numpy()
        assert size_off(theirs, peft) < 1e-5, "PEFT's adapter and our merge are two models"


# Settings that PEFT has and a job of ours has not.
ADAPTERS = {
    "patterns": dict(r=2, lora_alpha=5, target_modules=["q_proj", "up_proj", "o_proj"], alpha_pattern={"up_proj": 9},
                     rank_pattern={"layers.1.self_attn.q_proj": 3, "o_proj": 1}),
    "one layer": dict(r=1, lora_alpha=3, target_modules=["v_proj", "mlp.down_proj"], layers_to_transform=[1],
                      layers_pattern="layers", use_rslora=True, rank_pattern={"down_proj": 3}),
    "expression": dict(r=3, lora_alpha=2, target_modules=r".*\.(0\..*(q|k)_proj|1\.mlp\.(gate|down)_proj)"),
    "all linears": dict(r=2, lora_alpha=2, target_modules="all-linear", use_rslora=True),
}


@pytest.mark.parametrize("settings", ADAPTERS)
def test_adapters_in_pefts_full_form(models, tmp_path, settings):
    """Logits with one, and what training that starts from it leaves, read by PEFT."""
    base, keys = models / "qwen3-biases", ADAPTERS[settings]
    torch.manual_seed(1)
    model = get_peft_model(oracle.stock_model(base), LoraConfig(task_type="CAUSAL_LM", **keys))
    for path, parameter in model.named_parameters():
        if "lora_B" in path:
            parameter.data.normal_(0.0, 0.1)
    model.save_pretrained(tmp_path / "adapter")
    theirs = oracle.logits_of(model, IDS).numpy()
    ours = compare.logits(tmp_path, base, IDS, "--adapter", tmp_path / "adapter")["logits"]
    assert size_off(ours, theirs) < 1e-5
    parts = [str(tmp_path / "adapter"), str(shutil.copytree(tmp_path / "adapter", tmp_path / "twin"))]
    merge = {"task": "merge", "model": {"path": str(base)}, "export": {"dtype": "float32"},
             "merge": {"adapters": parts, "weights": [0.75, 0.25]}}
    merged = tools.run_job(tmp_path / "merge", merge) / "export" / "model"
    assert size_off(oracle.logits_of(oracle.stock_model(merged), IDS).numpy(), theirs) < 1e-5
    linears = sorted({path.split(".lora_A")[0].split(".")[-1] for path, _ in model.named_parameters() if ".lora_A" in path})
    lora = {"rank": keys["r"], "alpha": keys["lora_alpha"], "dropout": 0.0, "targets": linears,
            "init_adapter": str(tmp_path / "adapter"), "use_rslora": keys.get("use_rslora", False)}
    out = tools.run_job(tmp_path, tools.tiny_job(model__path=str(base), lora=lora, train__max_steps=2))
    tuned = PeftModel.from_pretrained(oracle.stock_model(base), out / "export" / "adapter").eval()
    theirs = oracle.logits_of(tuned, IDS).numpy()
    assert size_off(compare.logits(tmp_path, out / "export" / "model", IDS)["logits"], theirs) < 1e-5
    assert {n: p.shape for n, p in tuned.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}


@pytest.mark.parametrize("name", ["llama-biases", "qwen3-biases"])
def test_a_stopped_run_goes_on_bit_for_bit(models, tmp_path, name):
    """Biases and norms trained in full, with experts whose neurons are permuted in memory."""
    spec = tools.tiny_job(model__path=str(models / name), tuning="full", lora=None, train__max_steps=6,
                          checkpoint__every_steps=3, train__global_batch=4,
                          emoe={"experts": EXPERTS, "top_k": 1, "layers": {"list": [0, 1]}, "partition": {"method": "random"}})
    job, out = tools.write_yaml(tmp_path / "job.yaml", spec), tmp_path / "out"
    holds = tools.Holds(tmp_path / "holds", "step-4")
    with tools.Background(tools.worker_command("run", job, "--out", out), tmp_path / "log", env=holds.env) as run:
        metrics = out / "metrics.jsonl"
        tools.wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") == 4, 60, lambda: run.text)
    tools.worker("run", job, "--out", out).expect()
    tools.assert_same_training(out, tools.run_job(tmp_path / "whole", spec))


def test_rows_that_share_their_beginnings_and_a_window(models, tmp_path):
    """Rows side by side, whose common template is longer than the window, learn what rows alone learn."""
    spec = tools.tiny_job(model__path=str(models / "mistral"), train__max_steps=3)
    outs = [tools.run_job(tmp_path / str(packing), tools.changed(spec, data__packing=packing)) for packing in (True, False)]
    assert '"common_tokens": 0' not in (outs[0] / "data_report.json").read_text()
    packed, alone = ([row["loss"] for row in tools.read_lines(out / "metrics.jsonl")] for out in outs)
    assert packed == pytest.approx(alone, rel=1e-5)


def test_a_coordinator_admits_them(models, tmp_path):
    """By config.json and the headers of the weights, before anything runs; and no other architecture."""
    with emoe_api.Coordinator(tmp_path) as coordinator:
        check = lambda path: coordinator.api.create(tools.tiny_job(model__path=str(path), lora__targets=["all-linear"]),
                                                    validate_only=True)
        for name in SHAPES:
            check(models / name)
        other = shutil.copytree(models / "qwen3", tmp_path / "gemma")
        tools.write_json(other / "config.json", {**tools.read_json(other / "config.json"), "model_type": "gemma3_text"})
        with pytest.raises(emoe_api.ApiError) as caught:
            check(other)
        assert any("supported are llama, mistral, qwen2, qwen3" in text for _, text in caught.value.violations)
        qwen = shutil.copytree(models / "qwen2", tmp_path / "llama")
        tools.write_json(qwen / "config.json", {**tools.read_json(qwen / "config.json"), "model_type": "llama",
                                                   "architectures": ["LlamaForCausalLM"]})
        with pytest.raises(emoe_api.ApiError) as caught:
            check(qwen)
        assert any("max_window_layers" in text for _, text in caught.value.violations), "a key that a Llama has not"
