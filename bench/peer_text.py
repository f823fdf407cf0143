#!/usr/bin/env python3
"""The peer of text_bench: the `tokenizers` library on the texts of the same rows.

    peer_text.py make FOLDER ROWS        tokenizers of both kinds and rows.jsonl, in FOLDER
    peer_text.py time FOLDER ROUNDS      the best seconds of FOLDER/tokenizer.json over FOLDER/../rows.jsonl

Only the library's own work is timed, on texts that lie ready in memory: reading, rendering, targets and packing are ours alone.
Threads: RAYON_NUM_THREADS.
"""
import json
import pathlib
import random
import re
import sys
import time

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXPRESSION = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
              r"|\s+(?!\S)|\s+")
SPECIAL = ["<unk>", "<s>", "</s>"]
VOCABULARY = 16000
SHORT = ("Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
         "### Instruction:\n{instruction}\n\n### Response:{output}")
LONG = ("Below is an instruction that describes a task, paired with an input that provides further context. Write a response that "
        "appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:{output}")


def make_rows(count):
    """Rows of Alpaca's lengths out of this repository's prose, no two alike; words as often as there."""
    words = re.findall(r"[A-Za-z]+[a-z'-]*[.,;:]? ", " ".join(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/*.md"))))
    draw = random.Random(11)

    def text(median, deviation):
        size = max(1, round(median * draw.lognormvariate(0, deviation)))
        at = draw.randrange(len(words))
        return "".join((words[at:at + size] if draw.random() < 0.5 else draw.choices(words, k=size))).strip()
    for i in range(count):
        yield {"instruction": f"{text(9, 0.5)} {i}", "input": text(12, 0.8) if i % 5 in (1, 3) else "", "output": text(28, 0.9)}


def byte_level(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(EXPRESSION), "isolated"),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, show_progress=False,
                                                             initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def of_characters(texts):
    """As that of Llama 2."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trained.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL + fallback, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    tokenizer = Tokenizer(models.BPE(model["vocab"], [tuple(merge) for merge in model["merges"]], unk_token="<unk>", fuse_unk=True,
                                     byte_fallback=True))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


def make(folder, count):
    rows = list(make_rows(count))
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    texts = [row["output"] for row in rows[:5000]]
    for name, train in (("bytes", byte_level), ("characters", of_characters)):
        tokenizer = train(texts)
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        (folder / name).mkdir(exist_ok=True)
        tokenizer.save(str(folder / name / "tokenizer.json"))
        (folder / name / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}))


def best_seconds(rounds, work):
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return best, result


def measure(folder, rounds):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with open(folder.parent / "rows.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    texts = [(LONG if row["input"] else SHORT).format(**row) for row in rows]
    seconds, encoded = best_seconds(rounds, lambda: tokenizer.encode_batch_fast(texts))
    ids = [each.ids for each in encoded]
    decode_seconds, _ = best_seconds(rounds, lambda: tokenizer.decode_batch(ids))
    # Ours end in the end of the text.
    print(json.dumps({"seconds": seconds, "decode_seconds": decode_seconds, "tokens": sum(map(len, ids)) + len(ids)}))


if __name__ == "__main__":
    {"make": make, "time": measure}[sys.argv[1]](pathlib.Path(sys.argv[2]), int(sys.argv[3]))
