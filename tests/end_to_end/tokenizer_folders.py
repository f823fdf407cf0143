"""What a model folder says of its tokenizer counts, and stock transformers reads an export as it was read in training."""
import os
import shutil

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
from transformers import AutoTokenizer  # noqa: E402

import emoe_tools as tools  # noqa: E402

PIECES = 256  # of the suite's own tokenizer.model


def token(content, **flags):
    return {"content": content, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True,
            **flags}


OWN = {"0": token("<unk>"), "1": token("<s>"), "2": token("</s>")}
CHATML = {**OWN, str(PIECES): token("<|im_start|>"), str(PIECES + 1): token("<|im_end|>")}
LLAMA = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
         "add_bos_token": True, "add_eos_token": False, "legacy": True, "added_tokens_decoder": OWN}
FOLDERS = {  # what lies beside the tokenizer.model
    "added tokens": {"tokenizer_config.json": {**LLAMA, "added_tokens_decoder": CHATML}},
    "not legacy": {"tokenizer_config.json": {**LLAMA, "legacy": False, "added_tokens_decoder": CHATML}},
    "no BOS": {"tokenizer_config.json": {**LLAMA, "add_bos_token": False}},
    "an EOS behind each text": {"tokenizer_config.json": {**LLAMA, "add_eos_token": True}},
    "no space before": {"tokenizer_config.json": {**LLAMA, "add_prefix_space": False, "legacy": False}},
    "another end": {"tokenizer_config.json": {**LLAMA, "eos_token": "<|im_end|>", "add_eos_token": True,
                                              "added_tokens_decoder": CHATML}},
    "special tokens are letters": {"tokenizer_config.json": {**LLAMA, "split_special_tokens": True}},
    "stripping": {"tokenizer_config.json": {**LLAMA, "added_tokens_decoder": {**OWN,
        str(PIECES): token("<l>", lstrip=True), str(PIECES + 1): token("<r>", rstrip=True, special=False)}}},
    "older files": {"tokenizer_config.json": {key: LLAMA[key] for key in LLAMA if key != "added_tokens_decoder"}, "added_tokens.json": {"<|im_start|>": PIECES, "<|im_end|>": PIECES + 1},
                    "special_tokens_map.json": {"eos_token": token("<|im_end|>"), "bos_token": "<s>"}},
}
TEXTS = ["Say hen.", "the hen\n\n said:  it\t", "<|im_start|>user\nhi<|im_end|>", "hen</s>", "<s>hen and</s> hen", "hen <l> hen",
         "hen <r>\n hen", "é 中文 😀", "a\u00a0b", ""]
SPACES = [" hen", "  two", "<|im_end|> hen", "\n", "▁hen"]  # where its classes for a Llama disagree


def tokenizer_folder(folder, files):
    folder.mkdir(parents=True)
    for name in ("tokenizer.model", "config.json"):
        shutil.copy(tools.TINY / name, folder / name)
    for name, content in files.items():
        tools.write_json(folder / name, content)
    return folder


def our_ids(folder, texts, tmp_path):
    tools.write_json(tmp_path / "texts.json", texts)
    tools.worker("tokenize", "--model", folder, "--texts", tmp_path / "texts.json", "--out", tmp_path / "ids.json").expect()
    return tools.read_json(tmp_path / "ids.json")


def their_ids(folder, texts):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer(text)["input_ids"] for text in texts]


def trained(tmp_path, folder):
    """A run of one step from a random start with this tokenizer."""
    init = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "max_position_embeddings": 512, "tokenizer": str(folder / "tokenizer.model")}
    spec = tools.tiny_job(model__path=None, model__init=init, tuning="full", lora=None, train__max_steps=1,
                          export={"merged": True, "adapter": False})
    return tools.run_job(tmp_path / "run", spec)


# Nothing lists special tokens: in training they are letters where a text has them, and so are they in the export.
UNLISTED = {"nothing beside it": {}, "no list of tokens": {"tokenizer_config.json": {"legacy": True, "add_bos_token": True}}}


@pytest.mark.parametrize("what", [*UNLISTED, *FOLDERS])
def test_an_export_is_read_as_in_training(what, tmp_path):
    folder = tokenizer_folder(tmp_path / "model", {**UNLISTED, **FOLDERS}[what])
    export = trained(tmp_path, folder) / "export"
    probe = tools.read_json(export / "tokenizer_probe.json")
    assert any("Instruction" in entry["text"] for entry in probe), "no row of the job"
    texts = [entry["text"] for entry in probe] + TEXTS + SPACES
    ids = our_ids(folder, texts, tmp_path)
    assert ids[:len(probe)] == [entry["ids"] for entry in probe]
    assert our_ids(export / "model", texts, tmp_path) == ids
    assert their_ids(export / "model", texts) == ids


def test_rows_end_in_the_end_that_the_folder_names(tmp_path):
    """Of a ChatML model: an added token. Its id is the configuration's too, or the run says so."""
    model = tmp_path / "model"
    out = trained(tmp_path, tokenizer_folder(tmp_path / "tokenizer", FOLDERS["another end"]))
    shutil.copytree(out / "export" / "model", model)
    assert tools.read_json(model / "config.json")["eos_token_id"] == PIECES + 1
    job = tools.tiny_job(model__path=str(model), lora__targets=["q_proj"], train__max_steps=1)
    tools.run_job(tmp_path / "again", job)
    tools.write_json(model / "generation_config.json", {"eos_token_id": 2, "temperature": 0.5})
    out = tools.run_job(tmp_path / "in one of two", job)
    # transformers' generate() heeds that file alone.
    told = [w for w in tools.read_json(out / "warnings.json") if w["where"] == "generation_config.json: eos_token_id"]
    assert [w["code"] for w in told] == ["DEFAULT_DIFFERS"] and "stops at 2 only" in told[0]["text"], told
    assert tools.read_json(out / "export" / "model" / "generation_config.json") == {
        "eos_token_id": [2, PIECES + 1], "temperature": 0.5}
    tools.write_json(model / "config.json", {**tools.read_json(model / "config.json"), "eos_token_id": 2})
    job = tools.write_yaml(tmp_path / "job.yaml", job)
    done = tools.worker("run", job, "--out", tmp_path / "out").expect(tools.DATA)
    assert f"end of text is token {PIECES + 1}" in done.err and "is 2: generated text would not stop" in done.err, done.err


def test_what_cannot_be_obeyed_is_refused_by_name(tmp_path):
    folder = tokenizer_folder(tmp_path / "model", {"tokenizer_config.json": {
        **LLAMA, "tokenizer_class": "T5Tokenizer", "eos_token": "<end>",
        "added_tokens_decoder": {"256": token("<w>", single_word=True)}}})
    tools.write_json(tmp_path / "texts.json", ["x"])
    done = tools.worker("tokenize", "--model", folder, "--texts", tmp_path / "texts.json", "--out",
                        tmp_path / "ids.json").expect(tools.DATA)
    for text in ('tokenizer_class: is "T5Tokenizer"', 'eos_token: is "<end>"', "added_tokens_decoder.256.single_word"):
        assert text in done.err, done.err
