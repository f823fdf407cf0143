"""A suite of questions with four choices against a plain loop over stock transformers, and its rate beside that loop's."""
import csv
import math
import os
import random
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

import emoe_tools as tools

LETTERS = "ABCD"
WORDS = "cat dog sun tree river stone bread child green small runs sleeps under over bright old".split()
TIMES_FASTER = 4  # than the plain loop, on one core


def write_suite(folder, subjects=3, questions=8, seed=1):
    """Made-up questions: words of the tiny model's world, quotes, commas and line ends inside the fields."""
    draw = random.Random(seed)
    phrase = lambda low, high: " ".join(draw.choice(WORDS) for _ in range(draw.randint(low, high)))
    for s in range(subjects):
        for part, count in (("dev", 5), ("test", questions)):
            path = folder / part / f"own_subject_{s}_{part}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                for i in range(count):
                    text = phrase(3, 30) + (', "as they say",\r\nor not?' if i % 4 == 0 else "?")
                    writer.writerow([text, *(phrase(1, 4) for _ in LETTERS), draw.choice(LETTERS)])
    return folder


def item(row, letter):
    return row[0] + "".join(f"\n{c}. {t}" for c, t in zip(LETTERS, row[1:5])) + f"\nAnswer: {letter}"


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


class PlainLoop:
    """One row after the other, every token of it."""

    def __init__(self, model, adapter=None):
        import sentencepiece
        import torch
        from transformers import LlamaForCausalLM
        torch.set_num_threads(1)
        self.model = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        if adapter:
            from peft import PeftModel
            self.model = PeftModel.from_pretrained(self.model, adapter).eval()
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(tools.TINY / "tokenizer.model"))

    def ids_of(self, subject, shots, row, max_length):
        for n in range(len(shots), -1, -1):
            head = f"The following are multiple choice questions (with answers) about  {subject.replace('_', ' ')}.\n\n"
            head += "".join(item(shot, shot[5]) + "\n" for shot in shots[:n])
            ids = [[1] + self.pieces.encode(head + item(row, c)) for c in LETTERS]
            if max(map(len, ids)) <= max_length:
                return ids, n
        return None, 0

    def questions(self, suite, shots, max_length):
        import torch
        for path in sorted((suite / "test").glob("*.csv")):
            subject = path.name.removesuffix("_test.csv")
            examples = rows_of(suite / "dev" / f"{subject}_dev.csv")[:shots]
            for number, row in enumerate(rows_of(path)):
                ids, used = self.ids_of(subject, examples, row, max_length)
                if ids is None:
                    continue
                common, scores = len(os.path.commonprefix(ids)), []
                for x in ids:
                    with torch.no_grad():
                        log_p = self.model(torch.tensor([x[:-1]])).logits[0].log_softmax(-1)
                    scores.append(sum(log_p[t - 1, x[t]].item() for t in range(common, len(x))))
                yield {"subject": subject, "row": number, "shots": used, "scores": scores, "answer": row[5],
                       "prediction": LETTERS[max(range(4), key=lambda c: (scores[c], -c))], "ids": ids, "common": common}


def suite_job(suite, **changes):
    return tools.changed({"task": "evaluate", "model": {"path": str(tools.TINY), "dtype": "float32"},
                          "evaluate": {"path": str(suite), "shots": 5},
                          "resources": {"device": "cpu", "threads_per_rank": 1}}, **changes)


def assert_same(report, expected):
    assert [(q["subject"], q["row"]) for q in report["questions"]] == [(q["subject"], q["row"]) for q in expected]
    for ours, theirs in zip(report["questions"], expected, strict=True):
        assert np.allclose(ours["scores"], theirs["scores"], atol=2e-4, rtol=0), (ours, theirs)
        assert all(ours[key] == theirs[key] for key in ("shots", "answer", "prediction")), (ours, theirs)
    right = {}
    for q in expected:
        right.setdefault(q["subject"], []).append(q["prediction"] == q["answer"])
    assert report["scored"] == len(expected)
    assert math.isclose(report["accuracy"], sum(map(sum, right.values())) / len(expected))
    assert math.isclose(report["accuracy_subject_mean"], sum(sum(v) / len(v) for v in right.values()) / len(right))
    assert {name: s["scored"] for name, s in report["subjects"].items()} == {name: len(v) for name, v in right.items()}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return write_suite(tmp_path_factory.mktemp("suite"))


@pytest.mark.parametrize("ranks,shots,max_length", [(None, 0, 256), (2, 5, 256), (3, 5, 200), (None, 2, 150)])
def test_answers_are_those_of_the_plain_loop(suite, tmp_path, ranks, shots, max_length):
    expected = list(PlainLoop(tools.TINY).questions(suite, shots, max_length))
    spec = suite_job(suite, evaluate__shots=shots, evaluate__max_length=max_length, parallel__ranks=ranks or 1)
    out = tools.run_job(tmp_path, spec, ranks=ranks)
    report = tools.read_json(out / "evaluation.json")
    assert_same(report, expected)
    assert len(report["unscored"]) == 24 - len(expected) and (report["suite"], report["shots"], report["split"]) == \
        ("mmlu", shots, "test")
    assert not (out / "evaluation_dense.json").exists()
    if shots == 5:
        assert {q["shots"] for q in expected} != {5}, "the case shows nothing"
    line, = tools.read_lines(out / "eval.jsonl")
    assert "loss" not in line and line["accuracy"] == report["accuracy"] and line["unscored"] == len(report["unscored"])


def test_before_and_after_a_training_with_experts(suite, tmp_path):
    """Dense answers after it are those of the export; as trained, of `logits --emoe` with the adapter."""
    spec = tools.tiny_job(lora__targets=tools.ALL_LINEARS, emoe=tools.TINY_EMOE, train__eval_every=2,
                          evaluate={"path": str(suite), "shots": 1, "limit": 3})
    out = tools.run_job(tmp_path, spec)
    lines = tools.read_lines(out / "eval.jsonl")
    assert [line["step"] for line in lines] == [0, 2, 4]
    expected = [q for q in PlainLoop(out / "export" / "model").questions(suite, 1, 256) if q["row"] < 3]
    assert_same(tools.read_json(out / "evaluation_dense.json"), expected)
    trained = tools.read_json(out / "evaluation.json")
    assert trained["accuracy"] == lines[-1]["accuracy"]
    question = expected[4]
    ours = next(q for q in trained["questions"] if (q["subject"], q["row"]) == (question["subject"], question["row"]))
    job = tools.write_yaml(tmp_path / "emoe.yaml", spec)
    for letter in (0, 3):
        ids = question["ids"][letter]
        tokens, tensors = tools.write_json(tmp_path / "tokens.json", ids[:-1]), tmp_path / "logits.safetensors"
        tools.worker("logits", "--model", tools.TINY, "--adapter", out / "export" / "adapter", "--emoe", job, "--partition",
                     out / "partition", "--tokens", tokens, "--out", tensors, "--dtype", "float32").expect()
        logits = load_file(tensors)["logits"].astype(np.float64)
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        score = sum(log_p[t - 1, ids[t]] for t in range(question["common"], len(ids)))
        assert abs(score - ours["scores"][letter]) < 2e-4, (score, ours)
    # The same suite asked of the adapter by itself.
    again = tools.as_evaluation(spec, adapter=str(out / "export" / "adapter"), parallel__ranks=2,
                                evaluate=spec["evaluate"])
    report = tools.read_json(tools.run_job(tmp_path / "again", again, ranks=2) / "evaluation.json")
    assert [q["prediction"] for q in report["questions"]] == [q["prediction"] for q in trained["questions"]]


def test_rate(tmp_path):
    """Seconds of the whole program, its start included, beside the loop's."""
    suite = write_suite(tmp_path / "suite", subjects=3, questions=200)  # the start counts for little
    loop = PlainLoop(tools.TINY)
    begin = time.monotonic()
    expected = list(loop.questions(suite, 5, 256))
    plain = time.monotonic() - begin
    job = tools.write_yaml(tmp_path / "job.yaml", suite_job(suite))
    done = tools.worker("run", job, "--out", tmp_path / "out").expect()
    assert_same(tools.read_json(tmp_path / "out" / "evaluation.json"), expected)
    ratio = plain / done.seconds
    print(f"\n{len(expected)} questions of 5 shots: plain loop {len(expected) / plain:.1f}/s, here "
          f"{len(expected) / done.seconds:.1f}/s: {ratio:.1f} times")
    assert ratio >= TIMES_FASTER
