#!/usr/bin/env python3
"""The golden training cases of tests/reference/data for tools/gpu_check.py, which has no package to read them with.

    golden_jobs.py FOLDER

FOLDER/NAME gets job.json (a job file: JSON is YAML; "@" stands for FOLDER), its rows, partition and adapter, and expected.json,
the golden steps; FOLDER/tiny the model. Needs the Python environment of the tests.
"""
import json
import pathlib
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "reference"), str(ROOT / "tests" / "support")]
import emoe_tools as tools  # noqa: E402
from cases import find_cases  # noqa: E402


def main():
    out = pathlib.Path(sys.argv[1]).resolve()
    shutil.copytree(tools.TINY, out / "tiny")
    for case in find_cases(tools.FIXTURES):
        if case.command != "train":
            continue
        folder = out / case.name
        folder.mkdir()
        text = json.dumps(case.job(folder), indent=1)
        if "lora" in case.config:
            shutil.copytree(case.folder / "init_adapter", folder / "init_adapter")
        for place, copy in ((out, "@"), (case.folder, f"@/{case.name}"), (case.path("model"), "@/tiny")):
            text = text.replace(str(place), copy)
        (folder / "job.json").write_text(text + "\n")
        (folder / "expected.json").write_text(json.dumps(case.result["steps"]) + "\n")


if __name__ == "__main__":
    main()
