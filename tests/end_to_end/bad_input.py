"""What users get wrong, one case each: the exit code and a text that names the place and what to do."""
import json
import pathlib
import re
import shutil
import struct

import pytest

import emoe_tools as tools
from emoe_tools import DATA, FIXTURES, IO_ERROR, TINY, USAGE


# ---------------------------------------------------------------- the job file
# Every kind of mistake in one file; beside each line the key that is to be reported for it.
EVERYTHING_WRONG = """\
name: wrong
modle: {path: somewhere}        # modle
model:
  path: %(model)s
  init: {hidden_size: 16, intermediate_size: 48, num_hidden_layers: 3, num_attention_heads: 2, tokenizer: t}  # model.init
data:
  train: %(rows)s
  max_length: many              # data.max_length
tuning: lora
lora:
  rank: 4
  targets: [q_proj, w_proj]     # lora.targets[1]
emoe:
  experts: 7                    # emoe.experts
  top_k: 9                      # emoe.top_k
  layers: {list: [0, 3]}        # emoe.layers.list[1]
optimizer:
  learning_rat: 1.0e-4          # optimizer.learning_rat
  learning_rate: -0.5           # optimizer.learning_rate
  weight_decay: .nan            # optimizer.weight_decay
train:
  global_batch: 1               # train.global_batch
parallel:
  ranks: 4
  tensor: 2                     # parallel.tensor
"""


@pytest.mark.parametrize("program", ["emoe-worker", "emoectl"])
def test_all_problems_of_a_job_file_come_at_once(tmp_path, program):
    """Unknown keys, wrong types, impossible values, the model's shape, what is not supported: one line each."""
    text = EVERYTHING_WRONG % {"model": TINY, "rows": FIXTURES / "rows.json"}
    job = tmp_path / "job.yaml"
    job.write_text(text)
    if program == "emoe-worker":
        done = tools.worker("run", job, "--out", tmp_path / "out").expect(USAGE)
    else:  # nobody listens there: such a file is not sent
        done = tools.run([tools.EMOECTL, "--server", "127.0.0.1:1", "submit", job]).expect(USAGE)
    expected = {f"{job}:{number}: {line.split('# ')[1]}" for number, line in enumerate(text.splitlines(), 1)
                if "# " in line}
    reported = [re.search(re.escape(str(job)) + r":\d+: [^ :]+", line) for line in done.err.splitlines()]
    found = sorted(match.group() for match in reported if match)
    assert found == sorted(expected), done.err
    for near in ('"model"', '"learning_rate"', "1, 2, 3, 4, 6, 8, 12, 16, 24, 48", "layers 0 to 2"):
        assert near in done.err, f"{near} is not in:\n{done.err}"
    assert not (tmp_path / "out").exists(), "nothing is made of a bad job"


SPECS = {  # what is wrong: (changes of a good job, texts that must appear)
    "experts that do not divide": ({"emoe": {"experts": 7, "top_k": 1, "layers": {"list": [0]}}}, ["emoe.experts", "48", "1, 2, 3, 4, 6, 8, 12, 16, 24, 48"]),
    "top_k above experts": ({"emoe": {"experts": 4, "top_k": 5}}, ["emoe.top_k", "4"]),
    "layer out of range": ({"emoe": {"experts": 4, "top_k": 2, "layers": {"list": [0, 3]}}}, ["emoe.layers", "3"]),
    "target that does not exist": ({"lora__targets": ["q_proj", "q_prj"]}, ["lora.targets", "q_prj", "q_proj"]),
    "both path and init": ({"model__init": {"hidden_size": 8}}, ["model", "init", "path"]),
    "neither path nor init": ({"model__path": None}, ["model.path"]),
    "batch smaller than ranks": ({"train__global_batch": 1, "parallel__ranks": 2}, ["train.global_batch", "2"]),
    "negative rate": ({"optimizer__learning_rate": -1e-4}, ["optimizer.learning_rate"]),
    "rate that is no number": ({"optimizer__learning_rate": float("nan")}, ["optimizer.learning_rate"]),
    "unknown word": ({"optimizer__schedule": "cosinus"}, ["optimizer.schedule", "cosine"]),
    "no such model": ({"model__path": "/no/such/model"}, ["/no/such/model"]),
    "no such data": ({"data__train": "/no/such/rows.json"}, ["/no/such/rows.json"]),
    "rows longer than the model's positions": ({"data__max_length": 4096}, ["data.max_length", "256"]),
    "fewest ranks that are no whole groups": ({"parallel__tensor": 2, "parallel__ranks": 4, "parallel__min_ranks": 3},
                                              ["parallel.min_ranks", "parallel.tensor"]),
    "more ranks than heads share": ({"parallel__tensor": 3, "parallel__ranks": 3}, ["parallel.tensor", "it can be 1, 2"]),
}


@pytest.mark.parametrize("what", SPECS)
def test_a_wrong_value(what, tmp_path):
    changes, texts = SPECS[what]
    job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job(**changes))
    done = tools.worker("run", job, "--out", tmp_path / "out").expect(USAGE)
    for text in texts:
        assert text in done.err, f"{text!r} is not in:\n{done.err}"


def test_command_line(tmp_path):
    job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job())
    for arguments in (["run"], ["run", job], ["fly"], ["run", tmp_path / "absent.yaml", "--out", tmp_path / "o"],
                      ["run", job, "--out", tmp_path / "o", "--set", "optimizer.learning_rate"],
                      ["run", job, "--out", tmp_path / "o", "--set", "optimizer.learning=1"]):
        done = tools.worker(*arguments).expect(USAGE)
        assert done.err.strip(), arguments


# ---------------------------------------------------------------- model folders
def model_copy(folder):
    model = folder / "model"
    shutil.copytree(TINY, model)
    return model


def header_of(model):
    raw = (model / "model.safetensors").read_bytes()
    length, = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8:8 + length]), raw[8 + length:]


def write_weights(model, header, data):
    text = json.dumps(header).encode()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def edit_header(edit):
    def apply(model):
        header, data = header_of(model)
        data = edit(header, data) or data
        write_weights(model, header, data)
    return apply


def edit_config(**changes):
    def apply(model):
        config = tools.read_json(model / "config.json")
        tools.write_json(model / "config.json", {**config, **changes})
    return apply


NAME = "model.layers.1.mlp.up_proj.weight"
LAST = "model.norm.weight"  # in the order of the data


def overlap(header, data):
    header[NAME]["data_offsets"] = header["model.layers.0.mlp.up_proj.weight"]["data_offsets"]


def beyond_the_end(header, data):
    begin, end = header[LAST]["data_offsets"]
    assert end == len(data)
    header[LAST]["data_offsets"] = [begin + 10**9, end + 10**9]


def integers(header, data):
    header[NAME]["dtype"] = "I32"


def unknown_dtype(header, data):
    header[NAME]["dtype"] = "F31"


def other_shape(header, data):
    header[NAME]["shape"] = list(reversed(header[NAME]["shape"]))


def missing_tensor(header, data):
    header["model.layers.1.mlp.uq_proj.weight"] = header.pop(NAME)


def cut(model):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def bad_header_length(model):
    path = model / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 10**12) + path.read_bytes()[8:])


def missing_shard(model):
    header, _ = header_of(model)
    names = [n for n in header if n != "__metadata__"]
    shard = "model-00002-of-00002.safetensors"
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    tools.write_json(model / "model.safetensors.index.json", {
        "metadata": {}, "weight_map": {n: shard if n == NAME else "model-00001-of-00002.safetensors" for n in names}})


def small_embedding(model):
    edit_config(vocab_size=200)(model)

    def shrink(header, data):
        # The two [256, 16] tensors become [200, 16]; the data is laid out anew.
        parts, offset = [], 0
        for name in [n for n in header if n != "__metadata__"]:
            begin, end = header[name]["data_offsets"]
            if header[name]["shape"][0] == 256:
                header[name]["shape"], end = [200, 16], begin + 200 * 16 * 4
            parts.append(data[begin:end])
            header[name]["data_offsets"] = [offset, offset + end - begin]
            offset += end - begin
        return b"".join(parts)

    edit_header(shrink)(model)


MODELS = {  # what is wrong: (how to make it so, texts that must appear)
    "header length": (bad_header_length, ["model.safetensors", "header"]),
    "file cut short": (cut, ["model.safetensors"]),
    "overlapping offsets": (edit_header(overlap), ["model.safetensors", "overlap"]),
    "offsets out of the file": (edit_header(beyond_the_end), ["model.safetensors", LAST, "beyond"]),
    "wrong dtype": (edit_header(integers), [NAME, "I32"]),
    "unknown dtype": (edit_header(unknown_dtype), ["F31"]),
    "wrong shape": (edit_header(other_shape), [NAME, "48", "16"]),
    "missing tensor": (edit_header(missing_tensor), [NAME]),
    "missing shard": (missing_shard, ["model-00002-of-00002.safetensors"]),
    "config that is no JSON": (lambda m: (m / "config.json").write_text("{"), ["config.json"]),
    "another architecture": (edit_config(model_type="gpt2", architectures=["GPT2LMHeadModel"]), ["config.json", "gpt2"]),
    "another activation": (edit_config(hidden_act="gelu"), ["config.json", "hidden_act", "gelu"]),
    "unknown rope": (edit_config(rope_parameters={"rope_type": "llama3", "factor": 8.0, "rope_theta": 1e4}), ["config.json", "rope"]),
    "a key that is not understood": (edit_config(attention_sinks=4), ["config.json", "attention_sinks"]),
    "tokenizer larger than the embedding": (small_embedding, ["tokenizer", "256", "200"]),
    "tokenizer that is none": (lambda m: (m / "tokenizer.model").write_bytes(b"nothing"), ["tokenizer.model"]),
}


@pytest.mark.parametrize("what", MODELS)
def test_a_bad_model_folder(what, tmp_path):
    make, texts = MODELS[what]
    model = model_copy(tmp_path)
    make(model)
    job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job(model__path=str(model)))
    # A file that an index names and that is not there is the caller's mistake, one that is not what it says is bad data.
    done = tools.worker("run", job, "--out", tmp_path / "out").expect(USAGE if what == "missing shard" else DATA)
    for text in texts:
        assert text in done.err, f"{text!r} is not in:\n{done.err}"


def test_a_coordinator_refuses_a_bad_model_folder(tmp_path):
    """All that headers and the tokenizer tell is told at submission."""
    from emoe_api import ApiError, Coordinator
    with Coordinator(tmp_path) as coordinator:
        for what, (make, texts) in MODELS.items():
            model = model_copy(tmp_path / what.replace(" ", "-"))
            make(model)
            with pytest.raises(ApiError) as caught:
                coordinator.api.create(tools.tiny_job(model__path=str(model)), validate_only=True)
            fields, whys = zip(*caught.value.violations)
            assert set(fields) == {"model.path"}, (what, fields)
            for text in texts:
                assert text in "\n".join(whys), (what, text, whys)


def test_missing_parts_of_a_model_folder(tmp_path):
    for name in ("config.json", "model.safetensors", "tokenizer.model"):
        model = model_copy(tmp_path / name)
        (model / name).unlink()
        job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job(model__path=str(model)))
        done = tools.worker("run", job, "--out", tmp_path / "out").expect(USAGE)
        assert name in done.err, done.err


def test_an_adapter_of_another_shape(tmp_path):
    adapter = FIXTURES / "lora" / "final_adapter"
    job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job(lora__rank=8, lora__init_adapter=str(adapter)))
    done = tools.worker("run", job, "--out", tmp_path / "out").expect(USAGE)
    assert "lora.init_adapter: r: is 4, lora.rank is 8" in done.err, done.err


def test_a_partition_of_other_weights(tmp_path):
    first = tools.run_job(tmp_path / "first", tools.tiny_job(emoe=tools.TINY_EMOE, export=None))
    model = model_copy(tmp_path)

    def other_gate(header, data):
        begin, _ = header["model.layers.0.mlp.gate_proj.weight"]["data_offsets"]
        return data[:begin] + struct.pack("<f", 3.25) + data[begin + 4:]

    edit_header(other_gate)(model)
    emoe = {**tools.TINY_EMOE, "partition": {"method": "file", "path": str(first / "partition")}}
    job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job(model__path=str(model), emoe=emoe))
    done = tools.worker("run", job, "--out", tmp_path / "out").expect(USAGE)
    assert "layer_00.json" in done.err, done.err


# ---------------------------------------------------------------- data
GOOD = {"instruction": "Say hen.", "input": "", "output": "hen"}


def lines(rows):
    """A JSON array with one row a line, from the second line on."""
    return ("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n").encode()


ROWS = {  # what is wrong: (bytes of the file, texts that must appear)
    "a row that is no object": (lines([GOOD, 7]), ["rows.json:3"]),
    "a row without a field": (lines([GOOD, GOOD, {"instruction": "x"}]), ["rows.json:4", "output"]),
    "a field of another type": (lines([{**GOOD, "output": 5}]), ["rows.json:2", "output"]),
    "not UTF-8": (json.dumps([GOOD]).encode().replace(b"hen", b"\xff\xfe"), ["rows.json", "UTF-8"]),
    "not JSON": (b'[{"instruction": "x", ', ["rows.json"]),
    "an empty row": (lines([GOOD, {**GOOD, "instruction": " "}]), ["rows.json:3", "data.train", "instruction"]),
    "a row that is not there": (b"[\n" + json.dumps(GOOD).encode() + b",\n\n,\n" + json.dumps(GOOD).encode() + b"]", ["rows.json:4", "empty"]),
    "a number no double holds": (lines([{**GOOD, "score": 1}]).replace(b"1}", b"1e999}"), ["rows.json:2", "1e999"]),
    "a NUL byte": (lines([GOOD, GOOD]).replace(b"}\n", b"}\0x\n"), ["rows.json:3", "NUL"]),
    "a stray bracket": (lines([GOOD, GOOD, GOOD]).replace(b"},", b"}},", 1), ["rows.json:2"]),
    "a number that is none": (lines([GOOD, {**GOOD, "score": float("nan")}]), ["rows.json:3", "row 2 (counted from 1)", "NaN"]),
    "a comment": (lines([GOOD, GOOD]).replace(b"[\n", b"[\n// the hens\n"), ["rows.json:2", "has a comment, which JSON has not"]),
    "keys in Python's quotes": (b"[\n" + str(GOOD).encode() + b"]", ["rows.json:2", "as Python prints it"]),
    "rows of another format": (lines([{"messages": [{"role": "user", "content": "hen"}]}] * 90), [
        'rows.json:2: data.train: row 1 (counted from 1) lacks the keys "instruction" and "output"; it has "messages"',
        "the same in 85 more rows"]),
    "no rows": (b"[]", ["rows.json"]),
    "an empty file": (b"", ["rows.json"]),
    "no target token left": (json.dumps([{**GOOD, "instruction": "Tell of the hen. " * 60}] * 4).encode(), ["target"]),
}


@pytest.mark.parametrize("what", ROWS)
def test_bad_rows(what, tmp_path):
    data, texts = ROWS[what]
    (tmp_path / "rows.json").write_bytes(data)
    job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job(data__train=str(tmp_path / "rows.json")))
    done = tools.worker("run", job, "--out", tmp_path / "out").expect(DATA)
    for text in texts:
        assert text in done.err, f"{text!r} is not in:\n{done.err}"


def test_all_bad_rows_are_reported_together(tmp_path):
    lines = [json.dumps(GOOD)] * 6
    lines[1], lines[3], lines[4] = "7", '{"instruction": "x"}', "{"
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job(data__train=str(tmp_path / "rows.jsonl")))
    done = tools.worker("run", job, "--out", tmp_path / "out").expect(DATA)
    for line in (2, 4, 5):
        assert f"rows.jsonl:{line}" in done.err, done.err


# ---------------------------------------------------------------- folders and launches
def test_output_folder_that_cannot_be_used(tmp_path):
    job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job())
    (tmp_path / "file").write_text("x")
    done = tools.worker("run", job, "--out", tmp_path / "file").expect(USAGE)
    assert str(tmp_path / "file") in done.err, done.text
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    done = tools.worker("run", job, "--out", tmp_path / "full").expect(USAGE)
    assert "full" in done.err and (tmp_path / "full" / "thesis.txt").exists()
    for below in ("file/x", "file/x/y"):
        done = tools.worker("run", job, "--out", tmp_path / below).expect(USAGE)
        assert below in done.err, done.err
        texts = tools.write_json(tmp_path / "texts.json", ["a"])
        done = tools.worker("tokenize", "--model", tools.TINY, "--texts", texts, "--out", tmp_path / below).expect(USAGE)
        assert f"--out {tmp_path / below}: there is no folder" in done.err, done.err
    done = tools.worker("run", job, "--out", "/proc/nothing").expect(IO_ERROR)
    assert "/proc/nothing" in done.err, done.text
    # The folder of another job is not overwritten.
    out = tools.run_job(tmp_path / "one", tools.tiny_job(export=None, train__max_steps=1))
    other = tools.write_yaml(tmp_path / "other.yaml", tools.tiny_job(train__seed=8))
    done = tools.worker("run", other, "--out", out).expect(USAGE)
    assert "another job" in done.err, done.err


def test_a_world_size_other_than_the_plan(tmp_path):
    for ranks, planned in ((3, 2), (1, 2), (2, 1)):
        job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job(parallel__ranks=planned))
        done = tools.worker("run", job, "--out", tmp_path / f"out-{ranks}", ranks=ranks).expect(USAGE)
        assert "parallel.ranks" in done.text and str(ranks) in done.text and str(planned) in done.text, done.text
    job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job(parallel__ranks=2))
    done = tools.worker("run", job, "--out", tmp_path / "out-alone").expect(USAGE)
    assert "this process was started by itself" in done.text and "mpirun -n 2" in done.text, done.text
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}
    done = tools.worker("run", job, "--out", tmp_path / "out-srun", env=step).expect(USAGE)
    assert "parallel.ranks is 2, but SLURM_NTASKS=4 says" in done.text, done.text


@pytest.mark.parametrize("shell", [
    {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_NNODES": "1",
     "SLURM_NODELIST": "localhost"},
    {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"},
], ids=["srun --pty", "salloc -n 4"])
def test_one_rank_needs_no_mpi_in_a_shell_of_slurm(shell, tmp_path):
    """Open MPI would look for Slurm's PMI and abort."""
    job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job(train__max_steps=2))
    tools.worker("run", job, "--out", tmp_path / "out", env=shell).expect()
    assert len(tools.read_lines(tmp_path / "out" / "metrics.jsonl")) == 2


def test_a_gpu_that_is_not_there(tmp_path):
    """Known before the data is read and the neurons are clustered."""
    if pathlib.Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job(resources__device="cuda", emoe=tools.TINY_EMOE))
    done = tools.worker("run", job, "--out", tmp_path / "out").expect(USAGE)
    assert "resources.device: cuda" in done.err, done.text
    assert not (tmp_path / "out").exists(), "nothing is made"


def test_files_outside_the_allowed_roots(tmp_path):
    from emoe_api import ApiError, Coordinator
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    outside = shutil.copy(FIXTURES / "rows.json", tmp_path / "rows.json")
    with Coordinator(tmp_path, allowed_roots=f"[{allowed}]") as coordinator:
        inside = shutil.copytree(TINY, allowed / "model")
        rows = shutil.copy(FIXTURES / "rows.json", allowed / "rows.json")
        (allowed / "link.json").symlink_to(outside)

        def check(**changes):
            spec = tools.tiny_job(**{"model__path": str(inside), "data__train": str(rows), **changes})
            return coordinator.api.create(spec, validate_only=True)

        check()
        for train in (outside, allowed / ".." / "rows.json", allowed / "link.json"):
            with pytest.raises(ApiError) as caught:
                check(data__train=str(train))
            (field, why), = caught.value.violations
            assert field == "data.train" and f"'{train}' lies outside the allowed folders: {allowed}" in why, why
        (inside / "generation_config.json").unlink(missing_ok=True)
        (inside / "generation_config.json").symlink_to(outside)
        with pytest.raises(ApiError) as caught:
            check()
        (field, why), = caught.value.violations
        assert field == "model.path" and "generation_config.json' lies outside" in why, why


def test_allowed_roots_that_cannot_be(tmp_path):
    for roots, key in (('[""]', "allowed_roots[0]"), (f"[{tmp_path}, /no/such/folder]", "allowed_roots[1]")):
        done = tools.run([tools.COORDINATOR, "--state-dir", tmp_path / "state", "--listen", "127.0.0.1:0", "--metrics-listen",
                          "127.0.0.1:0", "--set", f"allowed_roots={roots}"]).expect(USAGE)
        assert key in done.err, done.err


# ---------------------------------------------------------------- logits
@pytest.mark.parametrize("key, emoe, dtype", [
    ("emoe.gate", {"gate": "learned"}, None),
    ("emoe.selector", {"selector": "botom"}, None),
    ("model.dtype", {}, "float16"),
    ("emoe.layers", {"layers": None}, None),
    ("emoe.experts", {"experts": 7}, None),
])
def test_logits_checks_what_it_takes_from_a_job(key, emoe, dtype, tmp_path):
    emoe = {k: v for k, v in {**tools.TINY_EMOE, **emoe}.items() if v is not None}
    # What it does not take may be absent or wrong.
    document = {"model": {"dtype": dtype or "float32"}, "emoe": emoe, "train": {"epochs": -1}}
    job = tools.write_yaml(tmp_path / "job.yaml", document)
    tokens = tools.write_json(tmp_path / "tokens.json", [1, 5, 9])
    common = ("logits", "--model", TINY, "--tokens", tokens, "--out", tmp_path / "out.safetensors")
    done = tools.worker(*common, "--emoe", job).expect(USAGE)
    assert f": {key}: " in done.err and "train.epochs" not in done.err, done.err
    assert not (tmp_path / "out.safetensors").exists()
    tools.write_yaml(job, {**document, "model": {"dtype": "float32"}, "emoe": tools.TINY_EMOE})
    tools.worker(*common, "--emoe", job).expect()


def test_logits_takes_a_partition_for_a_jobs_experts_only(tmp_path):
    tokens = tools.write_json(tmp_path / "tokens.json", [1, 5, 9])
    common = ("logits", "--model", TINY, "--tokens", tokens, "--out", tmp_path / "out.safetensors", "--partition", tmp_path)
    assert "--emoe" in tools.worker(*common).expect(USAGE).err
    dense = tools.write_yaml(tmp_path / "job.yaml", {"model": {"dtype": "float32"}})
    assert "emoe: " in tools.worker(*common, "--emoe", dense).expect(USAGE).err
