#!/usr/bin/env python3
"""Makes the demo's texts from WordNet 3.0 (Debian package wordnet-base); see demo/README.md.

    demo/make_data.py [--wordnet /usr/share/wordnet] [--text FILE] [--data FOLDER]

--text  the plain text the base model is trained on: one short dictionary entry a paragraph.
--data  the instruction data: train.jsonl and held-out.jsonl, rows in Alpaca's form. No synset of one is in the other.

The same WordNet gives the same bytes: every choice is a hash of the synset, no random numbers, standard library only.
"""
import argparse
import collections
import hashlib
import json
import pathlib
import re
import sys

# Frequent senses only (tagged so often in WordNet's own corpus) with glosses short enough for a model of a million weights.
LEAST_TAGS = 2
MOST_GLOSS_WORDS = 12
MOST_EXAMPLE_WORDS = 14
HELD_OUT_SHARE = 16  # one synset of so many
TRAIN_ROWS = 4096
HELD_OUT_ROWS = 256

POS_NAMES = {"n": "noun", "v": "verb", "a": "adjective", "r": "adverb"}
FILES = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
SENSE_TYPES = {"n": "1", "v": "2", "a": "3", "r": "4", "s": "5"}
# A demo is read by anybody: senses that insult, swear or are about sex stay out.
UNFIT = re.compile(
    r"offensive|slur|vulgar|obscen|derogat|disparag|insult|sexual|\bsex\b|intercourse|genital|penis|vagina|prostitut|"
    r"copulat|orgasm|erotic|\bnude\b|naked|\brape|anus|buttock|excrement|feces|\bkill|murder|suicid|drug|nazi|\bslave|"
    r"\brace\b|racial|ethnic|homosexual|semen|whore|lesbian|\bgay\b|breast|\bgod\b|jew|muslim|christian|negro|\bblack people",
    re.IGNORECASE)
UNFIT_WORDS = {"ass", "bitch", "bastard", "cock", "cunt", "damn", "dick", "dyke", "fag", "fuck", "hell", "prick", "pussy",
               "queer", "screw", "shit", "slut", "tit", "turd", "piss", "crap", "bum", "idiot", "moron"}


class Synset:
    """One meaning: its words, gloss, example sentences and what it is a kind of."""

    def __init__(self, pos, offset, words, gloss, examples, hypernyms, tags):
        self.pos, self.offset, self.words = pos, offset, words
        self.gloss, self.examples, self.hypernyms, self.tags = gloss, examples, hypernyms, tags
        self.headword = None  # the word whose first sense this is

    def draw(self, purpose, choices):
        """A number below `choices` that depends on nothing but the synset and the purpose."""
        digest = hashlib.sha256(f"{self.pos}{self.offset} {purpose}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % choices

    @property
    def order(self):
        return hashlib.sha256(f"{self.pos}{self.offset} order".encode()).digest()

    @property
    def held_out(self):
        return self.draw("held out", HELD_OUT_SHARE) == 0


def is_plain(text):
    return text.isascii() and not UNFIT.search(text)


def clean_word(word):
    """'hot_dog' -> 'hot dog', '(a)' markers of adjectives dropped."""
    return re.sub(r"\((?:a|p|ip)\)$", "", word).replace("_", " ")


def read_tag_counts(folder):
    """How often each sense was tagged, by 'lemma%type:file:id'."""
    counts = collections.Counter()
    for line in (folder / "cntlist.rev").read_text("latin-1").splitlines():
        key, _, count = line.split()
        counts[":".join(key.split(":")[:3])] += int(count)
    return counts


def split_gloss(gloss):
    """The first definition, and the quoted examples."""
    examples = [e.strip() for e in re.findall(r'"([^"]+)"', gloss)]
    definition = re.split(r'[;"]', gloss)[0]
    definition = re.sub(r"\([^)]*\)", "", definition)
    return re.sub(r"\s+", " ", definition).strip(" ,:"), examples


def read_synsets(folder):
    counts = read_tag_counts(folder)
    synsets = {}
    for pos, name in FILES.items():
        for line in (folder / f"data.{name}").read_text("latin-1").splitlines():
            if line.startswith("  "):  # the licence at the head of each file
                continue
            head, gloss = line.split("|", 1)
            fields = head.split()
            offset, file_number, kind, n = fields[0], fields[1], fields[2], int(fields[3], 16)
            pairs = [(fields[4 + 2 * i], int(fields[5 + 2 * i], 16)) for i in range(n)]
            pointers = fields[5 + 2 * n:]
            hypernyms = [pointers[i + 1] for i in range(0, 4 * int(fields[4 + 2 * n]), 4)
                         if pointers[i] in ("@", "@i") and pointers[i + 2] == pos]
            tags = max(counts[f"{w.lower()}%{SENSE_TYPES[kind]}:{file_number}:{i:02d}"] for w, i in pairs)
            definition, examples = split_gloss(gloss)
            synsets[pos, offset] = Synset(pos, offset, [clean_word(w) for w, _ in pairs], definition, examples, hypernyms,
                                          tags)
    return synsets


def first_senses(folder):
    """(pos, word) -> offset of its most frequent sense."""
    first = {}
    for pos, name in FILES.items():
        for line in (folder / f"index.{name}").read_text("latin-1").splitlines():
            if not line.startswith("  "):
                fields = line.split()
                first[pos, fields[0]] = fields[6 + int(fields[3])]
    return first


def choose(synsets, first):
    """The synsets the demo is about, in a fixed shuffled order, each with its headword."""
    chosen = []
    for synset in synsets.values():
        heads = [w for w in synset.words
                 if re.fullmatch(r"[a-z]{3,12}", w) and first.get((synset.pos, w)) == synset.offset and w not in UNFIT_WORDS]
        words = len(synset.gloss.split())
        if synset.tags < LEAST_TAGS or not heads or not 2 <= words <= MOST_GLOSS_WORDS:
            continue
        if not is_plain(" ".join([synset.gloss, *synset.words])) or UNFIT_WORDS & set(synset.words):
            continue
        synset.headword = heads[0]
        synset.words = [synset.headword] + [w for w in synset.words if w != synset.headword and w.isascii()]
        synset.examples = [e for e in synset.examples
                           if is_plain(e) and 3 <= len(e.split()) <= MOST_EXAMPLE_WORDS
                           and re.search(rf"\b{synset.headword}", e)]
        chosen.append(synset)
    return sorted(chosen, key=lambda s: s.order)


def hypernym_word(synset, synsets):
    for offset in synset.hypernyms:
        word = synsets[synset.pos, offset].words[0]
        if is_plain(word) and word not in synset.words:
            return word
    return None


def sentence(text):
    text = text.strip().rstrip(".;,")
    return text[0].upper() + text[1:] + ("" if text[-1] in "!?" else ".")


def article(word):
    return "an" if word[0] in "aeiou" and not word.startswith(("uni", "use", "eu", "one")) else "a"


# ---------------------------------------------------------------- plain text for the base model

def entry(synset, synsets):
    """A dictionary entry. Nothing here asks, answers or instructs: that style is left for the fine-tuning."""
    word, name = synset.headword, POS_NAMES[synset.pos]
    hypernym = hypernym_word(synset, synsets)
    also = [w for w in synset.words[1:3]]
    parts = [f"{word} ({name}): {synset.gloss}."]
    if hypernym and synset.pos == "n":
        parts.append(f"{sentence(f'{article(word)} {word} is a kind of {hypernym}')}")
    elif hypernym:
        parts.append(f"To {word} is to {hypernym} in some way.")
    if also:
        parts.append(f"Also: {', '.join(also)}.")
    parts += [sentence(e) for e in synset.examples[:2]]
    return " ".join(parts)


def write_text(path, chosen, synsets):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(entry(s, synsets) for s in chosen) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- instructions

def define(synset, _):
    name, word = POS_NAMES[synset.pos], synset.headword
    asks = [f"Define the {name} '{word}'.", f"What does the {name} '{word}' mean?",
            f"Give a short definition of the {name} '{word}'.", f"Explain the meaning of '{word}' as {article(name)} {name}."]
    return asks[synset.draw("define", len(asks))], "", sentence(synset.gloss)


def kind(synset, synsets):
    hypernym = hypernym_word(synset, synsets) if synset.pos == "n" else None
    if hypernym is None:
        return None
    word = synset.headword
    asks = [f"What kind of thing is {article(word)} {word}?", f"Name the class of things that {article(word)} {word} belongs to."]
    return asks[synset.draw("kind", len(asks))], "", sentence(f"{article(word)} {word} is a kind of {hypernym}")


def synonym(synset, _):
    others = [w for w in synset.words[1:] if re.fullmatch(r"[a-z]+( [a-z]+)?", w)]
    if not others:
        return None
    name, word = POS_NAMES[synset.pos], synset.headword
    asks = [f"Name a synonym of the {name} '{word}'.", f"Give another word for the {name} '{word}'."]
    return asks[synset.draw("synonym", len(asks))], "", sentence(others[0])


def example(synset, _):
    if not synset.examples:
        return None
    name, word = POS_NAMES[synset.pos], synset.headword
    asks = [f"Give an example sentence with the {name} '{word}'.", f"Use the {name} '{word}' in a sentence."]
    return asks[synset.draw("example", len(asks))], "", sentence(synset.examples[0])


def reverse(synset, _):
    asks = ["Which word has this definition?", f"Name the {POS_NAMES[synset.pos]} that is defined here."]
    return asks[synset.draw("reverse", len(asks))], sentence(synset.gloss), sentence(synset.headword)


def part_of_speech(synset, _):
    word, name = synset.headword, POS_NAMES[synset.pos]
    return (f"Is '{word}', meaning {synset.gloss}, a noun, a verb, an adjective or an adverb?", "",
            sentence(f"'{word}' is {article(name)} {name} here"))


TASKS = [(define, 6), (kind, 5), (synonym, 3), (example, 4), (reverse, 2), (part_of_speech, 2)]


def row(synset, synsets):
    """One instruction about a synset; which, by its hash, among those it has the material for."""
    wheel = [made for task, share in TASKS if (made := task(synset, synsets)) for _ in range(share)]
    instruction, text, output = wheel[synset.draw("task", len(wheel))]
    return {"instruction": instruction, "input": text, "output": output}


def write_rows(path, chosen, synsets):
    lines = [json.dumps(row(s, synsets), ensure_ascii=True) + "\n" for s in chosen]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wordnet", type=pathlib.Path, default=pathlib.Path("/usr/share/wordnet"))
    parser.add_argument("--text", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path)
    arguments = parser.parse_args()
    if not (arguments.wordnet / "data.noun").exists():
        sys.exit(f"no WordNet in {arguments.wordnet}: apt-get install wordnet-base, or name its folder with --wordnet")
    synsets = read_synsets(arguments.wordnet)
    chosen = choose(synsets, first_senses(arguments.wordnet))
    train = [s for s in chosen if not s.held_out]
    held_out = [s for s in chosen if s.held_out][:HELD_OUT_ROWS]
    if len(train) < TRAIN_ROWS or len(held_out) < HELD_OUT_ROWS:
        sys.exit(f"only {len(train)} and {len(held_out)} synsets fit: is this WordNet 3.0?")
    if arguments.text:
        write_text(arguments.text, chosen, synsets)
        print(f"{arguments.text}: {len(chosen)} entries, {arguments.text.stat().st_size:,} bytes")
    if arguments.data:
        for name, part in (("train", train[:TRAIN_ROWS]), ("held-out", held_out)):
            path = arguments.data / f"{name}.jsonl"
            write_rows(path, part, synsets)
            print(f"{path}: {len(part)} rows, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
