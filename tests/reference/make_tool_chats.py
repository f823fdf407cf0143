#!/usr/bin/env python3
"""Makes data/tool_chats.json: conversations with calls of tools as transformers renders them by published chat templates.

    make_tool_chats.py FOLDER     FOLDER has the templates as their owners publish them, each VARIANT.jinja; texts of others stay

(The templates are not ours to keep here; the texts that they write are.) A template that writes a date gets that of
TemplateForm.
"""
import json
import pathlib
import sys

from transformers.utils.chat_template_utils import render_jinja_template

TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Says the weather, \"as it is\", in °C.",
        "parameters": {"type": "object", "required": ["city"], "properties": {
            "unit": {"type": "string", "enum": ["C", "F"]}, "city": {"type": "string", "description": "Größe/名"}}}}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}, "strict": False}},
]
ARGUMENTS = {"z": 1, "city": "Łódź \"x\"\n\t\u0001\u007f", "a": {"list": [1, 2.0, -3.5, 1e-7, 1e16, 123456789.125, True, None], "empty": [],
             "none": {}}, "big": 9007199254740993}


def call(name, arguments, wrapped=True, number=1):
    function = {"name": name, "arguments": arguments}
    return {"type": "function", "id": f"call-{number:04}", "function": function} if wrapped else function


def said(role, content, **more):
    return {"role": role, "content": content, **more}


def answered(content, number):
    return {"role": "tool", "content": content, "tool_call_id": f"call-{number:04}"}


ROWS = {
    "one call": {"messages": [said("user", " Weather? "), said("assistant", "", tool_calls=[call("get_weather", ARGUMENTS)]),
                              said("tool", "{\"t\": 3}\n"), said("assistant", "Three degrees.")], "tools": TOOLS},
    "system and tools": {"messages": [said("system", "Be brief.\n"), said("user", "Now?"),
                                      said("assistant", None, tool_calls=[call("now", {})]), said("tool", "12:00"),
                                      said("assistant", "Noon.")], "tools": TOOLS[1:]},
    "a text and two calls": {"messages": [said("user", "Both?"), said("assistant", "I ask.", tool_calls=[
        call("get_weather", {"city": "Bern"}), call("now", {}, wrapped=False)]), said("tool", "1"), said("tool", "2"),
        said("assistant", "There.")]},
    "two calls with their results": {"messages": [
        said("user", "Hi"), said("assistant", " Ho "), said("user", "Both?"),
        said("assistant", "", tool_calls=[call("get_weather", ARGUMENTS), call("now", {}, number=2)]),
        answered("{\"t\": 3}\n", 1), answered("12:00", 2), said("assistant", "There."), said("user", "Hi"), said("assistant", "Ho")],
        "tools": TOOLS},
    "turns that say the same": {"messages": [said("user", "Hi"), said("assistant", "Ho"), said("user", "Hi"),
                                             said("assistant", "So?")], "tools": TOOLS[1:]},
    "arguments as a text": {"messages": [said("user", "Now?"), said("assistant", "", tool_calls=[call("now", "{\"a\":1}")])]},
    "thoughts": {"messages": [said("user", "Now?"), said("assistant", "<think>\nhm\n</think>\n\nI ask.", tool_calls=[call("now", {})]),
                              said("tool", "12:00"), said("assistant", "<think>\nso\n</think>\n\nNoon.")]},
    "functions without calls": {"messages": [said("user", "Hi"), said("assistant", "Ho")], "tools": TOOLS},
}


def main():
    out = pathlib.Path(__file__).parent / "data" / "tool_chats.json"
    templates = sorted(pathlib.Path(sys.argv[1]).glob("*.jinja"))
    entries = [entry for entry in json.loads(out.read_text()) if entry["variant"] not in {t.stem for t in templates}]
    for template in templates:
        for what, row in ROWS.items():
            try:
                texts, _ = render_jinja_template([row["messages"]], tools=row.get("tools"), bos_token="<s>", eos_token="</s>",
                                                 chat_template=template.read_text(), date_string="26 Jul 2024")
            except Exception as error:  # the template refuses it
                print(f"{template.stem}, {what}: {error}")
                continue
            answers = [m["content"].split("</think>")[-1].strip() for m in row["messages"] if m["role"] == "assistant" and m["content"]]
            lost = [answer for answer in answers if answer not in texts[0]]
            if lost:
                print(f"{template.stem}, {what}: does not write {lost}")
                continue
            entries.append({"variant": template.stem, "what": what, "row": row, "text": texts[0]})
    out.write_text(json.dumps(entries, ensure_ascii=False, indent=1) + "\n")
    print(f"{out}: {len(entries)} texts")


if __name__ == "__main__":
    main()
