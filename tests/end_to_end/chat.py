"""Conversations end to end: what `emoectl data` tells of them, a model that is tuned on them, an answer that stops."""
import gzip
import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"
from transformers import AutoTokenizer  # noqa: E402

import emoe_tools as tools  # noqa: E402

PIECES = 256  # of the suite's own tokenizer.model
TOKENS = {str(id): {"content": content, "special": True} for id, content in
          [(0, "<unk>"), (1, "<s>"), (2, "</s>"), (PIECES, "<|im_start|>"), (PIECES + 1, "<|im_end|>")]}
QUESTIONS = {"Say hen.": "the hen said", "Say dog.": "a dog ran off"}


def tokenizer_folder(folder):
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes((tools.TINY / "tokenizer.model").read_bytes())
    tools.write_json(folder / "tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
                                                        "legacy": False, "added_tokens_decoder": TOKENS})
    return folder


def conversation(question, answer):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def chat_job(tmp_path, rows, **changes):
    folder = tokenizer_folder(tmp_path / "tokenizer")
    train = tmp_path / "chat.jsonl.gz"
    train.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    init = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "max_position_embeddings": 256, "tokenizer": str(folder / "tokenizer.model")}
    spec = tools.tiny_job(model__path=None, model__init=init, tuning="full", lora=None,
                          data={"train": str(train), "format": "chat", "template": "chatml", "max_length": 128},
                          train__max_steps=60, train__global_batch=4, optimizer__learning_rate=1e-2,
                          export={"merged": True, "adapter": False})
    return tools.changed(spec, **changes)


def test_a_tiny_model_is_taught_to_answer_and_to_stop(tmp_path):
    out = tools.run_job(tmp_path, chat_job(tmp_path, [conversation(*pair) for pair in QUESTIONS.items()] * 4))
    model = out / "export" / "model"
    assert tools.read_json(model / "generation_config.json")["eos_token_id"] == [2, PIECES + 1]
    assert tools.read_json(out / "data_report.json")["train"]["template"] == "chatml (plain)"
    for question, answer in QUESTIONS.items():
        said = tools.worker("generate", "--model", model, "--chat", "--prompt", question, "--max-tokens", 60).expect().out
        assert said == answer + "\n"
    tokenizer = AutoTokenizer.from_pretrained(model)  # the template that was taught came along
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Say hen."}], tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nSay hen.<|im_end|>\n<|im_start|>assistant\n"


def test_the_receipt(tmp_path):
    rows = [conversation("Say hen.", "hen"), conversation("Say hen.", "hen"), conversation("Say all.", "hen " * 200),
            conversation("word " * 100, "cut"), conversation("Say nothing.", "")]
    spec = chat_job(tmp_path, rows, train__global_batch=1)
    job = tools.write_yaml(tmp_path / "job.yaml", spec)
    text = " ".join(tools.run([tools.EMOECTL, "data", job]).expect().out.split())
    for line in ("rows read: 5", "rows kept: 4", "chatml (plain)", "longer than max_length): chat.jsonl.gz:3",
                 "1 (no target token within max_length): chat.jsonl.gz:4", "1 (as an earlier row): chat.jsonl.gz:2",
                 "EMPTY_TARGET: 1 of 5 rows (20 %) have an empty answer", "forward passes an epoch",
                 "<|im_start|>assistant ⟦hen<|im_end|>⟧"):
        assert line in text, text
    report = json.loads(tools.run([tools.EMOECTL, "-o", "json", "data", job]).expect().out)["train"]
    ran = tools.read_json(tools.run_job(tmp_path / "run", spec) / "data_report.json")["train"]
    assert report == ran, "what was foretold is what the run reports"
    # Every bad row is named, all files and settings with it.
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"messages": [{"role": "robot", "content": "x"}]}) + "\n" + json.dumps({"messages": []}) + "\n")
    told = tools.run([tools.EMOECTL, "data", job, "--set", f"data.train=[{bad}, {{path: {bad}, weight: 0.5}}]"])
    assert told.expect(tools.DATA).err.count("bad.jsonl:1: data.train: line 1 has the unknown role") == 2


def test_files_weights_and_a_part_held_out(tmp_path):
    rows = [conversation(f"Say {i}.", f"{i}") for i in range(40)]
    spec = chat_job(tmp_path, rows, train__max_steps=2)
    other = tmp_path / "other.json"
    other.write_text(json.dumps([conversation(f"Say {i} again.", "no") for i in range(20)]))
    spec["data"]["train"] = [spec["data"]["train"], {"path": str(other), "weight": 0.5}]
    spec["data"]["eval_fraction"] = 0.1
    out = tools.run_job(tmp_path / "a", spec)
    report = tools.read_json(out / "data_report.json")
    assert report["eval"]["rows_used"] == 6 and report["train"]["rows_on_other_side"] == 6
    kept = 60 - 6
    first, second = report["train"]["files"]
    assert first["rows_chosen"] + 2 * second["rows_chosen"] in (kept, kept + 1, kept - 1)
    assert not tools.read_json(out / "warnings.json"), "none of them is trained on"
    tools.worker("run", out / "job.yaml", "--out", tmp_path / "b").expect()  # as it is
    losses = [[line["loss"] for line in tools.read_lines(folder / "metrics.jsonl")] for folder in (out, tmp_path / "b")]
    assert losses[0] == losses[1]
    for weight in ("0", "-1", ".nan"):
        job = tools.write_yaml(tmp_path / "job.yaml", spec)
        said = tools.run([tools.EMOECTL, "data", job, "--set", f"data.train=[{{path: {other}, weight: {weight}}}]"])
        assert "data.train[0].weight" in said.expect(tools.USAGE).err
