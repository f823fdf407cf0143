"""Ids of a tokenizer.json against github.com/huggingface/tokenizers, and of a tiktoken file against tiktoken, over texts of all kinds; and what an export of such a
base is to stock transformers."""
import base64
import json
import random

import pytest
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

import emoe_tools as tools

TEXTS = 20000
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
# Scripts with case, marks, joiners and digits of their own; Chinese, Korean in both forms, emoji, presentation forms,
# control characters, spaces, tags. (No marks that Unicode has had since version 9 only, as U+1715: the library's NFC knows
# none of them, and leaves two in the wrong order.)
BLOCKS = [(0x20, 0x7F), (0xA0, 0x17F), (0x370, 0x4FF), (0x590, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF),
          (0x2000, 0x206F), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x1F300, 0x1F64F), (0x300, 0x36F),
          (0, 0x20), (0x80, 0xA0), (0x1680, 0x1700), (0x1780, 0x180F), (0xFE00, 0xFE0F), (0x1D400, 0x1D7FF), (0x2160, 0x2188),
          (0xFF00, 0xFFEF), (0x1F1E6, 0x1F1FF), (0xFB00, 0xFB4F), (0xE0000, 0xE007F)]
WORDS = ["<|im_start|>", "<|im_end|>", "<s>", "</s>", "<tool>", " <tool> ", "[PAD]", "<word>", "a<word>", "<word> b", "É!",
         "\r\n", "\n\n\n", "\t", "\u3000", "\u00A0", "\u180E", "\u200D", "\u0085", "'s", "'S", "don't", "I'LL", "we'Ve"]


def own_texts():
    """Source code and prose, cut into pieces: what lies in this repository."""
    pieces = []
    for pattern in ("docs/*.md", "base/*.cc", "format/*.cc", "tests/support/*.py", "proto/emoe/v1/*.proto"):
        for path in sorted(tools.ROOT.glob(pattern)):
            text = path.read_text(encoding="utf-8")
            pieces += [text[at:at + 400] for at in range(0, len(text), 400)]
    return pieces


def random_text(draw, pieces):
    parts = []
    for _ in range(draw.randint(1, 12)):
        kind = draw.random()
        if kind < 0.5:
            low, high = draw.choice(BLOCKS)
            parts.append("".join(chr(draw.randint(low, high)) for _ in range(draw.randint(1, 8))))
        elif kind < 0.7:
            parts.append(draw.choice(WORDS))
        elif kind < 0.8:
            parts.append(" " * draw.randint(1, 6))
        elif kind < 0.9:
            parts.append(str(draw.randint(0, 10 ** draw.randint(1, 12))))
        else:
            parts.append(draw.choice(pieces)[:40])
    return "".join(parts)


@pytest.fixture(scope="module")
def texts():
    draw, pieces = random.Random(5), own_texts()
    edges = ["", " ", "a" * 5000, "é" * 3000, "字" * 3000, "👨‍👩‍👧‍👦" * 50, " " * 3000, "\n" * 500, "0" * 3000, "ab " * 2000]
    return edges + pieces + [random_text(draw, pieces) for _ in range(TEXTS - len(edges) - len(pieces))]


def add_tokens(tokenizer):
    tokenizer.add_special_tokens([AddedToken("<|im_start|>", normalized=False), AddedToken("<|im_end|>", normalized=False),
                                  AddedToken("[PAD]", normalized=False, rstrip=True)])
    tokenizer.add_tokens([AddedToken("<tool>", lstrip=True, rstrip=True, normalized=False),
                          AddedToken("<word>", single_word=True, normalized=False), AddedToken("É!", normalized=True)])
    return tokenizer


def byte_level(expression, normalizer=None, ignore_merges=False, bos=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # GPT-2's own expression
    if expression:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(expression), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(own_texts(), trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<s>", "</s>"],
        show_progress=False))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if bos:
        template = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)])
        tokenizer.post_processor = processors.Sequence([tokenizer.post_processor, template])
    return add_tokens(tokenizer)


def pieces_of_characters(normalizer=None, pre_tokenizer=None):
    """As Llama 2 and Mistral: what is no piece is spelt in bytes."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(own_texts(), trainers.BpeTrainer(
        vocab_size=1500, special_tokens=["<unk>", "<s>", "</s>", *BYTES], show_progress=False))
    model = json.loads(trained.to_str())["model"]
    tokenizer = Tokenizer(models.BPE(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]],
                                     byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    return add_tokens(tokenizer)


KINDS = {
    "llama3": lambda: byte_level(LLAMA3, ignore_merges=True, bos=True),
    "qwen": lambda: byte_level(QWEN, normalizer=normalizers.NFC()),
    "gpt2": lambda: byte_level(None),
    "llama2-legacy": lambda: pieces_of_characters(
        normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])),
    "llama2": lambda: pieces_of_characters(
        pre_tokenizer=pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)),
    "mistral": lambda: pieces_of_characters(
        pre_tokenizer=pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)),
}


def save(tokenizer, folder, **config):
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    tools.write_json(folder / "tokenizer_config.json",
                     {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **config})


def our_ids(folder, texts, tmp_path):
    out = tmp_path / "ids.json"
    tools.worker("tokenize", "--model", folder, "--texts", tools.write_json(tmp_path / "texts.json", texts), "--out",
                 out).expect()
    return tools.read_json(out)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_the_library(kind, texts, tmp_path):
    tokenizer = KINDS[kind]()
    save(tokenizer, tmp_path / "model")
    ours = our_ids(tmp_path / "model", texts, tmp_path)
    theirs = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
    bad = [text for text, a, b in zip(texts, ours, theirs) if a != b]
    assert not bad, f"{len(bad)} of {len(texts)} texts, first {bad[0]!r}"
    stock = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert [stock(text).input_ids for text in texts[-200:]] == ours[-200:]


def tiktoken_ranks():
    """Pieces in the order of their merges, the bytes first."""
    alphabet = {}  # of byte-level BPE: printable characters for themselves, the others from 256 on
    for byte in range(256):
        printable = 33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte
        alphabet[chr(byte if printable else 256 + sum(not (33 <= b <= 126 or 161 <= b <= 172 or 174 <= b) for b in range(byte)))] = byte
    model = json.loads(byte_level(LLAMA3).to_str())["model"]
    pieces = [bytes([byte]) for byte in range(256)]
    for left, right in model["merges"]:
        piece = bytes(alphabet[c] for c in left + right)
        if piece not in pieces:
            pieces.append(piece)
    return {piece: rank for rank, piece in enumerate(pieces)}


def test_ids_of_a_tiktoken_file_are_tiktoken_s(texts, tmp_path):
    tiktoken = pytest.importorskip("tiktoken")
    ranks = tiktoken_ranks()
    names = ["<|begin_of_text|>", "<|end_of_text|>", *(f"<|reserved_special_token_{i}|>" for i in range(4)), "<|start_header_id|>",
             "<|end_header_id|>", "<|reserved_special_token_4|>", "<|eot_id|>", *(f"<|reserved_special_token_{i}|>" for i in range(5, 251))]
    special = {name: len(ranks) + i for i, name in enumerate(names)}
    theirs = tiktoken.Encoding("own", pat_str=LLAMA3, mergeable_ranks=ranks, special_tokens=special)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer.model").write_text("".join(f"{base64.b64encode(piece).decode()} {rank}\n" for piece, rank in ranks.items()))
    texts = [text.replace("<|im_start|>", "<|eot_id|>").replace("<|im_end|>", "<|reserved_special_token_250|>") for text in texts]
    ours = our_ids(folder, texts, tmp_path)
    wanted = [[special["<|begin_of_text|>"], *ids] for ids in theirs.encode_batch(texts, num_threads=1, allowed_special="all")]
    bad = [text for text, a, b in zip(texts, ours, wanted, strict=True) if a != b]
    assert not bad, f"{len(bad)} of {len(texts)} texts, first {bad[0]!r}"
    assert any(special["<|eot_id|>"] in ids for ids in ours)


def sentencepiece_model(which, folder):
    """One that the library trains as Llama's was, the suite's own (which is left to the library), or Llama 2's."""
    if which != "trained":
        return {"tiny": tools.TINY / "tokenizer.model", "llama2": tools.SHARED / "data" / "tokenizers" / "llama2-tokenizer.model"}[which]
    (folder / "texts.txt").write_text("\n".join(line for text in own_texts() for line in text.splitlines()), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=folder / "texts.txt", model_prefix=str(folder / "own"), model_type="bpe", vocab_size=1500, byte_fallback=True,
        split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True,
        character_coverage=0.999, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2)
    return folder / "own.model"


@pytest.mark.parametrize("which", ["trained", "tiny", "llama2"])
def test_ids_of_a_sentencepiece_model_are_its_library_s(which, texts, tmp_path):
    model = sentencepiece_model(which, tmp_path)
    if not model.exists():
        pytest.skip(f"{model} is not part of the repository")
    library = sentencepiece.SentencePieceProcessor(model_file=str(model))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(model.read_bytes())
    # Without settings beside it special tokens are letters, as they are for the library; a NUL ends a text of its.
    texts = [text.replace("\0", "") for text in texts]
    ours = our_ids(folder, texts, tmp_path)
    bad = [text for text, a in zip(texts, ours, strict=True) if a != [1, *library.encode(text)]]
    assert not bad, f"{len(bad)} of {len(texts)} texts, first {bad[0]!r}"


def test_an_export_reads_texts_as_training_did(tmp_path):
    """A folder as version 5 saves it: its class would take only the vocabulary out of the tokenizer.json."""
    base = tmp_path / "base"
    base.mkdir()
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        if (tools.TINY / name).exists():
            (base / name).write_bytes((tools.TINY / name).read_bytes())
    config = tools.read_json(base / "config.json")
    tokenizer = KINDS["llama2-legacy"]()
    vocabulary = tokenizer.get_vocab_size()
    grow_embeddings(base, config, vocabulary)
    save(tokenizer, base, tokenizer_class="LlamaTokenizer", legacy=True)
    out = tools.run_job(tmp_path, tools.tiny_job(model__path=str(base)))
    probe = tools.read_json(out / "export" / "tokenizer_probe.json")
    stock = AutoTokenizer.from_pretrained(out / "export" / "model")
    assert [stock(entry["text"]).input_ids for entry in probe] == [entry["ids"] for entry in probe]


def grow_embeddings(base, config, vocabulary):
    """The tiny model with embeddings for a larger vocabulary, and the end of text that the tokenizer has."""
    import torch
    from safetensors.torch import load_file, save_file
    tensors = load_file(base / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            width = tensors[name].shape[1]
            tensors[name] = torch.randn(vocabulary, width, generator=torch.Generator().manual_seed(1)) * 0.05
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    tools.write_json(base / "config.json", {**config, "vocab_size": vocabulary, "bos_token_id": 1, "eos_token_id": 2})
