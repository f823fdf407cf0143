"""emoe-worker as a process: whose folder it takes, how it stops, and what it says of files that do not fit together."""
import os
import resource
import shutil
import signal
import subprocess

import pytest

import emoe_tools as tools
from emoe_tools import DATA, FIXTURES, IO_ERROR, PREEMPTED, TINY, USAGE


class Running(tools.Background):
    """`emoe-worker run` in the background, waiting after its first step until its `holds` are released."""

    def __init__(self, folder, spec):
        self.out, self.holds = folder / "out", tools.Holds(folder / "holds", "step-1")
        job = tools.write_yaml(folder / "job.yaml", spec)
        super().__init__(tools.worker_command("run", job, "--out", self.out), folder / "log", env=self.holds.env)
        metrics = self.out / "metrics.jsonl"
        tools.wait_until(lambda: metrics.exists() and "\n" in metrics.read_text(), 60,
                         lambda: f"the first step:\n{self.text}")

    def expect(self, code):
        found = self.process.wait(60)
        assert found == code, f"exit code {found}, expected {code}:\n{self.text}"
        return self.text


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def model_copy(folder):
    return shutil.copytree(TINY, folder / "model")


def changed_config(model, **changes):
    config = tools.read_json(model / "config.json")
    config.update(changes)
    tools.write_json(model / "config.json", {
k: v for k, v in config.items() if v is not None})

#-- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- the output folder
def test_two_runs_cannot_have_one_folder(tmp_path):
    with Running(tmp_path, tools.tiny_job()) as first:
        second = tools.worker("run", tmp_path / "job.yaml", "--out", first.out).expect(USAGE)
        assert "in use by another run" in second.err, second.err
        first.kill()
        tools.worker("run", tmp_path / "job.yaml", "--out", first.out).expect()


@pytest.mark.parametrize("ranks", [None, 2])
def test_a_folder_of_other_data_is_left_byte_for_byte(ranks, tmp_path):
    rows = tmp_path / "rows.json"
    shutil.copy(FIXTURES / "rows.json", rows)
    spec = tools.tiny_job(data__train=str(rows), parallel__ranks=ranks or 1)
    out = tools.run_job(tmp_path, spec, ranks=ranks)
    shutil.rmtree(out / "cache")
    before = tree(out)
    rows.write_text(rows.read_text() + " ")
    done = tools.worker("run", tmp_path / "job.yaml", "--out", out, ranks=ranks).expect(USAGE)
    assert "belongs to another job (data.train has other content)" in done.text, done.text
    assert tree(out) == before


def test_a_refused_folder_gets_nothing_from_any_rank(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("x")
    job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job(parallel__ranks=2))
    tools.worker("run", job, "--out", mine, ranks=2).expect(USAGE)
    assert tree(mine) == {"thesis.txt": b"x"}


def test_a_claim_that_was_killed_is_no_obstacle(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "job.yaml.tmp.4711").write_text("na")
    out = tools.run_job(tmp_path, tools.tiny_job())
    assert not list(out.rglob("*.tmp.*"))

#-- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- stopping
def test_an_interrupt_checkpoints_and_the_run_can_go_on(tmp_path):
    with Running(tmp_path, tools.tiny_job()) as running:
        running.process.send_signal(signal.SIGINT)
        running.holds.release()
        running.expect(PREEMPTED)
        assert len(tools.read_lines(running.out / "metrics.jsonl")) == 2 and tools.valid_checkpoints(running.out) == [2]


def test_a_run_with_packed_weights_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOE_WEIGHTS", "packed")
    (tmp_path / "whole").mkdir()
    undisturbed = tools.run_job(tmp_path / "whole", tools.tiny_job())
    with Running(tmp_path, tools.tiny_job()) as running:
        running.process.send_signal(signal.SIGINT)
        running.holds.release()
        running.expect(PREEMPTED)
    tools.worker("run", tmp_path / "job.yaml", "--out", running.out).expect()
    tools.assert_same_training(running.out, undisturbed)


def test_a_base_that_changes_during_the_run_is_not_exported(tmp_path):
    model = model_copy(tmp_path)
    with Running(tmp_path, tools.tiny_job(model__path=str(model))) as running:
        os.utime(model / "model.safetensors", (1, 1))
        running.holds.release()
        assert "the base changed during the run" in running.expect(DATA)
        assert not (running.out / "export").exists()

#-- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- files that do not fit together
def test_rows_must_end_where_the_model_stops(tmp_path):
    model = model_copy(tmp_path)
    job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job(model__path=str(model)))
    changed_config(model, eos_token_id=[5, 2])  # any of them
    tools.worker("run", job, "--out", tmp_path / "list").expect()
    changed_config(model, eos_token_id=5)
    done = tools.worker("run", job, "--out", tmp_path / "other").expect(DATA)
    assert "eos_token_id" in done.err and "5" in done.err, done.err


def test_a_missing_end_of_text_is_told(tmp_path):
    """A tokenizer whose end is not the default 2, and a config.json that says nothing."""
    model = model_copy(tmp_path)
    changed_config(model, eos_token_id=None)
    with open(model / "tokenizer.model", "ab") as tokenizer:
        tokenizer.write(b"\x12\x06\xfa\x02\x03<s>")  # trainer_spec.eos_piece = "<s>", merged into the one before
    out = tools.run_job(tmp_path, tools.tiny_job(model__path=str(model)))
    told = [w for w in tools.read_json(out / "warnings.json") if w["code"] == "DEFAULT_DIFFERS"]
    assert len(told) == 1 and "eos_token_id" in told[0]["where"], told


def test_generate_needs_a_tokenizer_that_fits(tmp_path):
    model = model_copy(tmp_path)
    text = tmp_path / "text.txt"
    text.write_text("".join(f"the cat sat on mat {i} and the dog ran to the house of {i * 7}\n" for i in range(300)))
    tools.worker("train-tokenizer", "--text", text, "--vocab-size", 300, "--out", model / "tokenizer.model").expect()
    done = tools.worker("generate", "--model", model, "--prompt", "the cat").expect(DATA)
    assert "300 pieces" in done.err, done.err


def test_the_prompt_may_stand_by_itself():
    model = ("--model", tools.TINY, "--max-tokens", 5)
    for more in ((), ("--chat", "--template", "llama2")):
        said = tools.worker("generate", *more, "--prompt", "the cat", *model).expect().out
        assert tools.worker("generate", *more, "the cat", *model).expect().out == said, more
    nothing = tools.worker("generate", "--chat", *model).expect(USAGE)
    assert f'generate --model {tools.TINY} --chat "text"' in nothing.err, nothing.err

#-- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- the small commands
def small_files():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def test_logits_are_written_whole_or_not_at_all(tmp_path):
    tokens = tools.write_json(tmp_path / "tokens.json", [1, 5, 9, 12] * 8)
    out = tmp_path / "logits.safetensors"
    out.write_bytes(b"of an earlier call")
    command = [str(c) for c in (tools.WORKER, "logits", "--model", TINY, "--tokens", tokens, "--out", out)]
    full = subprocess.run(command, preexec_fn=small_files, capture_output=True, timeout=60, env=tools.environment())
    assert full.returncode == IO_ERROR, full.stderr
    assert out.read_bytes() == b"of an earlier call" and sorted(p.name for p in tmp_path.iterdir()) == [out.name, "tokens.json"]
    tools.run(command).expect()
    assert out.stat().st_size > 4096


def test_lists_that_are_none(tmp_path):
    for text, part in (("{}", "is not a list"), ("[1, 2.5]", "entry 2 is 2.5"), ("[1, 999999]", "entry 2 is 999999"),
                       ("[]", "empty"), ("[1", "not JSON")):
        (tmp_path / "tokens.json").write_text(text)
        done = tools.worker("logits", "--model", TINY, "--tokens", tmp_path / "tokens.json", "--out", tmp_path / "o").expect(DATA)
        assert part in done.err, done.err
    (tmp_path / "texts.json").write_text('["a", 7]')
    done = tools.worker("tokenize", "--model", TINY, "--texts", tmp_path / "texts.json", "--out", tmp_path / "o").expect(DATA)
    assert "entry 2 is 7" in done.err, done.err


def test_version_and_help():
    assert tools.worker("--version").expect().out.startswith("emoe-worker ")
    assert "job_spec.proto" in tools.worker("run", "--help").expect().out


def needed(file):
    text = subprocess.run(["readelf", "-d", file], check=True, capture_output=True, text=True).stdout
    return [line.split("[")[1].rstrip("]") for line in text.splitlines() if "(NEEDED)" in line]


def test_one_build_serves_hosts_with_and_without_gpus():
    cuda = ("libcud", "libnccl", "libcublas", "libnv", "libtorch_cuda", "libc10_cuda")
    for program in ("emoe-worker", "emoe-coordinator", "emoe-supervise", "emoectl"):
        assert [name for name in needed(tools.BIN / program) if name.startswith(cuda)] == [], program
    module = tools.BIN / "libemoe_cuda.so"
    if not module.exists():
        pytest.skip("built without CUDA")
    # Behind LibTorch's CUDA part, which brings the first two, anywhere: no folder of this machine is in it.
    assert {"libcudart.so.13", "libnccl.so.2"} <= set(needed(module))
    assert {name.split(".so")[0] for name in needed(module)} <= {"libcudart", "libnccl", "libstdc++", "libgcc_s", "libm", "libc"}
    assert "PATH)" not in subprocess.run(["readelf", "-d", module], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("command", ["logits", "generate"])
def test_a_command_without_the_device_it_was_given_ends_with_64(tmp_path, command):
    tokens = tmp_path / "tokens.json"
    tokens.write_text("[1, 5, 6]")
    rest = ["--tokens", tokens, "--out", tmp_path / "out.safetensors"] if command == "logits" else ["--prompt", "Hello"]
    for device, text in (("gpu", "--device 'gpu' is no device: auto, cpu or cuda"), ("cuda", "--device cuda: ")):
        hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(tools.worker_command(command, "--model", TINY, *rest, "--device", device), env=hidden,
                              capture_output=True, text=True)
        assert done.returncode == USAGE, done.stderr
        assert text in done.stderr
