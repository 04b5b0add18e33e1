"""Data files: what is read is what stands there, and what is wrong is told with its line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetricks.errors import DataError
from finetricks.tasks.files import read_table


def written(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


MESSY = (
    "\ufefftext,label,note\r\n"
    "plain,01,x\r\n"
    '"comma, and ""quotes""",1,\r\n'
    '"two\r\nlines",NA,x\r\n'
    "\r\n"
    "null,1e5,x\r\n"
    'a "loose" quote,\u00fcber,x\r\n'
    " spaces ,None,x"
)


def test_text_is_read_as_it_stands(tmp_path) -> None:
    table = read_table(written(tmp_path, "messy.csv", MESSY))
    texts = table.texts(["text", "label"])
    assert texts["text"] == ["plain", 'comma, and "quotes"', "two\r\nlines", "null", 'a "loose" quote', " spaces "]
    assert texts["label"] == ["01", "1", "NA", "1e5", "über", "None"]
    assert table.lines == [2, 3, 4, 7, 8, 9]  # the fourth row has two lines, and line 6 is blank
    assert table.place(3) == "messy.csv:7"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_end_is_accepted(tmp_path, end: str) -> None:
    table = read_table(written(tmp_path, "x.tsv", end.join(["text\tlabel", "a, b\t1", "c\t2"])))
    assert table.columns == {"text": ["a, b", "c"], "label": ["1", "2"]}
    assert table.lines == [2, 3]


def test_a_text_may_be_longer_than_the_csv_module_likes(tmp_path) -> None:
    limit = csv.field_size_limit()
    table = read_table(written(tmp_path, "x.csv", f"text,label\n{'a' * (limit + 1)},1\n"))
    assert len(table.columns["text"][0]) == limit + 1
    assert csv.field_size_limit() == limit


def test_json_lines_keep_text_apart_from_the_numbers_it_looks_like(tmp_path) -> None:
    rows = [
        {"text": "a\u2028b", "label": "01"},
        {"text": "NA", "label": 1},
        {"text": "c", "label": 2.5},
        {"label": True, "text": "d"},
    ]
    content = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n"
    table = read_table(written(tmp_path, "x.jsonl", content))
    assert table.texts(["text", "label"]) == {"text": ["a\u2028b", "NA", "c", "d"], "label": ["01", "1", "2.5", "true"]}
    assert table.lines == [1, 2, 3, 4]


def test_parquet(tmp_path) -> None:
    label = pa.array(["01", "1"]).dictionary_encode()
    pq.write_table(pa.table({"text": ["null", "b"], "label": label, "n": [1, 2]}), tmp_path / "x.parquet")
    table = read_table(tmp_path / "x.parquet")
    assert table.texts(["text", "label", "n"]) == {"text": ["null", "b"], "label": ["01", "1"], "n": ["1", "2"]}
    assert table.place(1) == "x.parquet row 2"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"", "x.csv: the file is empty"),
        ("x.csv", b"\xef\xbb\xbf\n \n", "x.csv: the file is empty"),
        ("x.csv", "text,label\n", "x.csv: the file has no rows"),
        ("x.csv", "text,label\n\n", "x.csv: the file has no rows"),
        ("x.csv", "text,text,label,label\na,b,c,d\n", "x.csv:1: the header names 'label', 'text' more than once"),
        ("x.csv", "text,label\na,1\nb\nc,2\n", "x.csv:3: number of values: 1, but the header names 2 columns"),
        ("x.csv", 'text,label\n"a\nb",1\nc,d,2\n', "x.csv:4: number of values: 3, but the header names 2 columns"),
        ("x.csv", 'text,label\na,1\n"b,2\nc,3\n', "x.csv:3: a quote that opens in this row is never closed"),
        ("x.csv", 'text,label\na,1\n"b"c,2\n', "x.csv:3: malformed: ',' expected after '\"'; within a quoted value"),
        ("x.csv", b"text,label\na,1\nb\xe9,2\n", "x.csv:3: not UTF-8: the byte 0xe9; save the file as UTF-8"),
        ("x.csv", b"\xef\xbb\xbftext,label\na,\xff\n", "x.csv:2: not UTF-8: the byte 0xff"),
        ("x.csv", "text,label\n".encode("utf-16"), "x.csv:1: not UTF-8 but UTF-16"),
        ("x.csv", "text,label\na,1\nb\0,2\n", "x.csv:3: holds a NUL byte"),
        ("x.tsv", "text\tlabel\na\t1\nb\tc\t2\n", "x.tsv:3: number of values: 3, but the header names 2 columns"),
        ("x.jsonl", '{"text": "a"}\n\n{"text": \n', "x.jsonl:3: not JSON Lines, one object a line"),
        ("x.jsonl", '{"text": "a", "text": "b"}\n', "x.jsonl:1: not JSON Lines, one object a line: the key 'text'"),
        ("x.jsonl", '{"text": NaN}\n', "NaN is not a JSON value"),
        ("x.jsonl", '{"text": "\\ud800"}\n', "'\\ud800' is half of a surrogate pair, and no text"),
        ("x.jsonl", '"a"\n', "x.jsonl:1: not a JSON object"),
        ("x.json", '[{"text": "a"}]', "x.json:1: not a JSON object: [{"),
        ("x.json", '[\n{"text": "a"}]', "an array cannot be read, write one object a line"),
        ("x.parquet", "text,label\na,1\n", "x.parquet: not a Parquet file"),
        ("x.xlsx", "x", "unknown kind of file; the kinds are .csv, .tsv, .jsonl, .json, .parquet"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(tmp_path, name: str, content: bytes | str, message: str) -> None:
    with pytest.raises(DataError) as error:
        read_table(written(tmp_path, name, content))
    assert message in str(error.value)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*absent\.csv: No such file"):
        read_table(tmp_path / "absent.csv")


def test_of_many_ragged_rows_the_first_are_listed_and_the_rest_counted(tmp_path) -> None:
    with pytest.raises(DataError) as error:
        read_table(written(tmp_path, "x.csv", "text,label\n" + "a\n" * 100))
    places = [problem.place for problem in error.value.problems]
    assert places == ["x.csv:2", "x.csv:3", "x.csv:4", "x.csv:5", "x.csv:6", "x.csv"]
    assert error.value.problems[-1].message.startswith("and 95 more rows")


def test_all_that_is_wrong_with_the_columns_is_told_at_once(tmp_path) -> None:
    content = '{"txt": "a", "label": "x", "list": [1]}\n{"txt": "  ", "list": 1}\n{"txt": "c", "label": "x"}\n'
    table = read_table(written(tmp_path, "x.jsonl", content))
    with pytest.raises(DataError) as error:
        table.texts(["text", "txt", "label", "list"])
    assert [str(problem) for problem in error.value.problems] == [
        "x.jsonl: no column 'text' (did you mean 'txt'?); its columns are txt, label, list",
        "x.jsonl:2: the column 'txt' is empty",
        "x.jsonl:2: the column 'label' is empty",
        "x.jsonl:1: the column 'list' holds [1], expected text",
    ]


def test_of_many_empty_values_the_first_lines_are_listed(tmp_path) -> None:
    table = read_table(written(tmp_path, "x.csv", "text,label\na,1\n" + ",1\n" * 7))
    with pytest.raises(
        DataError, match=r"^x\.csv:3: the column 'text' is empty in 7 rows \(lines 3, 4, 5, 6, 7, \.\.\.\)$"
    ):
        table.texts(["text"])
