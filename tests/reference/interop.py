"""What a run exports, in the hands of others: stock transformers and PEFT must compute what we compute."""
import hashlib
import pathlib

import numpy as np
import pytest
import sentencepiece
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import LlamaForCausalLM

import emoe_tools as tools
from make_fixtures import example_of, token_losses

ROWS = str(tools.FIXTURES / "rows.json")
TEXT = "The cat sits on the mat. Count from 1 to 5."
LOGITS_TOLERANCE = 1e-4  # fp32 on both sides
BFLOAT16_TOLERANCE = 2.0  # times what bfloat16 costs transformers itself, root mean square; measured 0.8 to 1.4
MERGE_TOLERANCE = 1e-6   # W + B A / s in fp32, summed in another order

METHODS = {
    "lora": {},
    "emoe-lora": {"lora__targets": tools.ALL_LINEARS, "emoe": tools.TINY_EMOE},
    "full": {"tuning": "full", "lora": None},
    "emoe-full": {"tuning": "full", "lora": None, "emoe": tools.TINY_EMOE},
}


class Run:
    def __init__(self, name, folder):
        self.name, self.folder = name, folder
        self.out = tools.run_job(folder, tools.tiny_job(data__eval=ROWS, parallel__ranks=2, **METHODS[name]), ranks=2)
        self.model = self.out / "export" / "model"
        self.adapter = self.out / "export" / "adapter"
        self.ids = tokens_of(self.model)

    def our_logits(self, model, *options):
        return our_logits(self.folder, model, self.ids, *options)

    def report(self):
        return tools.read_json(self.out / "export" / "merge_report.json")


def our_logits(folder, model, ids, *options):
    tokens, result = tools.write_json(folder / "tokens.json", ids), folder / "logits.safetensors"
    tools.worker("logits", "--model", model, "--tokens", tokens, "--out", result, *options).expect()
    return load_file(result)["logits"]


def tokens_of(model):
    return [1] + sentencepiece.SentencePieceProcessor(model_file=str(model / "tokenizer.model")).encode(TEXT)


def stock(model, dtype=torch.float32):
    return LlamaForCausalLM.from_pretrained(model, dtype=dtype, attn_implementation="eager").eval()


def their_logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float().numpy()


@pytest.fixture(scope="module", params=METHODS)
def finished(request, tmp_path_factory):
    return Run(request.param, tmp_path_factory.mktemp(request.param))


def test_merged_model_loads_in_transformers_and_agrees(finished):
    ours, theirs = finished.our_logits(finished.model), their_logits(stock(finished.model), finished.ids)
    assert np.abs(ours - theirs).max() < LOGITS_TOLERANCE
    base = their_logits(stock(tools.TINY), finished.ids)
    assert np.abs(theirs - base).max() > 1e-2, "the merged model is the base"


def test_adapter_loads_in_peft_on_the_original_base(finished):
    if "lora" in METHODS[finished.name]:  # None: full tuning, no adapter
        assert not finished.adapter.exists()
        return
    peft = PeftModel.from_pretrained(stock(tools.TINY), finished.adapter).eval()
    with_adapter = their_logits(peft, finished.ids)
    ours = finished.our_logits(tools.TINY, "--adapter", finished.adapter)
    assert np.abs(with_adapter - ours).max() < LOGITS_TOLERANCE
    merged = their_logits(stock(finished.model), finished.ids)
    assert np.abs(with_adapter - merged).max() < LOGITS_TOLERANCE, "PEFT's adapter and our merge are two models"


def test_evaluation_is_that_of_transformers_and_peft(finished):
    """task: evaluate on what came out, mask off: the mean over target tokens, row by row, without a batch."""
    spec = tools.as_evaluation(tools.tiny_job(data__eval=ROWS), model__path=str(finished.model))
    theirs = stock(finished.model)
    if finished.adapter.exists():
        spec = tools.changed(spec, model__path=str(tools.TINY), adapter=str(finished.adapter))
        theirs = PeftModel.from_pretrained(stock(tools.TINY), finished.adapter).eval()
    row, = tools.read_lines(tools.run_job(finished.folder / "evaluation", spec) / "eval.jsonl")
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tools.TINY / "tokenizer.model"))
    examples = [example_of(tokenizer, r, 128) for r in tools.read_json(ROWS)]
    with torch.no_grad():
        losses = torch.cat([token_losses(theirs, e) for e in examples if e[1] < len(e[0])]).double()
    assert row["target_tokens"] == len(losses)
    assert row["loss"] == row["loss_dense"] and abs(row["loss"] - losses.mean().item()) < 1e-5 * row["loss"]
    assert row["perplexity"] == pytest.approx(np.exp(row["loss_dense"]), rel=1e-12)


def test_our_merge_is_peft_merge(finished):
    if "lora" in METHODS[finished.name]:  # None: full tuning, no adapter
        return
    theirs = PeftModel.from_pretrained(stock(tools.TINY), finished.adapter).merge_and_unload().state_dict()
    ours = load_file(finished.model / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert max(np.abs(ours[name] - theirs[name].numpy()).max() for name in ours) < MERGE_TOLERANCE


def test_untouched_tensors_are_byte_identical(finished):
    base, ours = load_file(tools.TINY / "model.safetensors"), load_file(finished.model / "model.safetensors")
    assert base.keys() == ours.keys()
    if "lora" in METHODS[finished.name]:  # None: full tuning, no adapter
        touched = set(base)
    else:
        targets = METHODS[finished.name].get("lora__targets", ["q_proj", "v_proj"])
        touched = {name for name in base if any(f".{t}." in name for t in targets)}
    changed = {name for name in base if base[name].tobytes() != ours[name].tobytes()}
    assert changed <= touched
    assert len(changed) >= len(touched) - 1, f"unchanged: {sorted(touched - changed)}"


def test_other_files_of_the_folder(finished):
    # Whatever came with the base goes with the merged model, unchanged where it says nothing about weights.
    assert (finished.model / "tokenizer.model").read_bytes() == (tools.TINY / "tokenizer.model").read_bytes()
    theirs, ours = tools.read_json(tools.TINY / "config.json"), tools.read_json(finished.model / "config.json")
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                "rms_norm_eps", "vocab_size", "tie_word_embeddings", "model_type", "architectures"):
        assert ours[key] == theirs[key], key
    stray = [p.name for p in finished.out.rglob("*.tmp")]
    assert not stray, stray


def test_merge_report_is_complete_and_true(finished):
    report = finished.report()
    base, ours = load_file(tools.TINY / "model.safetensors"), load_file(finished.model / "model.safetensors")
    changed = [name for name in base if base[name].tobytes() != ours[name].tobytes()]
    assert report["verified"] is True
    assert report["tensors_changed"] == len(changed)
    assert report["tensors_unchanged"] == len(base) - len(changed)
    delta = max(float(np.abs(ours[name] - base[name]).max()) for name in base)
    assert abs(report["max_abs_delta"] - delta) <= 1e-6 * delta
    hashes = report["sha256"]
    files = {str(p.relative_to(finished.model)) for p in finished.model.rglob("*") if p.is_file()}
    listed = {pathlib.PurePath(name).name for name in hashes}
    assert {pathlib.PurePath(name).name for name in files} <= listed, f"not hashed: {files - listed}"
    for name, digest in hashes.items():
        path = next(p for p in (finished.out / "export" / name, finished.model / name, finished.adapter / name) if p.is_file())
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest, name


def test_bfloat16_export_is_the_rounded_fp32_export(tmp_path):
    fine = tools.run_job(tmp_path / "fine", tools.tiny_job())
    coarse = tools.run_job(tmp_path / "coarse", tools.tiny_job(export__dtype="bfloat16"))
    import safetensors.torch
    fp32, bf16 = (safetensors.torch.load_file(out / "export" / "model" / "model.safetensors") for out in (fine, coarse))
    for name, tensor in bf16.items():
        assert tensor.dtype == torch.bfloat16, name
        assert torch.equal(tensor, fp32[name].bfloat16()), name
    config = tools.read_json(coarse / "export" / "model" / "config.json")
    assert config.get("dtype", config.get("torch_dtype")) == "bfloat16"


def test_bfloat16_export_computes_the_same_in_transformers(tmp_path):
    model = tools.run_job(tmp_path, tools.tiny_job(export__dtype="bfloat16")) / "export" / "model"
    ids = tokens_of(model)
    # The same rounded weights, computed with in fp32 ...
    exact = their_logits(stock(model), ids)
    assert np.abs(our_logits(tmp_path, model, ids) - exact).max() < LOGITS_TOLERANCE
    # ... and in bfloat16 throughout.
    theirs = their_logits(stock(model, torch.bfloat16), ids)
    ours = our_logits(tmp_path, model, ids, "--dtype", "bfloat16")
    size = lambda difference: float(np.sqrt((difference**2).mean()))
    assert LOGITS_TOLERANCE < size(ours - exact), "computed in fp32 after all"
    assert size(ours - exact) < BFLOAT16_TOLERANCE * size(theirs - exact)
    assert size(ours - theirs) < BFLOAT16_TOLERANCE * size(theirs - exact)


def test_shared_base(tmp_path):
    """The same with a tied embedding and a folder from elsewhere."""
    model = tools.SHARED / "data" / "models" / "stories260K"
    if not model.is_dir():
        pytest.skip(f"{model} is not there")
    spec = tools.tiny_job(model__path=str(model), data__max_length=256, tuning="full", lora=None,
                          emoe={**tools.TINY_EMOE, "experts": 4, "top_k": 2}, optimizer__learning_rate=1e-3)
    out = tools.run_job(tmp_path, spec)
    ids = tokens_of(out / "export" / "model")
    ours = our_logits(tmp_path, out / "export" / "model", ids)
    assert np.abs(ours - their_logits(stock(out / "export" / "model"), ids)).max() < LOGITS_TOLERANCE
    assert "lm_head.weight" not in load_file(out / "export" / "model" / "model.safetensors")
