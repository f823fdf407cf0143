"""A base in float16, bfloat16, float32 or all of them: what comes out is, tensor by tensor, what went in plus what was trained.

The oracle is torch on the files alone: the base as stored, and the adapter or the checkpoint's fp32 masters.
"""
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import emoe_tools as tools

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
# Of a value, half of its last place: the most by which rounding to nearest may be off. 2^-25 is that of float16's subnormals.
HALF_A_PLACE = {torch.float16: 2**-11, torch.bfloat16: 2**-8, torch.float32: 2**-24}


def mixed(name):
    if "norm" in name:
        return torch.float32
    return torch.bfloat16 if "mlp" in name else torch.float16


def all_in(dtype):
    return lambda name: dtype


DTYPES = {"float16": all_in(torch.float16), "bfloat16": all_in(torch.bfloat16), "float32": all_in(torch.float32),
          "mixed": mixed}


def write_base(folder, dtype_of, tied=False, shards=1, change=lambda tensors: None):
    """The suite's own model with its tensors in other dtypes; `tied`: with the head in the file a second time."""
    shutil.copytree(tools.TINY, folder)
    tensors = load_file(folder / "model.safetensors")
    if tied:
        tensors[HEAD] = tensors[EMBEDDING].clone()
    tensors = {name: tensor.to(dtype_of(name)) for name, tensor in tensors.items()}
    change(tensors)
    config = tools.read_json(folder / "config.json")
    config["dtype"], config["tie_word_embeddings"] = str(tensors[HEAD].dtype).removeprefix("torch."), tied
    tools.write_json(folder / "config.json", config)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder
    (folder / "model.safetensors").unlink()
    names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    place = {tensor: names[i % shards] for i, tensor in enumerate(sorted(tensors))}
    for file in names:
        save_file({t: tensors[t] for t in place if place[t] == file}, folder / file, {"format": "pt"})
    size = sum(tensor.nbytes for tensor in tensors.values())
    tools.write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": place})
    return folder


def read_folder(folder):
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def job(base, **changes):
    """With the default export.dtype, a computation in bf16, of which the export must show nothing, and rows that fit."""
    rows = tools.write_json(base.parent / "rows.json", [{"instruction": f"Count to {i}", "output": f"one {i}"} for i in range(9)])
    return tools.tiny_job(**{"model__path": str(base), "model__dtype": "bfloat16", "export__dtype": None,
                             "data__train": str(rows), **changes})


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


def lora_oracle(base, out):
    """{name: fp64} of what LoRA made of the stored base."""
    adapter, config = load_file(out / "export/adapter/adapter_model.safetensors"), tools.read_json(
        out / "export/adapter/adapter_config.json")
    scale, merged = config["lora_alpha"] / config["r"], {}
    for name in base:
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in adapter:
            a, b = (adapter[f"{stem}.lora_{part}.weight"].double() for part in "AB")
            merged[name] = base[name].double() + scale * (b @ a)
    return merged


def check_lora(base, exported, out):
    oracle = lora_oracle(base, out)
    assert base.keys() == exported.keys() and 0 < len(oracle) < len(base)
    for name, tensor in exported.items():
        assert tensor.dtype == base[name].dtype, name
        if name not in oracle:
            assert torch.equal(bits(tensor), bits(base[name])), f"{name}: training did not touch it"
            continue
        allowed = oracle[name].abs() * HALF_A_PLACE[tensor.dtype] + 2**-25 + 1e-7  # 1e-7: the sum in fp32
        assert ((tensor.double() - oracle[name]).abs() <= allowed).all(), f"{name}: not the stored base + delta"
        # Two ways to sum in fp32 or fp64 end on two sides of a rounding edge now and then, no more.
        same = (tensor == oracle[name].to(tensor.dtype)).double().mean()
        assert tensor.dtype == torch.float32 or same > 0.99, name
    return oracle


def check_report(base, exported, oracle, out):
    """The figures of merge_report.json, from the files."""
    report = tools.read_json(out / "export/merge_report.json")
    assert report["verified"] and report["dtype"] == "auto" and report["tensors_converted"] == 0
    changed = [name for name in base if not torch.equal(bits(base[name]), bits(exported[name]))]
    assert report["tensors_changed"] == len(changed) and report["tensors_unchanged"] == len(base) - len(changed)
    lost = {name: (exported[name].double() - exact).norm() for name, exact in oracle.items()}
    delta = {name: (exact - base[name].double()).norm() for name, exact in oracle.items()}
    total = (sum(l**2 for l in lost.values()) / sum(d**2 for d in delta.values())).sqrt().item()
    assert report["relative_rounding_loss"] == pytest.approx(total, rel=1e-2, abs=1e-5)
    worst = max(oracle, key=lambda name: lost[name] / delta[name])
    said = (report["worst_rounded"] or {"relative_rounding_loss": 0.0})["relative_rounding_loss"]  # fp32 is not rounded
    assert said == pytest.approx((lost[worst] / delta[worst]).item(), rel=1e-2, abs=1e-5)
    counts = {}
    for tensor in exported.values():
        name = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}[tensor.dtype]
        counts[name] = counts.get(name, 0) + 1
    assert report["dtypes"] == counts
    return report


@pytest.mark.parametrize("shape", [{}, {"shards": 3}, {"tied": True}], ids=["one file", "shards", "tied"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lora_adds_to_the_stored_base_and_leaves_the_rest_alone(tmp_path, dtype, shape):
    folder = write_base(tmp_path / "base", DTYPES[dtype], **shape)
    out = tools.run_job(tmp_path, job(folder, emoe=tools.TINY_EMOE, data__strict=True))
    base, exported = read_folder(folder), read_folder(out / "export/model")
    check_report(base, exported, check_lora(base, exported, out), out)
    assert tools.read_json(out / "warnings.json") == []
    assert (out / "export/model/config.json").read_bytes() == (folder / "config.json").read_bytes()


@pytest.mark.parametrize("dtype", ["float16", "mixed"])
def test_full_tuning_rounds_its_masters_once(tmp_path, dtype):
    folder = write_base(tmp_path / "base", DTYPES[dtype])
    spec = job(folder, tuning="full", lora=None, emoe=tools.TINY_EMOE, optimizer__learning_rate=1e-3,
               checkpoint__every_steps=2)
    out = tools.run_job(tmp_path, spec)
    base, exported = read_folder(folder), read_folder(out / "export/model")
    masters = load_file(out / "checkpoints/step_00000004/weights.safetensors")
    for name, tensor in exported.items():
        assert tensor.dtype == base[name].dtype
        assert torch.equal(tensor, masters[name].to(tensor.dtype)), name
    check_report(base, exported, {name: master.double() for name, master in masters.items()}, out)
    # Killed after step 2 and started again, the same bytes come out.
    before = tools.exported_weights(out)
    shutil.rmtree(out / "export")
    shutil.rmtree(out / "checkpoints/step_00000004")
    again = tools.worker("run", tmp_path / "job.yaml", "--out", out).expect()
    assert "resumed from the checkpoint of step 2" in again.err and tools.exported_weights(out) == before


def test_masters_that_did_not_move_keep_the_stored_bytes(tmp_path):
    """A rate of 1e-30 moves no value that is not 0: nothing is re-rounded on the way through fp32 and bf16."""
    folder = write_base(tmp_path / "base", mixed)
    out = tools.run_job(tmp_path, job(folder, tuning="full", lora=None, optimizer__learning_rate=1e-30))
    base, exported = read_folder(folder), read_folder(out / "export/model")
    assert all(torch.equal(bits(base[name]), bits(exported[name])) for name in base)


@pytest.mark.parametrize("dtype", ["float16", "mixed"])
def test_stock_transformers_loads_every_value(tmp_path, dtype):
    folder = write_base(tmp_path / "base", DTYPES[dtype])
    out = tools.run_job(tmp_path, job(folder))
    exported = read_folder(out / "export/model")
    wide = AutoModelForCausalLM.from_pretrained(out / "export/model", dtype=torch.float32).state_dict()
    assert wide.keys() == exported.keys()
    assert all(torch.equal(wide[name], tensor.float()) for name, tensor in exported.items())
    # Without a word the base's own dtype, as it is for the base.
    plain = AutoModelForCausalLM.from_pretrained(out / "export/model").state_dict()
    assert {tensor.dtype for tensor in plain.values()} == {torch.float16}
    assert all(torch.equal(plain[name], tensor.half()) for name, tensor in exported.items())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_one_dtype_for_all(tmp_path, dtype):
    folder, type = write_base(tmp_path / "base", mixed), getattr(torch, dtype)
    out = tools.run_job(tmp_path, job(folder, export__dtype=dtype, data__strict=True))
    base, exported = read_folder(folder), read_folder(out / "export/model")
    oracle = lora_oracle(base, out)
    rounded = [name for name in base if name not in oracle and not torch.equal(base[name].to(type).double(), base[name].double())]
    assert {tensor.dtype for tensor in exported.values()} == {type}
    assert all(torch.equal(exported[name], base[name].to(type)) for name in base if name not in oracle)
    assert tools.read_json(out / "export/model/config.json")["dtype"] == dtype
    told = [(w["code"], w["count"], w["first"] in rounded) for w in tools.read_json(out / "warnings.json")]
    # Given, it passes data.strict; told of it is all the same, of the tensors whose values do lose bits.
    assert told == ([("BASE_ROUNDED", len(rounded), True)] if rounded else [])


def test_a_weight_beyond_float16(tmp_path):
    """An Adam step of 7e4 takes every weight beyond 65504."""
    folder = write_base(tmp_path / "base", all_in(torch.float16))
    spec = job(folder, tuning="full", lora=None, optimizer__learning_rate=7e4, train__max_steps=1, checkpoint__every_steps=1,
               model__dtype="float32")
    path = tools.write_yaml(tmp_path / "job.yaml", spec)
    refused = tools.worker("run", path, "--out", tmp_path / "out").expect(tools.USAGE)
    for word in ("lm_head.weight: 4", "beyond the range of float16 (65504)", "the largest is -7", "export.dtype to bfloat16 or float32"):
        assert word in refused.err, refused.err
    assert not (tmp_path / "out/export").exists()
    wide = tools.worker("run", path, "--out", tmp_path / "out", "--set", "export.dtype=float32").expect()
    assert "resumed from the checkpoint of step 1" in wide.err
    assert {t.dtype for t in read_folder(tmp_path / "out/export/model").values()} == {torch.float32}


def test_a_base_beyond_float16_is_refused_before_training(tmp_path):
    def enlarge(tensors):
        tensors[HEAD][3, 5] = 1e6

    folder = write_base(tmp_path / "base", all_in(torch.bfloat16), change=enlarge)
    out = tools.run_job(tmp_path, job(folder, export__dtype="float16"), code=tools.USAGE)
    assert not (out / "metrics.jsonl").exists() and not (out / "export").exists()
    tools.run_job(tmp_path / "auto", job(folder))


def test_the_reported_case(tmp_path):
    case = tools.SHARED / "reports" / "06-fp16-base"
    if not case.is_dir():
        pytest.skip(f"{case} is not there")
    out = tmp_path / "out"
    tools.worker("run", "job.yaml", "--out", out, cwd=case).expect()
    base, exported = read_folder(case / "model"), read_folder(out / "export/model")
    check_lora(base, exported, out)
    assert {tensor.dtype for tensor in exported.values()} == {torch.float16}
