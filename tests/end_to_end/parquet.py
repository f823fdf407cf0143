"""Parquet files, written by pyarrow, beside the same rows as JSON lines: emoectl data, submission and the worker."""
import json

import pytest

import emoe_tools as tools
from emoe_api import ApiError

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

if not (tools.BIN / "libemoe_parquet.so").exists():
    pytest.skip("the build has no module for Parquet: it was made without pyarrow", allow_module_level=True)

ROWS = tools.read_json(tools.FIXTURES / "rows.json")
ODD = ["quote \" and \\ back", "tab\tline\nend\r\n", "猫 👨‍👩‍👧 é\u0301", "\u0001\u001f\u007f", "", "</s> <s>"]


def alpaca_rows():
    rows = [{"instruction": row["instruction"], "input": row.get("input", ""), "output": row["output"]} for row in ROWS]
    return rows + [{"instruction": f"Say {i}.", "input": None, "output": text} for i, text in enumerate(ODD)]


def twin(folder, table, name="rows", **options):
    """The table as Parquet, and its rows as JSON lines."""
    pq.write_table(table, folder / f"{name}.parquet", **options)
    with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
    return folder / f"{name}.parquet", folder / f"{name}.jsonl"


def job_of(path, **changes):
    return tools.tiny_job(data__train=str(path), **changes)


def data(tmp_path, path, code=0, **changes):
    job = tools.write_yaml(tmp_path / f"{path.name}.yaml", job_of(path, **changes))
    output = ("-o", "json") if code == 0 else ()
    done = tools.run([tools.EMOECTL, *output, "data", job, "--rows", "10000"]).expect(code)
    return json.loads(done.out) if code == 0 else done.err


def same_rows(tmp_path, files, **changes):
    ours, theirs = (data(tmp_path, file, **changes) for file in files)
    assert [row["rows"] for row in ours["rows"]] == [row["rows"] for row in theirs["rows"]]
    assert [row["text"] for row in ours["rows"]] == [row["text"] for row in theirs["rows"]]
    assert ours["train"]["rows_read"] == theirs["train"]["rows_read"] > 0
    return ours


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary"])
def test_rows_are_those_of_json_lines(tmp_path, kind):
    rows = alpaca_rows()
    type_of = {"string": pa.string(), "large_string": pa.large_string(), "string_view": pa.string_view(),
               "dictionary": pa.dictionary(pa.int32(), pa.string())}[kind]
    columns = {name: pa.array([row[name] for row in rows], pa.string()).cast(type_of) for name in ("output", "input", "instruction")}
    codec = {"string": "snappy", "large_string": "zstd", "string_view": "gzip", "dictionary": "none"}[kind]
    files = twin(tmp_path, pa.table(columns), row_group_size=7, compression=codec)
    shown = same_rows(tmp_path, files)
    assert shown["rows"][0]["place"] == "rows.parquet:1"


def test_columns_of_other_names_and_columns_that_nobody_reads(tmp_path):
    rows = alpaca_rows()
    table = pa.table({"question": [row["instruction"] for row in rows], "answer": [row["output"] for row in rows],
                      "score": [None, *range(1, len(rows))], "nothing": pa.nulls(len(rows)),
                      "nested": [{"a": [1]}] * len(rows)})
    names = {"data__fields": {"instruction": "question", "output": "answer"}}
    told = {(w["code"], w["where"].split(": ")[-1]): w["count"] for w in same_rows(tmp_path, twin(tmp_path, table), **names)["warnings"]}
    assert told[("UNREAD_KEY", '"nested"')] == len(rows) and told[("UNREAD_KEY", '"score"')] == len(rows) - 1, told
    assert ("UNREAD_KEY", '"nothing"') not in told


def test_conversations_are_lists_of_structs(tmp_path):
    rows = [{"messages": [{"role": "user", "content": row["instruction"], "train": None},
                          {"role": "assistant", "content": row["output"], "train": bool(i % 3)}]} for i, row in enumerate(ROWS)]
    for i, kind in enumerate((pa.list_, pa.large_list)):
        element = pa.struct([("role", pa.string()), ("content", pa.large_string()), ("train", pa.bool_())])
        table = pa.table({"messages": pa.array([row["messages"] for row in rows], kind(element))})
        same_rows(tmp_path, twin(tmp_path, table, f"rows{i}", row_group_size=5), data__format="chat", data__template="llama2")


def test_texts(tmp_path):
    files = twin(tmp_path, pa.table({"text": [row["output"] for row in ROWS]}))
    same_rows(tmp_path, files, data__format="text")


def test_training_and_submission(tmp_path, shared_coordinator):
    files = twin(tmp_path, pa.table({key: [row[key] for row in alpaca_rows()] for key in ("instruction", "input", "output")}))
    weights = [tools.exported_weights(tools.run_job(tmp_path / file.suffix[1:], job_of(file))) for file in files]
    assert weights[0] == weights[1]
    api = shared_coordinator.api
    api.succeed(api.create(job_of(files[0], parallel__ranks=2)).id)
    wrong = tmp_path / "wrong.parquet"
    pq.write_table(pa.table({"instruction": ["a"], "output": [3]}), wrong)
    with pytest.raises(ApiError) as caught:
        api.create(job_of(wrong))
    assert 'has int64 in the column "output", of which format alpaca reads strings' in str(caught.value.violations)


def encrypted(path, footer):
    from pyarrow.parquet import encryption as pe

    class Keys(pe.KmsClient):
        def wrap_key(self, key_bytes, master_key_identifier):
            return key_bytes.hex()

        def unwrap_key(self, wrapped_key, master_key_identifier):
            return bytes.fromhex(wrapped_key.decode() if isinstance(wrapped_key, bytes) else wrapped_key)
    factory = pe.CryptoFactory(lambda connection: Keys())
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), pe.EncryptionConfiguration(
        footer_key="key", column_keys={"key": ["output"]}, plaintext_footer=not footer))
    table = pa.table({"instruction": ["a"] * 9, "output": ["b"] * 9})
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)


def test_what_is_wrong_with_a_file(tmp_path):
    table = pa.table({"instruction": [f"Say {i}" for i in range(5000)], "output": [f"{i * 7919}" for i in range(5000)]})
    whole = tmp_path / "whole.parquet"
    pq.write_table(table, whole)
    content = whole.read_bytes()

    def told(name, bytes_=None, code=tools.DATA, **changes):
        if bytes_ is not None:
            (tmp_path / name).write_bytes(bytes_)
        text = data(tmp_path, tmp_path / name, code=code, **changes)
        assert name in text and text.count("\n") <= 3, text
        return text
    assert "is cut off" in told("cut.parquet", content[:-1000])
    assert "is no Parquet file" in told("other.parquet", b"{}")
    assert "is no good Parquet file" in told("footer.parquet", content[:-300] + b"\xff" * 292 + content[-8:])
    assert "is no good Parquet file" in told("pages.parquet", content[:30] + b"\xff" * 400 + content[430:])
    encrypted(tmp_path / "footer-key.parquet", footer=True)
    assert "is encrypted" in told("footer-key.parquet")
    encrypted(tmp_path / "column-key.parquet", footer=False)
    assert "encrypted columns" in told("column-key.parquet")
    pq.write_table(pa.table({"instruction": ["a"], "output": [{"a": {"b": 1}}]}), tmp_path / "nested.parquet")
    assert 'has struct<a: struct<b: int64>> in the column "output", of which format alpaca reads strings' in told("nested.parquet")
    pq.write_table(pa.table({"instruction": ["a"], "out put": ["b"]}), tmp_path / "columns.parquet")
    assert 'lacks the column "output"; it has "instruction" and "out put"' in told("columns.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    assert "has no rows" in told("empty.parquet")
    pq.write_table(pa.table({"messages": [[{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]]}),
                   tmp_path / "null.parquet")
    said = told("null.parquet", data__format="chat", data__template="llama2")
    assert 'null.parquet:1' in said and 'has null at "content"' in said


@pytest.mark.parametrize("dictionary", [True, False])  # told by the rows, and before by the file
def test_a_file_that_unpacks_without_end(tmp_path, dictionary):
    path = tmp_path / "bomb.parquet"
    text = "0" * 1_000_000
    pq.write_table(pa.table({"instruction": ["a"] * 300, "output": [text] * 300}), path, compression="zstd",
                   use_dictionary=dictionary)
    assert path.stat().st_size < 1_000_000
    assert "unpacks to more than 200 times" in data(tmp_path, path, code=tools.DATA)
