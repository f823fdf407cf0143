"""Folders as they lie on disks: a hub's cache of links, shards, tensors of several dtypes and some that nobody needs; and one that
has pickles only."""
import pathlib
import re
import shlex
import shutil
import sys

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import emoe_tools as tools
from make_fixtures import logits_of, stock_model


def hub_cache(root):
    """tests/reference/data/tiny as the hub's client keeps a repository."""
    cache = root / "hub" / "models--own--tiny"
    snapshot, blobs = cache / "snapshots" / ("7" * 40), cache / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("7" * 40)
    tensors = load_file(tools.TINY / "model.safetensors")
    for i, name in enumerate(sorted(tensors)):
        if ".layers.1." in name:
            tensors[name] = tensors[name].to([torch.float16, torch.bfloat16][i % 2])
    for layer in range(3):
        tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    shards = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(sorted(tensors))}
    for shard in set(shards.values()):
        save_file({n: t for n, t in tensors.items() if shards[n] == shard}, snapshot / shard, {"format": "mlx", "by": "{}"})
    tools.write_json(snapshot / "model.safetensors.index.json", {"metadata": {"note": 1}, "weight_map": shards})
    for name in ("config.json", "tokenizer.model"):
        shutil.copy(tools.TINY / name, snapshot)
    for i, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(blobs / f"{i:064x}")
        path.symlink_to(pathlib.Path("../../blobs") / f"{i:064x}")
    return cache, snapshot, tensors


def test_a_hub_cache_is_a_model_folder(tmp_path):
    cache, snapshot, tensors = hub_cache(tmp_path)
    out = tools.run_job(tmp_path, tools.tiny_job(model__path=str(snapshot), export__dtype="auto", data__max_length=256))
    skipped, = [w for w in tools.read_json(out / "warnings.json") if w["code"] == "TENSORS_SKIPPED"]
    assert skipped["count"] == 3 and skipped["first"].endswith("layers.0.self_attn.rotary_emb.inv_freq")
    model = out / "export" / "model"
    assert not [path for path in model.iterdir() if path.is_symlink()]
    assert (model / "config.json").read_bytes() == (tools.TINY / "config.json").read_bytes()
    exported = {name: t for shard in model.glob("*.safetensors") for name, t in load_file(shard).items()}
    assert {n: t.dtype for n, t in exported.items()} == {n: t.dtype for n, t in tensors.items()}
    changed = {n for n in tensors if not torch.equal(exported[n], tensors[n])}
    assert changed and all(".q_proj." in n or ".v_proj." in n for n in changed)
    assert logits_of(stock_model(model), [1, 5, 9]).isfinite().all()
    refused = tools.worker("logits", "--model", cache, "--tokens", tools.write_json(tmp_path / "t.json", [1, 5]), "--out",
                           tmp_path / "l").expect(tools.USAGE)
    assert str(snapshot) in refused.err, refused.err


def test_pickles_are_converted_by_the_line_that_the_error_names(tmp_path):
    folder = shutil.copytree(tools.TINY, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    tokens = tools.write_json(tmp_path / "tokens.json", [1, 5, 9])
    ask = ["logits", "--model", folder, "--tokens", tokens, "--out", tmp_path / "logits.safetensors"]
    refused = tools.worker(*ask).expect(tools.USAGE)
    command = shlex.split(re.search(r"python3 -c '.*'", refused.err).group())
    tools.run([sys.executable, *command[1:]], env={"HF_HUB_OFFLINE": "1"}).expect()
    tools.worker(*ask).expect()
    with safe_open(tmp_path / "logits.safetensors", "pt") as file:
        ours = file.get_tensor("logits")
    assert torch.allclose(ours, logits_of(stock_model(tools.TINY), [1, 5, 9]), atol=1e-4)
