"""What clones, downloads and editors leave in place of a file: one sentence that names it, for every file a user hands over."""
import json
import pathlib
import shutil
import struct

import pytest

import emoe_tools as tools
from emoe_tools import DATA, FIXTURES, TINY, USAGE

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 13476835328\n"
CONTENTS = {  # in place of the file: (its bytes, or how it is made; what the message says)
    "pointer": (POINTER, "is a git-LFS pointer, the file itself (13476835328 bytes) was not downloaded"),
    "page": (b"<!DOCTYPE html>\n<html><head><title>Sign in</title>", "is an HTML page"),
    "refusal": (b'{"error":"Access to this model is restricted"}', "is an error message that answered its download"),
    "nothing": (b"", "is empty"),
    "zeros": (bytes(4096), "begins with zero bytes"),
    "archive": (b"PK\x03\x04\x14\0\0\0\x08\0", None),
    "link": (lambda path: path.symlink_to("../../blobs/4d7a"), "is a link to ../../blobs/4d7a, which is not there"),
}
FILES = ["model/config.json", "model/tokenizer.model", "model/model.safetensors", "model/tokenizer_config.json",
         "model/generation_config.json", "adapter/adapter_config.json", "adapter/adapter_model.safetensors",
         "partition/layer_00.json", "rows.json", "job.yaml"]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder with one of each file, and a job that uses them all."""
    folder = tmp_path_factory.mktemp("good")
    shutil.copytree(TINY, folder / "model")
    shutil.copytree(FIXTURES / "emoe-lora" / "init_adapter", folder / "adapter")
    shutil.copy(FIXTURES / "rows.json", folder / "rows.json")
    first = tools.run_job(folder / "first", tools.tiny_job(emoe=tools.TINY_EMOE, export=None))
    shutil.copytree(first / "partition", folder / "partition")
    return folder


def run_with(folder, tmp_path):
    emoe = {**tools.TINY_EMOE, "partition": {"method": "file", "path": str(folder / "partition")}}
    adapter = tools.read_json(FIXTURES / "emoe-lora" / "init_adapter" / "adapter_config.json")
    spec = tools.tiny_job(model__path=str(folder / "model"), data__train=str(folder / "rows.json"), emoe=emoe,
                          lora={"rank": adapter["r"], "alpha": adapter["lora_alpha"], "targets": adapter["target_modules"],
                                "init_adapter": str(folder / "adapter")})
    job = folder / "job.yaml"
    if not job.exists() and not job.is_symlink():
        tools.write_yaml(job, spec)
    return tools.worker("run", job, "--out", tmp_path / "out")


@pytest.mark.parametrize("file", FILES)
def test_a_stand_in_is_named(file, good, tmp_path):
    for what, (content, said) in CONTENTS.items():
        folder = tmp_path / what
        shutil.copytree(good, folder)
        path = folder / file
        path.unlink(missing_ok=True)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content)
        done = run_with(folder, folder)
        absent = what == "link" or file == "job.yaml"
        done.expect(USAGE if absent else DATA)
        last = done.err.strip().splitlines()[-1]
        wanted = said or ("safe_serialization=True" if file.endswith(".safetensors") else "is a zip archive")
        assert wanted in last and pathlib.Path(file).name in last, (what, done.err)


def test_without_a_stand_in_it_runs(good, tmp_path):
    folder = tmp_path / "good"
    shutil.copytree(good, folder)
    run_with(folder, tmp_path).expect()


@pytest.mark.parametrize("file", ["config.json", "tokenizer.model", "model.safetensors"])
def test_half_a_download(file, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(TINY, model)
    data = (model / file).read_bytes()
    (model / file).write_bytes(data[:len(data) // 2])
    job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job(model__path=str(model)))
    done = tools.worker("run", job, "--out", tmp_path / "out").expect(DATA)
    assert "ends in the middle" in done.err or "is cut short" in done.err, done.err


def poison(model, name):
    path = model / "model.safetensors"
    raw = path.read_bytes()
    length, = struct.unpack("<Q", raw[:8])
    begin, _ = json.loads(raw[8:8 + length])[name]["data_offsets"]
    at = 8 + length + begin + 8
    path.write_bytes(raw[:at] + struct.pack("<f", float("nan")) + raw[at + 4:])


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_a_nan_of_the_base_is_named(name, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(TINY, model)
    poison(model, name)
    spec = tools.tiny_job(model__path=str(model))
    for job in (spec, tools.as_evaluation(spec, data__eval=str(FIXTURES / "rows.json"))):
        file = tools.write_yaml(tmp_path / "job.yaml", job)
        done = tools.worker("run", file, "--out", tmp_path / job["task"]).expect(DATA)
        assert f"{name}: 1 of its " in done.err and "not finite" in done.err, done.err
    tools.write_json(tmp_path / "tokens.json", [1, 2, 3])
    done = tools.worker("logits", "--model", model, "--tokens", tmp_path / "tokens.json", "--out",
                        tmp_path / "logits.safetensors").expect(DATA)
    assert name in done.err, done.err


def test_a_resume_with_other_keys_names_them(tmp_path):
    spec = tools.tiny_job(export=None)
    tools.run_job(tmp_path, spec)
    job = tools.write_yaml(tmp_path / "job.yaml", spec)
    done = tools.worker("run", job, "--out", tmp_path / "out", "--set", "train.max_steps=99", "--set",
                        "optimizer.learning_rate=0.5").expect(USAGE)
    assert "train.max_steps is 99, was " in done.err and "optimizer.learning_rate is 0.5, was " in done.err, done.err


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_rows_as_they_come(name, tmp_path):
    """An array, lines, blank lines between them, other line ends, a byte-order mark: the same run bit for bit."""
    rows = tools.read_json(FIXTURES / "rows.json")
    lines = [json.dumps(row) for row in rows]
    forms = ["\n".join(lines), "\r\n".join(lines) + "\r\n", "\r".join(lines), "\n\n \n".join(lines), json.dumps(rows),
             "\ufeff" + json.dumps(rows, indent=2)]
    losses = []
    for number, form in enumerate(forms):
        (tmp_path / name).write_bytes(form.encode())
        out = tools.run_job(tmp_path / str(number), tools.tiny_job(data__train=str(tmp_path / name), export=None))
        losses.append([step["loss"] for step in tools.read_lines(out / "metrics.jsonl")])
    assert all(each == losses[0] for each in losses), losses
