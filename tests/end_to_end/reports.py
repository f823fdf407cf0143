"""Inputs that broke fine-tuning tools, each in a folder of EMOE_SHARED/reports with what is right (docs/INPUTS.md has the
kinds and our own tests of them). One test a folder, and a table that says which: a folder without a test fails."""
import os
import shutil

import pytest

import emoe_tools as tools
from emoe_api import ApiError, Coordinator
from emoe_tools import DATA, USAGE

os.environ["HF_HUB_OFFLINE"] = "1"
REPORTS = tools.SHARED / "reports"
TOKENS_OF_TEXT = 269  # of folder 07, whatever its line ends are


@pytest.fixture
def folder(request, tmp_path):
    """A copy of the folder whose number the test's name has."""
    if not REPORTS.is_dir():
        pytest.skip(f"no folder {REPORTS}: set EMOE_SHARED to the folder that has reports/")
    number = request.node.originalname.split("_")[1]
    found = sorted(REPORTS.glob(f"{number}-*"))
    if not found:
        pytest.skip(f"{REPORTS} has no folder {number}-…")
    copy = tmp_path / "case"
    shutil.copytree(found[0], copy)
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)
    return copy


def run(folder, *changes, out="out", code=0, env=None):
    sets = [part for change in changes for part in ("--set", change)]
    return tools.worker("run", "job.yaml", "--out", out, *sets, cwd=folder, env=env).expect(code)


def said(done):
    """The sentence that a run ended with."""
    return done.err.strip().splitlines()[-1]


def codes(folder, out="out"):
    return [warning["code"] for warning in tools.read_json(folder / out / "warnings.json")]


def losses(folder, out="out"):
    return [step["loss"] for step in tools.read_lines(folder / out / "metrics.jsonl")]


def logits(folder, *arguments):
    """(of the last token, or None; the run)"""
    from safetensors.torch import load_file
    out = folder / "logits.safetensors"
    out.unlink(missing_ok=True)
    done = tools.worker("logits", "--model", "model", "--tokens", "tokens.json", "--out", out, *arguments, cwd=folder)
    return (load_file(out)["logits"][-1] if done.code == 0 else None), done


def test_every_folder_has_a_test():
    if not REPORTS.is_dir():
        pytest.skip(f"no folder {REPORTS}: set EMOE_SHARED to the folder that has reports/")
    tested = {name.split("_")[1] for name in globals() if name.startswith("test_") and name[5:7].isdigit()}
    assert {path.name[:2] for path in REPORTS.iterdir() if path.is_dir()} <= tested


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_01_a_proxy_does_not_catch_the_coordinator(folder, variable, shared_coordinator):
    listed = [tools.EMOECTL, "--server", shared_coordinator.grpc_address, "--timeout", "5s", "list"]
    for exceptions in ({}, {"no_proxy": "127.0.0.0/8"}):
        assert tools.run(listed, env={variable: "http://127.0.0.1:9", **exceptions}).expect().out.strip() == "no jobs"


def test_02_a_shell_of_slurm(folder):
    run(folder, env={"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "1", "SLURM_PROCID": "0",
                     "SLURM_NNODES": "1", "SLURM_NODELIST": "localhost"})
    run(folder, out="salloc", env={"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"})
    assert losses(folder) == losses(folder, "salloc") and len(losses(folder)) == 3


def test_03_added_tokens_are_one_id_each(folder):
    tools.worker("tokenize", "--model", "model", "--texts", "texts.json", "--out", "ids.json", cwd=folder).expect()
    assert tools.read_json(folder / "ids.json") == tools.read_json(folder / "hf.json")


def test_04_an_export_is_read_as_it_was_trained(folder):
    from transformers import AutoTokenizer
    run(folder)
    theirs = AutoTokenizer.from_pretrained(folder / "out" / "export" / "model")
    assert theirs("Once upon a time")["input_ids"] == [1, 403, 407, 261, 378]
    for text in tools.read_json(folder / "out" / "export" / "tokenizer_probe.json"):
        assert theirs(text["text"])["input_ids"] == text["ids"], text["text"]


def test_06_a_base_in_float16_keeps_its_values_or_is_said_to_be_rounded(folder):
    from safetensors.torch import load_file
    run(folder)
    base, export = (load_file(path / "model.safetensors") for path in (folder / "model", folder / "out" / "export" / "model"))
    name = "model.embed_tokens.weight"  # that no run trains
    kept = export[name].dtype == base[name].dtype and bool((export[name] == base[name]).all())
    assert kept == ("BASE_ROUNDED" not in codes(folder))


def test_07_line_ends_are_the_files(folder):
    for name in ("lf", "crlf", "cr"):
        run(folder, f"data.train={name}.txt", out=name)
        assert tools.read_json(folder / name / "data_report.json")["train"]["tokens"] == TOKENS_OF_TEXT, name


@pytest.mark.parametrize("name, keys", [("train.jsonl", ["history", "system"]), ("context.jsonl", ["context"])])
def test_08_keys_of_rows_that_nobody_reads(folder, name, keys):
    done = run(folder, f"data.train={name}")
    told = tools.read_json(folder / "out" / "warnings.json")
    assert [(w["code"], w["where"], w["count"], w["first"]) for w in told] == [
        ("UNREAD_KEY", f'data.train: "{key}"', 8, f"{name}:1") for key in keys]
    assert all(f'with a key "{key}"' in done.err for key in keys), done.err
    run(folder, f"data.train={name}", "data.strict=true", out="strict", code=DATA)


def test_09_a_key_twice(folder):
    assert 'line 1 has the key "instruction" twice in one object' in run(folder, code=DATA).err


def test_11_a_run_that_is_all_warm_up(folder):
    done = run(folder)
    assert codes(folder) == ["WARMUP_ONLY", "DELTA_ZERO"]
    assert done.err.index("nothing is learned") < done.err.index("training: 1 step"), done.err
    assert codes(folder)[0] in run(folder, "data.strict=true", out="strict", code=DATA).err


@pytest.mark.parametrize("model, file", [("weights", "model.safetensors"), ("tokenizer", "tokenizer.model")])
def test_12_a_pointer_of_git_lfs(folder, model, file):
    text = said(run(folder, f"model.path={model}", code=DATA))
    assert f"{model}/{file}: is a git-LFS pointer, the file itself (1044992 bytes) was not downloaded" in text


def test_13_keys_of_the_configuration_without_influence(folder):
    import torch
    from transformers import AutoModelForCausalLM
    run(folder)
    tools.write_json(folder / "tokens.json", [1, 3, 51, 173, 369, 130])
    ours, _ = logits(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    with torch.no_grad():
        wanted = theirs(torch.tensor([[1, 3, 51, 173, 369, 130]])).logits[0, -1]
    assert torch.allclose(ours, wanted, atol=1e-4)


def test_14_a_tokenizer_json_alone_is_read(folder):
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer
    run(folder)
    # As the file stands: transformers 5 takes the vocabulary alone out of that of a Llama.
    base = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
    export = AutoTokenizer.from_pretrained(folder / "out" / "export" / "model")
    for text in tools.read_json(folder / "out" / "export" / "tokenizer_probe.json"):
        assert base.encode(text["text"]).ids == text["ids"], text["text"]
        assert export(text["text"])["input_ids"] == text["ids"], text["text"]


def test_15_scaled_rotary_positions_are_computed(folder):
    import torch
    from transformers import AutoModelForCausalLM
    ours, done = logits(folder)
    assert ours is not None, done.text
    theirs = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    with torch.no_grad():
        wanted = theirs(torch.tensor([tools.read_json(folder / "tokens.json")])).logits[0, -1]
    assert torch.allclose(ours, wanted, atol=1e-3)


def test_16_two_jobs_share_the_cores(folder, tmp_path):
    cores = len(os.sched_getaffinity(0))
    with Coordinator(tmp_path, slots=cores, env={"OMP_NUM_THREADS": ""}) as coordinator:
        submit = [tools.EMOECTL, "--server", coordinator.grpc_address, "submit", "job.yaml"]
        for _ in range(2):
            tools.run(submit, cwd=folder).expect()
        for job in [job.id for job in coordinator.api.call("ListJobs").jobs]:
            coordinator.api.succeed(job)
            assert "computes with 1 thread\n" in coordinator.api.logs(job)


REFUSED = {"default-names": "the names carry the adapter's name \"default\"",
           "bin": "has its tensors in adapter_model.bin, a PyTorch pickle", "modules-to-save": "modules_to_save"}


@pytest.mark.parametrize("name", ["plain", "old-keys", "layers", "module-names", "rank-pattern", "regex", "rslora", *REFUSED])
def test_17_an_adapter_counts_as_in_peft_or_is_refused_by_name(folder, name, shared_coordinator):
    ours, done = logits(folder, "--adapter", name)
    if name not in REFUSED:
        assert ours is not None, done.text
        assert ours[:6].tolist() == pytest.approx(tools.read_json(folder / "peft.json")[name], abs=1e-4)
        return
    assert done.code in (DATA, USAGE) and REFUSED[name] in done.err, done.text
    tools.write_json(folder / "rows.json", [{"instruction": "Say hen.", "output": "hen"}])
    spec = tools.tiny_job(model__path=str(folder / "model"), data__train=str(folder / "rows.json"), train__global_batch=1,
                          lora={"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj"], "init_adapter": str(folder / name)})
    with pytest.raises(ApiError) as caught:
        shared_coordinator.api.create(spec, validate_only=True)
    assert any(REFUSED[name] in text for _, text in caught.value.violations), caught.value.violations


def test_18_heads_that_do_not_divide_the_hidden_size(folder):
    ours, done = logits(folder)
    assert ours is not None, done.text
    assert ours[:4].tolist() == pytest.approx([-0.04868, 0.18198, -0.0335, 0.57264], abs=1e-4)


def test_20_rows_end_in_the_end_that_the_folder_names(folder):
    run(folder)
    model = folder / "out" / "export" / "model"
    assert tools.read_json(model / "config.json")["eos_token_id"] == 513
    from transformers import AutoTokenizer
    assert AutoTokenizer.from_pretrained(model).eos_token_id == 513
    assert 513 in tools.read_json(model / "generation_config.json")["eos_token_id"], "what generate() of transformers heeds"


@pytest.mark.parametrize("name, text", [
    ("blank-between.jsonl", None), ("pretty.jsonl", None), ("lines.json", None),
    ("trailing-comma.json", "has a comma behind its last row"), ("utf16.jsonl", "is UTF-16 text"),
    ("nan-input.jsonl", "NaN"), ("lone-surrogate.jsonl", "surrogate")])
def test_22_rows_as_they_come(folder, name, text):
    if text is None:
        run(folder, f"data.train={name}")
        assert len(losses(folder)) == 3
        return
    done = run(folder, f"data.train={name}", code=DATA)
    assert text in said(done) and done.err.count(f"{name}:") == 1, done.err


def test_24_a_tied_flag_beside_another_head(folder):
    ours, done = logits(folder)
    if ours is None:
        assert done.code == DATA and "tie_word_embeddings; set that to false to use this head" in done.err, done.text
    config = tools.read_json(folder / "model" / "config.json")
    tools.write_json(folder / "model" / "config.json", {**config, "tie_word_embeddings": False})
    ours, _ = logits(folder)
    assert ours[:6].tolist() == pytest.approx(tools.read_json(folder / "hf.json"), abs=1e-4)


def test_25_a_resume_with_other_keys(folder):
    run(folder)
    before = losses(folder)
    done = run(folder, "train.max_steps=12", "train.global_batch=4", code=USAGE)
    assert "train.max_steps is 12, was 6" in done.err and "train.global_batch is 4, was 2" in done.err, done.err
    run(folder)
    assert losses(folder) == before
