"""task: merge: what it publishes equals what training published of the same adapter, and it holds little of the model."""
import re
import shutil
import sys

import pytest
import torch

import emoe_tools as tools
from emoe_api import ApiError


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that left an adapter and the model it was merged into."""
    return tools.run_job(tmp_path_factory.mktemp("trained"),
                         tools.tiny_job(lora__targets=tools.ALL_LINEARS, emoe=tools.TINY_EMOE))


def merge_job(**changes):
    return tools.changed({"task": "merge", "model": {"path": str(tools.TINY)}, "export": {"dtype": "float32"}}, **changes)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_is_the_export_of_training(trained, tmp_path):
    out = tools.run_job(tmp_path, merge_job(adapter=str(trained / "export" / "adapter")))
    assert files(out / "export" / "model") == files(trained / "export" / "model")
    report = tools.read_json(out / "export" / "merge_report.json")
    assert report["verified"] and report["tensors_changed"] == 21, report
    left = {path.name for path in out.iterdir()}
    assert left == {".lock", "cache", "job.yaml", "warnings.json", "export"}, left
    # Again, from the job.yaml it left; another adapter is another job.
    tools.worker("run", out / "job.yaml", "--out", out).expect()
    assert files(out / "export" / "model") == files(trained / "export" / "model")
    adapter = shutil.copytree(trained / "export" / "adapter", tmp_path / "adapter")
    config = tools.read_json(adapter / "adapter_config.json")
    tools.write_json(adapter / "adapter_config.json", {**config, "lora_alpha": 3})
    job = tools.write_yaml(tmp_path / "other.yaml", merge_job(adapter=str(adapter)))
    done = tools.worker("run", job, "--out", out).expect(tools.USAGE)
    assert "belongs to another job (the adapter has other content)" in done.err, done.err


def test_a_delta_much_larger_than_training_makes(trained, tmp_path):
    """What rounding costs its logits is more than usual; the bits of every tensor say that the merge is right."""
    from safetensors.torch import load_file, save_file
    adapter = shutil.copytree(trained / "export" / "adapter", tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    draw = torch.Generator().manual_seed(1)
    save_file({name: 0.5 * torch.randn(value.shape, generator=draw) for name, value in tensors.items()},
              adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    for dtype in ("float16", "bfloat16"):
        out = tools.run_job(tmp_path / dtype, merge_job(adapter=str(adapter), export__dtype=dtype))
        report = tools.read_json(out / "export" / "merge_report.json")
        logits = report["logits"]
        assert report["verified"] and logits["max_abs_difference"] > logits["tolerance"], logits


def test_several_adapters_under_the_coordinator(trained, coordinator, tmp_path):
    """0.75 and 0.25 of one adapter are that adapter; progress and states are those of an export."""
    adapter = str(trained / "export" / "adapter")
    twin = str(shutil.copytree(adapter, tmp_path / "twin"))
    spec = merge_job(merge={"adapters": [adapter, twin], "weights": [0.75, 0.25]})
    job = tools.write_yaml(tmp_path / "job.yaml", spec)
    done = tools.run([tools.EMOECTL, "--server", coordinator.grpc_address, "submit", job, "--wait"]).expect()
    assert "verified, 21 tensors changed" in done.out, done.out
    job_id = re.search(r"submitted (\S+)", done.err)[1]
    states = [coordinator.api.state_name(e.state_change.to) for e in coordinator.api.events(job_id)
              if e.WhichOneof("kind") == "state_change"]
    assert states[-3:] == ["RUNNING", "EXPORTING", "SUCCEEDED"], states
    from safetensors.numpy import load_file
    merged = load_file(coordinator.api.get(job_id).merge.model_dir + "/model.safetensors")
    for name, tensor in load_file(trained / "export" / "model" / "model.safetensors").items():
        assert abs(merged[name] - tensor).max() < 1e-6, name

    with pytest.raises(ApiError) as caught:
        coordinator.api.create(merge_job(merge={"adapters": [adapter, str(tmp_path / "nowhere")]}), validate_only=True)
    (key, text), = caught.value.violations
    assert key == "merge.adapters[1]" and "nowhere" in text, (key, text)


def test_a_folder_without_a_tokenizer_is_merged_too(trained, tmp_path):
    base = shutil.copytree(tools.TINY, tmp_path / "base")
    for path in base.glob("*token*"):
        path.unlink()
    out = tools.run_job(tmp_path, merge_job(model__path=str(base), adapter=str(trained / "export" / "adapter")))
    assert files(out / "export" / "model")["model.safetensors"] == \
        files(trained / "export" / "model")["model.safetensors"]


MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_memory(*command):
    """KiB that a command had in memory at most."""
    done = tools.run([sys.executable, "-c", MEASURE, *command]).expect()
    return int(re.search(r"peak (\d+)", done.out)[1])


def test_it_holds_a_part_of_the_model(trained, tmp_path):
    """A model of 270 MB in shards of 20 MB: beside what any merge takes there is memory for a shard or two."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=512, intermediate_size=2048, num_hidden_layers=16, num_attention_heads=8,
                         num_key_value_heads=8, vocab_size=512, max_position_embeddings=64)
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "base", max_shard_size="20MB")
    peft = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    peft.save_pretrained(tmp_path / "adapter")
    size = sum(path.stat().st_size for path in (tmp_path / "base").glob("*.safetensors"))
    assert size > 260e6, size
    small = tools.write_yaml(tmp_path / "small.yaml", merge_job(adapter=str(trained / "export" / "adapter")))
    large = tools.write_yaml(tmp_path / "large.yaml", merge_job(model__path=str(tmp_path / "base"), adapter=str(tmp_path / "adapter")))
    least = peak_memory(tools.WORKER, "run", small, "--out", tmp_path / "small")
    most = peak_memory(tools.WORKER, "run", large, "--out", tmp_path / "large")
    assert (most - least) * 1024 < 100e6, (least, most, size)
    stock = peft.merge_and_unload()
    ours = LlamaForCausalLM.from_pretrained(tmp_path / "large" / "export" / "model")
    for (name, theirs), mine in zip(stock.state_dict().items(), ours.state_dict().values(), strict=True):
        assert (theirs - mine).abs().max() < 1e-6, name
