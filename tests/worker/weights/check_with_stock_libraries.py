"""Stock transformers, PEFT and safetensors against worker/weights, both ways.

    check_with_stock_libraries.py EXPORT_TOOL

The tool makes bases, exports and logits in a folder of ours; here the same logits come out of
AutoModelForCausalLM on export/model, and of PeftModel on the base with export/adapter. Then the
other way: what these libraries save, the tool reads.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"
warnings.filterwarnings("ignore")

import torch  # noqa: E402
from peft import PeftModel  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM  # noqa: E402

torch.set_num_threads(1)
# |logits| are about 5. fp32: the order of summation. bf16: 2^-8 of each weight, 3 layers.
TOLERANCE = {"float32": 2e-4, "bfloat16": 0.25}


def load(folder):
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        left = [key for key in info.get(kind) or [] if key != "lm_head.weight"]
        assert not left, f"{folder}: {kind}: {left}"
    return model.eval()


def difference(model, ids, expected):
    with torch.no_grad():
        logits = model(ids[None]).logits[0].float()
    assert logits.shape == expected.shape
    return (logits - expected).abs().max().item()


def check_case(folder):
    data = load_file(folder / "logits.safetensors")
    ids, expected = data["ids"], data["logits"]
    report = json.loads((folder / "export/merge_report.json").read_text())
    assert report["verified"] is True
    scale = max(1.0, expected.abs().max().item())
    tolerance = TOLERANCE[report["dtype"]] * scale / 5
    merged = difference(load(folder / "export/model"), ids, expected)
    assert merged < tolerance, f"{folder.name}: merged model off by {merged}"
    text = f"{folder.name}: merged {merged:.1e}"
    untuned = difference(load(folder / "base"), ids, expected)
    assert untuned > 20 * tolerance or report["dtype"] == "bfloat16", "the tuning does not show"
    assert untuned > merged * 10
    if (folder / "export/adapter").exists():
        adapted = PeftModel.from_pretrained(load(folder / "base"), folder / "export/adapter")
        off = difference(adapted.eval(), ids, expected)
        # The adapter is fp32 on the base itself: exact whatever the merged model's dtype.
        assert off < TOLERANCE["float32"] * scale, f"{folder.name}: adapter off by {off}"
        text += f", adapter {off:.1e}"
    print(f"{text}, base {untuned:.1e} (max |logit| {scale:.1f})")


def check_files_round_trip(folder):
    """The safetensors library reads our files bit for bit, and saves them to the same tensors."""
    for file in sorted(folder.glob("*/export/*/*.safetensors")):
        tensors = load_file(file)
        with safe_open(file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}, file
            assert set(opened.keys()) == set(tensors)
        save_file(tensors, folder / "again.safetensors")
        again = load_file(folder / "again.safetensors")
        for name, tensor in tensors.items():
            assert tensor.dtype == again[name].dtype and torch.equal(tensor, again[name]), name
    for index in folder.glob("*/export/model/model.safetensors.index.json"):
        content = json.loads(index.read_text())
        files = set(content["weight_map"].values())
        total = sum(t.nbytes for f in files for t in load_file(index.parent / f).values())
        assert content["metadata"]["total_size"] == total and len(files) > 1, index


def check_model_saved_by_transformers(tool, folder):
    torch.manual_seed(3)
    for name, tied, dtype in (("untied", False, torch.float32), ("tied", True, torch.bfloat16)):
        config = LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=1, head_dim=16, rms_norm_eps=1e-5,
            max_position_embeddings=64, tie_word_embeddings=tied, initializer_range=0.15,
            rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
        )  # fmt: skip
        model = LlamaForCausalLM(config).to(dtype)
        model.save_pretrained(folder / name, max_shard_size="20KB")
        assert (folder / name / "model.safetensors.index.json").exists()
        out = folder / f"{name}.safetensors"
        subprocess.run([tool, "logits", folder / name, out], check=True)
        data = load_file(out)
        # Not the model in hand: .to(bfloat16) rounded its rotary frequencies too.
        off = difference(load(folder / name), data["ids"], data["logits"])
        assert off < TOLERANCE["float32"], f"saved by transformers, {name}: off by {off}"
        print(f"saved by transformers, {name}: {off:.1e}")


def check_file_saved_by_safetensors(tool, folder):
    torch.manual_seed(4)
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64,
              torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)  # fmt: skip
    tensors = {str(t): (torch.randn(3, 5) * 3).to(t) for t in dtypes}
    tensors |= {"empty": torch.zeros(0, 4), "scalar": torch.tensor(2.5), "naïve «name»": torch.ones(1)}
    save_file(tensors, folder / "in.safetensors", {"who": "safetensors"})
    subprocess.run([tool, "copy", folder / "in.safetensors", folder / "out.safetensors"], check=True)
    copied = load_file(folder / "out.safetensors")
    assert set(copied) == set(tensors)
    for name, tensor in tensors.items():
        assert copied[name].dtype == tensor.dtype and torch.equal(copied[name], tensor), name
    with safe_open(folder / "out.safetensors", "pt") as opened:
        assert opened.metadata() == {"who": "safetensors"}


def main():
    tool = sys.argv[1]
    with tempfile.TemporaryDirectory() as name:
        made = pathlib.Path(name) / "made"
        subprocess.run([tool, "make", made], check=True)
        cases = sorted(path for path in made.iterdir() if path.is_dir())
        assert len(cases) == 6
        for case in cases:
            check_case(case)
        check_files_round_trip(made)
        check_model_saved_by_transformers(tool, pathlib.Path(name))
        check_file_saved_by_safetensors(tool, pathlib.Path(name))


if __name__ == "__main__":
    main()
