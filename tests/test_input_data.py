"""Data files as people have them: read as what stands there, or refused with the line and what to do."""

from __future__ import annotations

import codecs
import datetime
import decimal
import gzip
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import tiny
from finetricks.settings import Data
from finetricks.tasks.examples import read_examples
from inputs import Answer, command, little_memory, parquet_of

FILES = Path(__file__).parent / "corpus" / "data"


@dataclass(frozen=True)
class Good:
    """What is read: the texts and the labels of the rows, the kind of task, and words of its notes."""

    texts: list[str]
    labels: list[Any]
    kind: str = "classification"
    notes: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bad:
    """What the message says."""

    told: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)


def bad(*told: str, **options: Any) -> Bad:
    return Bad(told, options)


def good(labels: str | list[Any] = "x y x y", texts: list[str] | None = None, **more: Any) -> Good:
    names = labels.split() if isinstance(labels, str) else labels
    return Good(texts or TEXTS[: len(names)], names, **more)


TEXTS = ["one", "two", "three", "four", "five", "six"]


def table(labels: list[str] | str = "x y x y", header: str = "text,label", end: str = "\n") -> str:
    """A CSV file with these labels."""
    names = labels.split() if isinstance(labels, str) else labels
    return end.join([header, *(f"{text},{label}" for text, label in zip(TEXTS, names, strict=False))]) + end


def lines(*rows: Any) -> str:
    """JSON Lines."""
    return "".join(f"{row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def rows(*labels: Any) -> list[dict[str, Any]]:
    return [{"text": text, "label": label} for text, label in zip(TEXTS, labels, strict=False)]


def archived(name: str, content: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(name, content)
    return made.getvalue()


WIDE = [f"c{number}" for number in range(10_000)]
LONG = "word " * 200_000
UTF8 = "save the file as UTF-8"
DATES = [datetime.date(2020, 1, day) for day in (1, 2, 3, 4)]
DEEP = '{"text": ' + "[" * 100_000 + "]" * 100_000 + ', "label": 1}\n'
QUOTED = 'text,label\n"one",x\n"t""wo""",y\n"th, ree","x"\n"fo\nur",y\n'

CSV: dict[str, tuple[str | bytes, Good | Bad]] = {
    # -- encodings and bytes
    "plain": (table(), good()),
    "a byte order mark": (codecs.BOM_UTF8 + table().encode(), good()),
    "two byte order marks": (
        codecs.BOM_UTF8 * 2 + table().encode(),
        bad("no column 'text' (did you mean", "train.csv"),
    ),
    "a byte order mark alone": (codecs.BOM_UTF8, bad("train.csv: the file is empty")),
    "UTF-16 little endian": (codecs.BOM_UTF16_LE + table().encode("utf-16-le"), bad("train.csv:1", "UTF-16", UTF8)),
    "UTF-16 big endian": (codecs.BOM_UTF16_BE + table().encode("utf-16-be"), bad("train.csv:1", "UTF-16", UTF8)),
    "UTF-16 without a mark": (table().encode("utf-16-le"), bad("train.csv:1", "NUL", UTF8)),
    "UTF-32": (codecs.BOM_UTF32_LE + table().encode("utf-32-le"), bad("train.csv:1", "UTF-16", UTF8)),
    "latin-1": (table("x y x é").encode("latin-1"), bad("train.csv:5", "0xe9", UTF8)),
    "cp1252 quotes": (b"text,label\none,x\n\x93two\x94,y\n", bad("train.csv:3", "0x93", "iconv -f cp1252")),
    "latin-1 with lone CRs": (table("x y é y", end="\r").encode("latin-1"), bad("train.csv:4", "0xe9")),
    "an overlong sequence": (b"text,label\none,\xc0\xaf\n", bad("train.csv:2", "0xc0")),
    "half of a pair as UTF-8": (b"text,label\none,\xed\xa0\x80\n", bad("train.csv:2", "0xed")),
    "a cut sequence at the end": (table().encode() + b"five,\xe2\x82", bad("train.csv:6", "0xe2")),
    "a NUL in a text": ("text,label\none,x\ntw\0o,y\n", bad("train.csv:3", "NUL")),
    "a NUL in the header": ("text\0,label\none,x\n", bad("train.csv:1", "NUL")),
    "NULs at the end": (table().encode() + b"\0" * 512, bad("train.csv:6", "NUL")),
    "a control character": (table().replace("two", "t\x1b[31mwo"), good(texts=["one", "t\x1b[31mwo", "three", "four"])),
    "a change of direction": (table().replace("two", "t\u202ewo"), good(texts=["one", "t\u202ewo", "three", "four"])),
    "other planes": (table("😀 𝒳 😀 𝒳"), good("😀 𝒳 😀 𝒳")),
    # -- line ends
    "CRLF": (table(end="\r\n"), good()),
    "lone CR": (table(end="\r"), good()),
    "mixed line ends": ("text,label\r\none,x\ntwo,y\rthree,x\r\nfour,y", good()),
    "CR CR LF": (table(end="\r\r\n"), good()),
    "no line end at the end": (table().rstrip(), good()),
    "blank lines between": (table().replace("\n", "\n\n"), good()),
    "a line separator within": (table().replace("two", "t\u2028wo"), good(texts=["one", "t\u2028wo", "three", "four"])),
    "a form feed within": (table().replace("two", "t\fwo"), good(texts=["one", "t\fwo", "three", "four"])),
    # -- shape
    "empty": ("", bad("train.csv: the file is empty")),
    "blank lines only": ("\n\r\n  \n\n", bad("train.csv: the file is empty")),
    "header only": ("text,label\n", bad("train.csv: the file has no rows")),
    "header only, no line end": ("text,label", bad("train.csv: the file has no rows")),
    "no header": ("one,x\ntwo,y\n", bad("no column 'text'", "its columns are one, x", "first line")),
    "one row": ("text,label\none,x\n", bad("train.csv", "all 1 rows have the same label")),
    "a short row": (table() + "five\n", bad("train.csv:6", "number of values: 1, but the header names 2")),
    "a long row": (table() + "five,x,z\n", bad("train.csv:6", "number of values: 3, but the header names 2")),
    "a comma within a text": ("text,label\nwell, yes,x\n", bad("train.csv:2", "number of values: 3")),
    "many ragged rows": (table() + "five\n" * 5000, bad("train.csv:6", "and 4995 more rows")),
    "a row of spaces": (table() + "   \n", bad("train.csv:6", "number of values: 1")),
    "a row of commas": (
        table() + ",\n",
        bad("train.csv:6", "the column 'text' is empty", "the column 'label' is empty"),
    ),
    "a comma after each row": (
        "text,label,\n" + "".join(f"{text},{label},\n" for text, label in zip(TEXTS, "xyxy", strict=False)),
        good(),
    ),
    "more columns": (
        "id,text,label,\u0000".replace("\u0000", "more") + "\n1,one,x,\n2,two,y,\n3,three,x,\n4,four,y,\n",
        good(),
    ),
    "columns in another order": ("label,text\nx,one\ny,two\nx,three\ny,four\n", good()),
    "a column twice": ("text,label,text\none,x,two\n", bad("train.csv:1", "names 'text' more than once")),
    "columns without a name": ("text,label,,\none,x,,\n", bad("train.csv:1", "names '' more than once")),
    "a column 300 times": (",".join(["text"] * 300) + "\na\n", bad("train.csv:1", "names 'text' more than once")),
    "another case": ("Text,Label\none,x\n", bad("no column 'text' (did you mean 'Text'?)", "no column 'label'")),
    "spaces about the names": ("text, label\none, x\n", bad("no column 'label' (did you mean ' label'?)")),
    "semicolons": ("text;label\none;x\n", bad("no column 'text'", "is it separated by ';'")),
    "tabs in a CSV": ("text\tlabel\none\tx\n", bad("no column 'text'", "is it separated by '\\t'")),
    "pipes": ("text|label\none|x\n", bad("is it separated by '|'")),
    "sep= of Excel": ("sep=,\ntext,label\none,x\n", bad("no column 'text'", "sep=")),
    "10,000 columns": (
        ",".join([*WIDE, "text", "label"])
        + "\n"
        + "".join(",".join(["0"] * 10_000 + [text, label]) + "\n" for text, label in zip(TEXTS, "xyxy", strict=False)),
        good(),
    ),
    "10,000 columns, none of them": (",".join(WIDE) + "\n" + ",".join("1" * 10_000) + "\n", bad("no column", "more")),
    "a million characters": (f"text,label\n{LONG},x\ntwo,y\nthree,x\nfour,y\n", good(texts=[LONG, *TEXTS[1:4]])),
    "a million characters for a name": (f"{LONG},label\none,x\n", bad("no column 'text'", "...")),
    "a million characters for a label": (f"text,label\none,{LONG}\n", bad("all 1 rows have the same label", "...")),
    "equal texts": ("text,label\n" + "one,x\none,y\n" * 3, bad("data.valid", "1 different texts")),
    # -- quotes
    "quotes": (QUOTED, good(texts=["one", 't"wo"', "th, ree", "fo\nur"])),
    "a quote that stays open": (table() + '"five,x\nsix,y\n', bad("train.csv:6", "never closed", "two quotes")),
    "a quote that opens at the start": ('"text,label\none,x\n', bad("train.csv:1", "never closed")),
    "a letter after a quote": ('text,label\n"one"s,x\n', bad("train.csv:2", "two quotes")),
    "a quote in the middle": (table().replace("two", 't"w"o'), good(texts=["one", 't"w"o', "three", "four"])),
    "single quotes": (table().replace("two", "'two'"), good(texts=["one", "'two'", "three", "four"])),
    "only quotes": ('""', bad("train.csv: the file has no rows")),
    "empty quotes": (table() + '"","x"\n', bad("train.csv:6", "the column 'text' is empty")),
    "three quotes": ('text,label\n"""one""",x\ntwo,y\nthree,x\nfour,y\n', good(texts=['"one"', *TEXTS[1:4]])),
    # -- labels
    "01 and 1": (table("01 1 01 1"), good("01 1 01 1", notes=("'01' and '1'",))),
    "1 and 1.0": (table("1 1.0 2 1.0"), good([1.0, 1.0, 2.0, 1.0], kind="regression", notes=("regression",))),
    "whole numbers": (table("3 10 3 10"), good("3 10 3 10")),
    "negative numbers": (table("-1 1 -1 1"), good("-1 1 -1 1")),
    "plus signs": (table("+1 1 +1 1"), good("+1 1 +1 1", notes=("'+1' and '1'",))),
    "decimals": (table("0.5 1.5 2 -3e2"), good([0.5, 1.5, 2.0, -300.0], kind="regression")),
    "decimals as classes": (
        table("0.5 1.5 0.5 1.5"),
        good("0.5 1.5 0.5 1.5", options={"kind": "classification"}),
    ),
    "decimal commas": (
        'text,label\none,"0,5"\ntwo,"1,5"\nthree,"0,5"\nfour,"1,5"\n',
        good(["0,5", "1,5", "0,5", "1,5"], notes=("a decimal point",)),
    ),
    "decimal commas in a regression": (
        'text,label\none,"0,5"\ntwo,1.5\n',
        bad("train.csv:2", "'0,5', expected a number", kind="regression"),
    ),
    "thousands": (
        'text,label\none,"1,234.5"\ntwo,1.5\nthree,"1,234.5"\nfour,1.5\n',
        good(["1,234.5", "1.5", "1,234.5", "1.5"], notes=("a decimal point",)),
    ),
    "thousands in a regression": ('text,label\none,"1,234.5"\ntwo,2\n', bad("'1,234.5', expected", kind="regression")),
    "percent": (table("5% 10% 5% 10%"), good("5% 10% 5% 10%")),
    "currency": (table("$5 $10 $5 $10"), good("$5 $10 $5 $10")),
    "inf": (table("inf -inf inf -inf"), good("inf -inf inf -inf")),
    "inf in a regression": (table("inf 1 2 3"), bad("train.csv:2", "'inf', expected a number", kind="regression")),
    "too large for a number": (table("1e999 1 2 3"), bad("train.csv:2", "'1e999'", kind="regression")),
    "nan": (table("nan NaN nan NaN"), good("nan NaN nan NaN", notes=("'NaN' and 'nan'",))),
    "nan in a regression": (table("nan 1 2 3"), bad("train.csv:2", "'nan', expected a number", kind="regression")),
    "words for missing": (table("NA null None N/A NA null"), good("NA null None N/A NA null")),
    "words for missing twice": (
        "text,label\n" + "".join(f"t{n},{label}\n" for n, label in enumerate(["NA", "null", "None"] * 2)),
        good(["NA", "null", "None"] * 2, texts=[f"t{n}" for n in range(6)]),
    ),
    "words for missing as texts": (
        "text,label\nNA,x\nnull,y\nNone,x\nnan,y\n",
        good(texts=["NA", "null", "None", "nan"]),
    ),
    "numbers as texts": ("text,label\n1,x\n2.5,y\n-3,x\n1e4,y\n", good(texts=["1", "2.5", "-3", "1e4"])),
    "dates": (
        table("2020-01-01 2020-01-02 2020-01-01 2020-01-02"),
        good("2020-01-01 2020-01-02 2020-01-01 2020-01-02"),
    ),
    "flags": (
        table("true false True False true false"),
        good("true false True False true false", notes=("differ only in",)),
    ),
    "flags of one case": (table("true false true false"), good("true false true false")),
    "spaces about labels": (
        table(["x", " x", "y", "y ", "x", " x"]),
        good(["x", " x", "y", "y ", "x", " x"], notes=("' x' and 'x' differ only in", "'y' and 'y ' differ only in")),
    ),
    "spaces about every label": (table([" x", " y", " x", " y"]), good([" x", " y", " x", " y"])),
    "labels that look alike": (
        table(["é", "e\u0301", "é", "e\u0301"]),
        good(["é", "e\u0301", "é", "e\u0301"], notes=("differ only in",)),
    ),
    "labels in two cases": (table("Yes yes Yes yes"), good("Yes yes Yes yes", notes=("differ only in",))),
    "wide forms": (table("１ 1 １ 1"), good("１ 1 １ 1", notes=("differ only in",))),
    "an empty label": (table(["x", "", "x", "y"]), bad("train.csv:3", "the column 'label' is empty")),
    "labels of spaces": (table(["x", "  ", "\t", "y"]), bad("train.csv:3", "in 2 rows (lines 3, 4)")),
    "a text of a space": ("text,label\none,x\n\u00a0,y\n", bad("train.csv:3", "the column 'text' is empty")),
    "one class": (table("x x x x"), bad("train.csv", "all 4 rows have the same label (label=x)")),
    "a class of one row": (table("x x x y"), good("x x x y")),
    "every row its own class": (table("a b c d"), bad("data.valid", "leaves valid without rows")),
    "a comma in a label": ('text,label\none,"x,y"\ntwo,z\nthree,"x,y"\nfour,z\n', good(["x,y", "z", "x,y", "z"])),
    "a label with a script": (table("<b> & <b> &"), good("<b> & <b> &")),
    "underscores": (table("1_000 2 1_000 2"), good("1_000 2 1_000 2")),
    "hexadecimal": (table("0x1 0x2 0x1 0x2"), good("0x1 0x2 0x1 0x2")),
    "digits of another script": (table("١ ٢ ١ ٢"), good("١ ٢ ١ ٢")),
    "a label of 5,000 digits": (table(["1" * 5000, "2", "1" * 5000, "2"]), good(["1" * 5000, "2", "1" * 5000, "2"])),
    # -- columns of the model's own, pairs, several labels
    "a text column called labels": (
        "labels,label\none,x\ntwo,y\nthree,x\nfour,y\n",
        bad("data.text", "'labels' is the model's own", text="labels"),
    ),
    "one column for both": (table(), bad("'text' is named twice", label="text")),
    "text twice": (table(), bad("'text' is named twice", text=["text", "text"])),
    "several labels": (
        "text,a,b\none,0,1\ntwo,1,0\nthree,true,FALSE\nfour,1.0,0.0\n",
        good([[0, 1], [1, 0], [1, 0], [1, 0]], kind="multi_label", options={"label": ["a", "b"]}),
    ),
    "several labels, one of them a word": (
        "text,a,b\none,0,1\ntwo,1,yes\n",
        bad("train.csv:3", "the label column 'b' holds 'yes', expected 0 or 1", label=["a", "b"]),
    ),
    "several labels, all alike": ("text,a,b\none,0,1\ntwo,0,1\n", bad("the same label (a=0, b=1)", label=["a", "b"])),
    # -- what is no text at all
    "a gzip": (gzip.compress(table().encode(), mtime=0), bad("train.csv:1", "a gzip archive; unpack it")),
    "a zip": (archived("train.csv", table()), bad("train.csv:1", "a zip archive or an Excel workbook")),
    "a Parquet file": (parquet_of({"text": ["a"], "label": ["x"]}), bad("train.csv:1", "a Parquet file; name it")),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", bad("train.csv:1", "not text but a picture")),
    "a PDF": (b"%PDF-1.7\n\xe2\xe3", bad("train.csv:1", "not text but a PDF")),
    "HTML": ("<!DOCTYPE html>\n<html><body>404</body></html>\n", bad("no column 'text'")),
    "a pointer of Git LFS": ("version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", bad("no column 'text'")),
    "JSON in a CSV": (lines(*rows("x", "y")), bad("train.csv")),
}

JSONL: dict[str, tuple[str | bytes, Good | Bad]] = {
    "plain": (lines(*rows("x", "y", "x", "y")), good()),
    "CRLF": (lines(*rows("x", "y", "x", "y")).replace("\n", "\r\n"), good()),
    "lone CR": (lines(*rows("x", "y", "x", "y")).replace("\n", "\r"), good()),
    "a byte order mark": (codecs.BOM_UTF8 + lines(*rows("x", "y", "x", "y")).encode(), good()),
    "UTF-16": (lines(*rows("x")).encode("utf-16"), bad("train.jsonl:1", "UTF-16")),
    "empty": ("", bad("train.jsonl: the file is empty")),
    "blank lines": ("\n\n \n", bad("train.jsonl: the file is empty")),
    "an array": (json.dumps(rows("x", "y")), bad("train.jsonl:1", "an array cannot be read, write one object a line")),
    "an array over lines": ("[\n" + lines(*rows("x")), bad("train.jsonl:1", "an array cannot be read")),
    "commas after objects": ('{"text": "a", "label": "x"},\n', bad("train.jsonl:1", "Extra data")),
    "a number": ("5\n", bad("train.jsonl:1", "not a JSON object: 5")),
    "a text": ('"one"\n', bad("train.jsonl:1", "not a JSON object")),
    "null": ("null\n", bad("train.jsonl:1", "not a JSON object: null")),
    "an empty object": ("{}\n", bad("train.jsonl")),
    "an object over lines": ('{\n"text": "a",\n"label": "x"\n}\n', bad("train.jsonl:1", "one object a line")),
    "two objects on a line": ('{"text": "a"}{"text": "b"}\n', bad("train.jsonl:1", "Extra data")),
    "a torn last line": (lines(*rows("x", "y")) + '{"text": "fi', bad("train.jsonl:3", "one object a line")),
    "a torn number": (lines(*rows("x", "y")) + '{"text": "five", "label": ', bad("train.jsonl:3")),
    "single quotes": ("{'text': 'a', 'label': 'x'}\n", bad("train.jsonl:1", "double quotes")),
    "a comment": ("// rows\n" + lines(*rows("x")), bad("train.jsonl:1")),
    "a key twice": ('{"text": "a", "label": "x", "text": "b"}\n', bad("train.jsonl:1", "the key 'text' stands twice")),
    "NaN": ('{"text": "a", "label": NaN}\n', bad("train.jsonl:1", "NaN is not a JSON value")),
    "Infinity": ('{"text": "a", "label": -Infinity}\n', bad("train.jsonl:1", "-Infinity is not a JSON value")),
    "too large for a number": (
        '{"text": "a", "label": 1e999}\n',
        bad("train.jsonl:1", "the number 1e999 is too large"),
    ),
    "an integer of 5,000 digits": ('{"text": "a", "label": ' + "1" * 5000 + "}\n", bad("train.jsonl:1", "5000 digits")),
    "half of a pair": ('{"text": "\\ud83d", "label": "x"}\n', bad("train.jsonl:1", "half of a surrogate pair")),
    "half of a pair in a key": ('{"text": "a", "label": "x", "\\udc00": 1}\n', bad("train.jsonl:1", "half of a surro")),
    "half of a pair in a list": ('{"text": "a", "label": "x", "l": ["\\udc00"]}\n', bad("train.jsonl:1", "half of a")),
    "a whole pair": (
        lines(*rows("x", "y", "x", "y")).replace("two", "\\ud83d\\ude00"),
        good(texts=["one", "😀", "three", "four"]),
    ),
    "an escaped NUL": (
        lines(*rows("x", "y", "x", "y")).replace("two", "t\\u0000wo"),
        good(texts=["one", "t\0wo", "three", "four"]),
    ),
    "a raw NUL": ('{"text": "a\0", "label": "x"}\n', bad("train.jsonl:1", "NUL")),
    "very deep": (DEEP, bad("train.jsonl:1", "one object a line")),
    "a list for a text": (
        lines(*rows("x"), {"text": ["a"], "label": "y"}),
        bad("train.jsonl:2", "holds ['a'], expected text"),
    ),
    "an object for a label": (
        lines(*rows("x"), {"text": "a", "label": {"b": 1}}),
        bad("train.jsonl:2", "expected text"),
    ),
    "a label of null": (lines(*rows("x", None)), bad("train.jsonl:2", "the column 'label' is empty")),
    "a missing label": (lines(*rows("x"), {"text": "b"}), bad("train.jsonl:2", "the column 'label' is empty")),
    "no such column": (lines({"txt": "a", "label": "x"}), bad("no column 'text' (did you mean 'txt'?)")),
    "01 and 1": (lines(*rows("01", 1, "01", 1)), good("01 1 01 1", notes=("'01' and '1'",))),
    "numbers": (lines(*rows(1, 2, 1, 2)), good("1 2 1 2")),
    "1 and 1.0": (lines(*rows(1, 1.0, 2, 1.0)), good([1.0, 1.0, 2.0, 1.0], kind="regression")),
    "flags": (lines(*rows(True, False, True, False)), good("true false true false")),
    "flags and their words": (lines(*rows(True, "true", False, "false")), good("true true false false")),
    "numbers for texts": (
        lines(*({"text": n, "label": label} for n, label in zip([1, 2.5, True, 10**30], "xyxy", strict=True))),
        good(texts=["1", "2.5", "true", str(10**30)]),
    ),
    "a million characters": (
        lines({"text": LONG, "label": "x"}, *rows("x", "y", "x", "y")[1:]),
        good(texts=[LONG, *TEXTS[1:4]]),
    ),
    "other keys in every row": (
        lines(*({"text": "a", "label": "x", f"key {number}": 1} for number in range(20_000))),
        bad("train.jsonl", "20,002 different keys in 20,000 rows"),
    ),
    "line separators within": (
        lines(*rows("x", "y", "x", "y")).replace("two", "t\u2028wo"),
        good(texts=["one", "t\u2028wo", "three", "four"]),
    ),
}

STRUCT = pa.array([{"a": 1}] * 4)
PARQUET: dict[str, tuple[bytes, Good | Bad]] = {
    "plain": (parquet_of({"text": TEXTS[:4], "label": list("xyxy")}), good()),
    "a dictionary": (parquet_of({"text": TEXTS[:4], "label": pa.array(list("xyxy")).dictionary_encode()}), good()),
    "large strings": (parquet_of({"text": pa.array(TEXTS[:4], pa.large_string()), "label": list("xyxy")}), good()),
    "zstd": (parquet_of({"text": TEXTS[:4], "label": list("xyxy")}, compression="zstd"), good()),
    "integers": (parquet_of({"text": TEXTS[:4], "label": [1, 2, 1, 2]}), good("1 2 1 2")),
    "floats": (
        parquet_of({"text": TEXTS[:4], "label": [1.0, 2.0, 1.0, 2.0]}),
        good([1.0, 2.0, 1.0, 2.0], kind="regression"),
    ),
    "flags": (parquet_of({"text": TEXTS[:4], "label": [True, False] * 2}), good("true false true false")),
    "NaN": (parquet_of({"text": TEXTS[:4], "label": [1.0, float("nan"), 1.0, 2.0]}), bad("row 2", "'label' is empty")),
    "infinity": (parquet_of({"text": TEXTS[:4], "label": [1.0, float("inf"), 1.0, 2.5]}), bad("row 2", "inf")),
    "nulls": (parquet_of({"text": TEXTS[:4], "label": ["x", None, "x", "y"]}), bad("row 2", "'label' is empty")),
    "a column of nulls": (parquet_of({"text": TEXTS[:4], "label": pa.nulls(4)}), bad("'label' is empty in 4 rows")),
    "lists": (parquet_of({"text": [["a"], ["b"]], "label": ["x", "y"]}), bad("train.parquet row 1", "['a'], expected")),
    "structs": (parquet_of({"text": TEXTS[:4], "label": STRUCT}), bad("row 1", "expected text")),
    "structs beside": (parquet_of({"text": TEXTS[:4], "label": list("xyxy"), "more": STRUCT}), good()),
    "dates": (
        parquet_of({"text": TEXTS[:4], "label": DATES}),
        bad("row 1", "datetime.date(2020, 1, 1), expected text"),
    ),
    "decimals": (
        parquet_of({"text": TEXTS[:4], "label": [decimal.Decimal("1.5")] * 4}),
        bad("row 1", "Decimal('1.5'), expected text"),
    ),
    "bytes": (parquet_of({"text": TEXTS[:4], "label": [b"x", b"y"] * 2}), bad("row 1", "b'x', expected text")),
    "times that Python cannot hold": (
        parquet_of({"text": TEXTS[:2], "label": list("xy"), "at": pa.array([2**62, 1], pa.timestamp("us"))}),
        bad("train.parquet", "the column 'at' cannot be read"),
    ),
    "text that is not UTF-8": (
        parquet_of({"text": pa.array([b"\xff\xfe", b"b"]).view(pa.string()), "label": list("xy")}),
        bad("train.parquet", "the column 'text' cannot be read"),
    ),
    "no rows": (
        parquet_of({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}),
        bad("has no rows"),
    ),
    "truncated": (
        parquet_of({"text": TEXTS, "label": list("xyxyxy")})[:-9],
        bad("train.parquet", "not a Parquet file"),
    ),
    "its beginning only": (b"PAR1", bad("train.parquet", "not a Parquet file")),
    "a footer that lies": (
        parquet_of({"text": ["a"], "label": ["x"]})[:-8] + b"\xff\xff\xff\x7fPAR1",
        bad("train.parquet", "not a Parquet file"),
    ),
    "5,000,000 rows of nothing": (
        parquet_of({"text": pa.nulls(5_000_000), "label": pa.nulls(5_000_000)}),
        bad("train.parquet: 5,000,000 rows in", "nearly all of them are the same"),
    ),
    "a CSV": (table().encode(), bad("train.parquet", "not a Parquet file")),
    "empty": (b"", bad("train.parquet: the file is empty")),
}

TSV: dict[str, tuple[str | bytes, Good | Bad]] = {
    "plain": (table().replace(",", "\t"), good()),
    "commas in a TSV": (table(), bad("no column 'text'", "train.tsv")),
    "a quote within": (table().replace(",", "\t").replace("two", 't"wo'), good(texts=["one", 't"wo', "three", "four"])),
    "spaces for tabs": ("text    label\none    x\n", bad("no column 'text'")),
    "a tab too many": (table().replace(",", "\t") + "five\t\tx\n", bad("train.tsv:6", "number of values: 3")),
}

OTHERS: dict[str, tuple[str, str | bytes, Good | Bad]] = {
    "an unknown kind": ("train.xlsx", b"PK\x03\x04", bad("unknown kind of file; the kinds are .csv")),
    "a kind in capitals": ("TRAIN.CSV", table(), good()),
    "a .json of lines": ("train.json", lines(*rows("x", "y", "x", "y")), good()),
    "a .json of columns": ("train.json", '{"text": ["a"], "label": ["x"]}\n', bad("train.json:1", "expected text")),
    "a name with spaces and signs": ("tr ain (1) é'[x].csv", table(), good()),
    "a name that Rich would take for markup": ("[red]x[bold].csv", "", bad("[red]x[bold].csv: the file is empty")),
    "no kind": ("train", table(), bad("unknown kind of file")),
    "a gzip by name": ("train.csv.gz", gzip.compress(table().encode()), bad("unknown kind of file")),
}

IN_FILES: dict[str, Good | Bad] = {
    "bom_crlf.csv": good(),
    "excel_german.csv": bad("excel_german.csv:3", "0xfc", "iconv -f cp1252"),
    "utf16le.csv": bad("utf16le.csv:1", "UTF-16"),
    "lone_cr.tsv": good(),
    "nul_in_row.csv": bad("nul_in_row.csv:4", "NUL"),
    "torn_emoji.jsonl": bad("torn_emoji.jsonl:3", "0xf0"),
    "gzip.csv": bad("gzip.csv:1", "a gzip archive"),
    "truncated.parquet": bad("truncated.parquet", "not a Parquet file"),
}
"""The files of `corpus/data`."""

EVERY: dict[str, tuple[str, str | bytes, Good | Bad]] = {
    **{f"csv: {name}": ("train.csv", *case) for name, case in CSV.items()},
    **{f"jsonl: {name}": ("train.jsonl", *case) for name, case in JSONL.items()},
    **{f"parquet: {name}": ("train.parquet", *case) for name, case in PARQUET.items()},
    **{f"tsv: {name}": ("train.tsv", *case) for name, case in TSV.items()},
    **OTHERS,
    **{f"file: {name}": (name, (FILES / name).read_bytes(), expected) for name, expected in IN_FILES.items()},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task")) / "model"


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    with little_memory():
        yield


def check(folder: Path, model: Path, train: str, **options: Any) -> Answer:
    """`finetricks check` of a recipe whose training data is the file `train`."""
    given = {"model": str(model), "data": {"train": train, "valid": 0.5, **options}, "training": {"epochs": 1}}
    (folder / "recipe.yaml").write_text(json.dumps(given), encoding="utf-8")
    return command("check", folder / "recipe.yaml")


@pytest.mark.parametrize("what", EVERY)
def test_a_data_file(what: str, tmp_path: Path, model: Path, record_property: Callable[[str, object], None]) -> None:
    name, content, expected = EVERY[what]
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    answer = check(tmp_path, model, name, **expected.options)
    if isinstance(expected, Bad):
        answer.refuses(*expected.told)
    else:
        assert answer.code == 0, answer.err
        assert all(note in answer.err for note in expected.notes), answer.err
        _is_read_as(expected, tmp_path / name)
    record_property("inputs tried", 1)


def _is_read_as(expected: Good, path: Path) -> None:
    found = read_examples(Data(train=str(path), valid=0.5, **expected.options))
    assert found.kind == expected.kind
    by_row = {
        row: (text, label)
        for part in found.splits.values()
        for row, text, label in zip(part.ids, part.texts["text"], part.labels, strict=True)
    }
    read = [by_row[row] for row in range(len(by_row))]
    assert [text for text, _ in read] == expected.texts
    labels = [found.names[label] if found.kind == "classification" else label for _, label in read]
    assert labels == expected.labels
    if found.kind == "classification":
        assert sorted(found.names) == sorted(set(expected.labels))


# -- what is no file, or not to be read ------------------------------------------------------------------


def _fifo(path: Path) -> None:
    os.mkfifo(path)


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "no such file"),
    "a folder": (Path.mkdir, "is a folder"),
    "a pipe": (_fifo, "is a pipe or a device"),
    "a device without end": (lambda path: path.symlink_to("/dev/zero"), "is a pipe or a device"),
    "the empty device": (lambda path: path.symlink_to("/dev/null"), "is a pipe or a device"),
    "a link to nothing": (lambda path: path.symlink_to(path.with_name("gone.csv")), "no such file"),
    "a link to itself": (lambda path: path.symlink_to(path), "no such file"),
    "a link to a folder": (lambda path: path.symlink_to(path.parent), "No (supported) data files found"),
}


@pytest.mark.parametrize("what", PLACES)
def test_a_place_that_is_no_file(what: str, tmp_path: Path, model: Path, record_property: Any) -> None:
    make, told = PLACES[what]
    make(tmp_path / "train.csv")
    check(tmp_path, model, "train.csv").refuses(told)
    record_property("inputs tried", 1)


def test_a_link_has_the_kind_of_its_own_name(tmp_path: Path, model: Path) -> None:
    (tmp_path / "5f3a").write_text(table())
    (tmp_path / "train.csv").symlink_to(tmp_path / "5f3a")
    assert check(tmp_path, model, "train.csv").code == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path, model: Path) -> None:
    (tmp_path / "train.csv").write_text(table())
    (tmp_path / "train.csv").chmod(0)
    check(tmp_path, model, "train.csv").refuses("cannot read", "train.csv: Permission denied")


NAMES = {
    "empty": ("", "is empty"),
    "spaces": ("  ", "is empty"),
    "too long": ("a" * 5000 + ".csv", "no such file"),
    "too long, of no kind": ("a" * 5000, "cannot load the data set"),
    "of another's home": ("~nobody-of-this-name/x.csv", "no such file"),
    "up and up": ("../" * 300 + "x.csv", "no such file"),
    "an address": ("https://example.org/x.csv", "no such file"),
    "a data set that is not there": ("nobody/nothing", "cannot load the data set"),
    "no name of a data set": ("a b//c", "cannot load the data set"),
}


@pytest.mark.parametrize("what", NAMES)
def test_a_name_that_names_nothing(what: str, tmp_path: Path, model: Path, record_property: Any) -> None:
    name, told = NAMES[what]
    check(tmp_path, model, name).refuses(told)
    record_property("inputs tried", 1)


def test_a_file_that_is_replaced_while_it_is_read_is_the_one_or_the_other(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read once: what is checked is what is trained on."""
    path = tmp_path / "train.csv"
    path.write_text(table())
    read, reads = Path.read_bytes, []

    def replaced(self: Path) -> bytes:
        content = read(self)
        if self == path:
            reads.append(content)
            path.write_text(table("p q p q"))
        return content

    monkeypatch.setattr(Path, "read_bytes", replaced)
    answer = check(tmp_path, model, "train.csv")
    assert answer.code == 0
    assert reads == [table().encode()]


SPLITS = {
    "valid lacks a column": ("text,lab\na,x\n", ("valid.csv", "no column 'label' (did you mean 'lab'?)")),
    "valid has another label": ("text,label\nfive,z\n", ("valid.csv:2", "train lacks the label 'z' (it has 'x', 'y')")),
    "valid has a label with a space": ("text,label\nfive,x \n", ("valid.csv:2", "train lacks the label 'x '")),
    "valid is empty": ("", ("valid.csv: the file is empty",)),
    "valid is another kind": ("text,label\nfive,1.5\n", ("valid.csv:2", "train lacks the label '1.5'")),
}


@pytest.mark.parametrize("what", SPLITS)
def test_a_second_file_that_does_not_go_with_train(
    what: str, tmp_path: Path, model: Path, record_property: Any
) -> None:
    content, told = SPLITS[what]
    (tmp_path / "train.csv").write_text(table())
    (tmp_path / "valid.csv").write_text(content)
    check(tmp_path, model, "train.csv", valid="valid.csv").refuses(*told)
    record_property("inputs tried", 1)
