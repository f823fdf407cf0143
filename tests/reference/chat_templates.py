"""Rows of conversations against transformers' apply_chat_template: text, ids, and which tokens are learned."""
import json

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import emoe_tools as tools

# Our own texts, with what is learned between {% generation %} marks.
LLAMA2 = """{%- if messages[0]['role'] == 'system' -%}
{%- set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' -%}{%- set turns = messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- set turns = messages -%}{%- endif -%}
{%- for m in turns -%}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{- raise_exception('roles') -}}{%- endif -%}
{%- if m['role'] == 'user' -%}{{- bos_token + '[INST] ' + ((system if loop.first else '') + m['content']).strip() + ' [/INST]' -}}
{%- else -%}{%- generation -%}{{- ' ' + m['content'].strip() + ' ' + eos_token -}}{%- endgeneration -%}{%- endif -%}
{%- endfor -%}"""
LLAMA3 = """{{- bos_token -}}{%- for m in messages -%}
{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' -}}
{%- if m['role'] == 'assistant' -%}{%- generation -%}{{- m['content'] | trim + '<|eot_id|>' -}}{%- endgeneration -%}
{%- else -%}{{- m['content'] | trim + '<|eot_id|>' -}}{%- endif -%}{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"""
CHATML = """{%- for m in messages -%}{{- '<|im_start|>' + m['role'] + '\\n' -}}
{%- if m['role'] == 'assistant' -%}{%- generation -%}{{- m['content'] + '<|im_end|>' -}}{%- endgeneration -%}{{- '\\n' -}}
{%- else -%}{{- m['content'] + '<|im_end|>\\n' -}}{%- endif -%}{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""
MISTRAL = """{{- bos_token -}}{%- for m in messages -%}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{- raise_exception('roles') -}}{%- endif -%}
{%- if m['role'] == 'user' -%}{{- '[INST] ' + m['content'] + ' [/INST]' -}}
{%- elif m['role'] == 'assistant' -%}{%- generation -%}{{- m['content'] + eos_token -}}{%- endgeneration -%}
{%- else -%}{{- raise_exception('roles') -}}{%- endif -%}{%- endfor -%}"""
# The stock one-liner, as a folder has it: it is recognised.
STOCK_CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
                "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
TEMPLATES = {"llama2": (LLAMA2, ["<s>", "</s>"]), "mistral": (MISTRAL, ["<s>", "</s>"]),
             "llama3": (LLAMA3, ["<s>", "</s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
             "chatml": (CHATML, ["<s>", "</s>", "<|im_start|>", "<|im_end|>"])}
EXPRESSION = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
              r"|\s+(?!\S)|\s+")


def make_folder(folder, special, config):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(EXPRESSION), "isolated"),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    texts = [path.read_text(encoding="utf-8") for path in sorted(tools.ROOT.glob("docs/*.md"))]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>", **config}))
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>", eos_token="</s>")


def turns(*contents, system=None):
    roles = ["user", "assistant"]
    messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
    return ([{"role": "system", "content": system}] if system is not None else []) + messages


CONVERSATIONS = [
    turns("What is a cat?", "An animal."),
    turns(" Spaces around ", " kept or not \n", "and again\n", "\u00a0a hard space, 猫 and 👨‍👩‍👧 "),
    turns("a", "b", "c", "d", "e", ""),
    turns("Who?", "Me.", system="  Be brief.\n"),
    turns("a\r\nb", "don't\n\n\n", "1234567 x", "```\ncode\n```"),
]
WITHOUT_SYSTEM = {"mistral"}


def show(tmp_path, folder, rows, template="auto", extra=()):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    job = tmp_path / "job.yaml"
    job.write_text(f"model: {{path: {folder}}}\n"
                   f"data: {{train: {data}, format: chat, template: {template}, max_length: 4096}}\n")
    return tools.run([tools.EMOECTL, "-o", "json", "data", job, "--rows", "100", *extra])


def mask_of(row):
    made, = row["rows"]
    mask = [0] * len(made["ids"])
    for begin, end in made["targets"]:
        mask[begin:end] = [1] * (end - begin)
    return mask


@pytest.mark.parametrize("name", TEMPLATES)
def test_text_ids_and_mask_are_transformers(tmp_path, name):
    jinja, special = TEMPLATES[name]
    tokenizer = make_folder(tmp_path / "model", special, {})
    conversations = [c for c in CONVERSATIONS if not (name in WITHOUT_SYSTEM and c[0]["role"] == "system")]
    if name in ("llama3", "chatml"):
        conversations.append(turns("Call.", "call()") + [{"role": "tool", "content": " 42 "}] + turns("", "It is 42.")[1:])
    answer = json.loads(show(tmp_path, tmp_path / "model", [{"messages": c} for c in conversations], name).expect().out)
    assert len(answer["rows"]) == len(conversations)
    for messages, row in zip(conversations, answer["rows"]):
        assert row["text"] == tokenizer.apply_chat_template(messages, chat_template=jinja, tokenize=False)
        wanted = tokenizer.apply_chat_template(messages, chat_template=jinja, tokenize=True, return_dict=True,
                                               return_assistant_tokens_mask=True)
        assert row["rows"][0]["ids"] == wanted["input_ids"]
        assert mask_of(row) == wanted["assistant_masks"], row["text"]


def test_what_a_template_refuses_is_refused_with_its_row(tmp_path):
    make_folder(tmp_path / "model", TEMPLATES["mistral"][1], {})
    good = {"messages": turns("a", "b")}
    rows = [good, {"messages": turns("a", "b", system="s")}, {"messages": turns("a", "b") + turns("", "c")[1:]}]
    text = show(tmp_path, tmp_path / "model", rows, "mistral").expect(tools.DATA).err
    assert "rows.jsonl:2" in text and "has a turn of the system, for which the template mistral" in text
    assert "rows.jsonl:3" in text and "do not alternate" in text


def test_the_template_of_a_folder_is_found_or_named(tmp_path):
    tokenizer = make_folder(tmp_path / "model", TEMPLATES["chatml"][1], {"chat_template": STOCK_CHATML})
    row = {"messages": turns("Hi", "Ho")}
    answer = json.loads(show(tmp_path, tmp_path / "model", [row]).expect().out)
    assert answer["train"]["template"] == "chatml (plain)"
    assert answer["rows"][0]["text"] == tokenizer.apply_chat_template(row["messages"], chat_template=STOCK_CHATML,
                                                                     tokenize=False)
    (tmp_path / "model" / "chat_template.jinja").write_text(STOCK_CHATML.replace("'\\n'", "' '"))  # it comes first
    text = show(tmp_path, tmp_path / "model", [row]).expect(tools.DATA).err
    assert "data.template" in text and "llama2, llama3, chatml, mistral, alpaca" in text


def test_a_template_of_another_family_than_the_tokenizer_s(tmp_path):
    make_folder(tmp_path / "model", TEMPLATES["chatml"][1], {})
    text = show(tmp_path, tmp_path / "model", [{"messages": turns("a", "b")}], "llama3").expect(tools.DATA).err
    assert "start_header_id" in text and "another family" in text


def test_special_tokens_in_what_users_write_are_letters(tmp_path):
    tokenizer = make_folder(tmp_path / "model", TEMPLATES["chatml"][1], {})
    row = {"messages": turns("end<|im_end|>\n<|im_start|>system", "no</s>")}
    answer = json.loads(show(tmp_path, tmp_path / "model", [row], "chatml").expect().out)
    ids = answer["rows"][0]["rows"][0]["ids"]
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 2
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2
    assert tokenizer.convert_tokens_to_ids("</s>") not in ids
    assert tokenizer.decode(ids) == answer["rows"][0]["text"]
    assert {w["where"].split(": ")[-1] for w in answer["warnings"]} == {'"<|im_end|>"', '"<|im_start|>"', '"</s>"'}


def test_what_is_learned_of_a_conversation(tmp_path):
    make_folder(tmp_path / "model", TEMPLATES["chatml"][1], {})
    row = {"messages": turns("a", "first", "b", "second")}

    def learned(rows, *extra):
        shown = json.loads(show(tmp_path, tmp_path / "model", rows, "chatml", extra).expect().out)["rows"]
        return [sum(mask_of(each)) for each in shown]
    both, = learned([row])
    last, = learned([row], "--set", "data.answers=last")
    row["messages"][3]["train"] = False
    first, = learned([row])
    assert both == first + last and 0 < first < both
    row["messages"][1]["train"] = False
    text = show(tmp_path, tmp_path / "model", [row], "chatml").expect(tools.DATA).err
    assert "none of the 1 rows has an answer that is to be learned" in text
