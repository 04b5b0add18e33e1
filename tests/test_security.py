"""Each sentence of SECURITY.md that says what a folder, a file or a name from somebody else cannot do."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.markup import escape

import test_merge
import test_report
import tiny
from attacks import Attack
from finetricks import InputError, ModelError, Recipe, RecipeError, load, predict, run
from finetricks.catalog import installed
from finetricks.checkpoint import MANIFEST, STATE, WEIGHTS, write_manifest
from finetricks.cli import main
from finetricks.cli.console import messages, new_table
from finetricks.errors import printable
from finetricks_plugins.language_model.cache import Entry
from finetricks_tuning.cell_run import cell_folder
from finetricks_tuning.folder import OWN, check_folder, writing
from finetricks_tuning.formats import card, cells_csv, markdown
from finetricks_tuning.ledger import Ledger
from finetricks_tuning.loggers import LoggedCell
from finetricks_tuning.merge import merge
from finetricks_tuning.redact import redacted
from finetricks_tuning.report import render
from finetricks_tuning.results import results_of, write_results
from finetricks_tuning.study import Study
from finetricks_tuning.summary import LEDGER, Summary, summary_of
from finetricks_tuning.sweep import sweep

pytestmark = pytest.mark.waits

PICKLES = ("model/training_args.bin", "model/optimizer.pt", "model/model.pkl", "checkpoints.pkl", "tuner.pkl")
OF_RAY = ("tuner.pkl", "trainable.pkl", "searcher-state-x.pkl", "search_gen_state-x.json", "experiment_state-x.json")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


def recipe_of(task: Path, *tricks: Any, **training: Any) -> Recipe:
    settings = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-2, "threads": 1} | training
    data = {"train": str(task / "train.csv"), "valid": 0.25}
    return Recipe(model=str(task / "model"), data=data, training=settings, tricks=tricks)


@pytest.fixture(scope="module")
def finished(task: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; copy it before use."""
    folder = tmp_path_factory.mktemp("run") / "run"
    run(recipe_of(task), folder)
    return folder


@pytest.fixture
def study(task: Path) -> Study:
    return test_merge.study(task, ["stlr"], [0, 1])


# -- no code from data -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["pickle", "torch"])
@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_weights_that_are_a_pickle_are_not_opened(
    finished: Path, task: Path, tmp_path: Path, weights: str, form: str
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    attack = Attack(tmp_path / "owned")
    (folder / "model" / "model.safetensors").unlink()
    (folder / "model" / weights).write_bytes(attack.as_file(form))
    with pytest.raises(ModelError):
        load(folder)
    assert main(["predict", str(folder), str(task / "test.csv")]) == 2
    with pytest.raises(ModelError):
        run(Recipe(**recipe_of(task).to_dict() | {"model": str(folder / "model")}), tmp_path / "new")
    attack.check_harmless_but_armed(folder / "model" / weights)


def test_the_weights_of_a_model_that_tricks_have_built_are_not_opened_as_a_pickle(task: Path, tmp_path: Path) -> None:
    run(recipe_of(task, "concat_pooling"), tmp_path / "run")
    attack = Attack(tmp_path / "owned")
    weights = tmp_path / "run" / "model" / "finetricks.safetensors"
    weights.write_bytes(attack.as_file())
    with pytest.raises(ModelError, match="does not hold this model's weights"):
        load(tmp_path / "run")
    attack.check_harmless_but_armed(weights)


def test_pickles_that_lie_beside_a_run_are_never_opened(finished: Path, task: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    attack = Attack(tmp_path / "owned")
    for name in PICKLES:
        (folder / name).write_bytes(attack.as_file())
    load(folder)
    assert len(predict(folder, task / "test.csv")) == 12
    run(recipe_of(task), folder, resume=True)
    attack.check_harmless_but_armed(*(folder / name for name in PICKLES))


def test_a_run_does_not_go_on_from_a_forged_checkpoint(
    task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, recipe = tmp_path / "run", tmp_path / "recipe.yaml"
    recipe.write_text(recipe_of(task, checkpoint=2).to_yaml())
    run(recipe_of(task, checkpoint=2), out, upto=0.7)
    attack = Attack(tmp_path / "owned")
    for folder in (out / "checkpoints").iterdir():
        (folder / STATE).write_bytes(attack.as_file("torch"))
        write_manifest(folder, (WEIGHTS, STATE), MANIFEST)
    assert main(["train", str(recipe), "--out", str(out), "--resume"]) == 2
    assert "it could execute code, and is not opened" in " ".join(capsys.readouterr().err.split())
    attack.check_harmless_but_armed(*(out / "checkpoints").glob(f"*/{STATE}"))


def test_the_cache_of_pretrained_weights_makes_anew_what_is_forged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setenv("FINETRICKS_CACHE", str(tmp_path / "cache"))
    entry, attack = Entry("further_pretraining", "0" * 32), Attack(tmp_path / "owned")
    entry.folder.mkdir(parents=True)
    entry.save(1, {"a": torch.zeros(2)}, {})
    (folder,) = (entry.folder / "result").iterdir()
    forged = folder / STATE
    forged.write_bytes(attack.as_file("torch"))
    write_manifest(folder, (WEIGHTS, STATE), MANIFEST)
    shutil.copy(forged, tmp_path / "kept")
    assert entry.result() is None
    attack.check_harmless_but_armed(tmp_path / "kept")


@pytest.mark.parametrize("text", ["!!python/object/apply:os.mkdir [{owned}]", "model: !!python/name:os.system ''"])
def test_yaml_makes_plain_values_only(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(text.format(owned=tmp_path / "owned"))
    assert main(["check", str(tmp_path / "recipe.yaml")]) == 2
    assert not (tmp_path / "owned").exists()
    assert "Traceback" not in capsys.readouterr().err


def test_what_ray_would_restore_is_never_opened(study: Study, tmp_path: Path, swept: Swept) -> None:
    one = test_merge.write(study, tmp_path / "one")
    other = test_merge.write(study, tmp_path / "other")
    attack = Attack(tmp_path / "owned")
    for name in OF_RAY:
        (one / name).write_bytes(attack.as_file())
    write_results(one)
    for form in (markdown, card, cells_csv):
        assert form(results_of(one), one)
    merge([one, other], tmp_path / "merged")
    attack.check_harmless_but_armed(*(one / name for name in OF_RAY))
    swept.attack.check_harmless_but_armed(*(swept.folder / name for name in OF_RAY))


# -- no way out of a folder ------------------------------------------------------------------------------


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", ["resume", "overwrite"])
@pytest.mark.parametrize("name", ["model", "predictions", "checkpoints", "model/deep", "metrics.jsonl"])
def test_a_run_is_not_written_through_a_link(finished: Path, task: Path, tmp_path: Path, name: str, how: str) -> None:
    folder, elsewhere = shutil.copytree(finished, tmp_path / "run"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "valid.csv").write_text("precious")
    (folder / "result.json").unlink()
    if (folder / name).is_dir():
        shutil.rmtree(folder / name)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(InputError, match="is a symbolic link"):
        run(recipe_of(task), folder, **{how: True})
    assert content(elsewhere) == {"valid.csv": b"precious"}


def test_overwriting_removes_nothing_but_a_run(
    finished: Path, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    project = tmp_path / "project"
    project.mkdir()
    (project / "recipe.yaml").write_text(recipe_of(task).to_yaml())
    (project / "versions.json").write_text("[]")
    (project / "thesis.tex").write_text("years of work")
    before = content(project)
    with pytest.raises(InputError, match="not empty and holds no run"):
        run(recipe_of(task), project, overwrite=True)
    assert content(project) == before
    for name in ("recipe.yaml", "thesis.tex"):
        (project / name).unlink()
    with pytest.raises(InputError, match="not empty and holds no run"):
        run(recipe_of(task), project)
    folder = shutil.copytree(finished, tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # in the middle of it
        patch.setattr(shutil, "rmtree", interrupted)
        run(recipe_of(task), folder, overwrite=True)
    assert {"recipe.yaml", "versions.json", "model"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "result.json").exists()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"also holds notes\.txt, which no run has written"):
        run(recipe_of(task), folder, overwrite=True)
    assert (folder / "model").is_dir()


def test_overwriting_removes_nothing_but_a_study(study: Study, tmp_path: Path) -> None:
    with writing(tmp_path, study, overwrite=False):
        (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"also holds thesis\.tex, which no study has written"):
        check_folder(tmp_path, study, resume=False, overwrite=True)


@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_a_project_with_a_study_that_was_never_run_is_left_alone(study: Study, tmp_path: Path, how: str) -> None:
    (tmp_path / "data_sets").mkdir()
    (tmp_path / "data_sets" / "mine.csv").write_text("text,label")
    (tmp_path / "study.yaml").write_text(study.to_yaml())
    with pytest.raises(InputError, match="is not empty and holds no study"):
        sweep(study, tmp_path, **{how: True})
    assert content(tmp_path).keys() == {"study.yaml", "data_sets/mine.csv"}


@pytest.mark.parametrize("place", ["", "data_sets/one"])
def test_links_that_wandb_makes_among_its_own_files_are_no_obstacle(study: Study, tmp_path: Path, place: str) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "study"
    elsewhere.mkdir()
    (elsewhere / "log").write_text("precious")
    own = folder / place / "wandb" / "stlr-seed0" / "wandb"
    with writing(folder, study, overwrite=False):
        own.mkdir(parents=True)
        (own / "latest-run").symlink_to(elsewhere)
    check_folder(folder, study, resume=True, overwrite=False)
    check_folder(folder, study, resume=False, overwrite=True)
    with writing(folder, study, overwrite=True):
        assert not own.exists()
    assert content(elsewhere) == {"log": b"precious"}


@pytest.mark.parametrize("name", ["plans/0.svg", "data_sets", "cells.json"])
def test_a_report_shows_nothing_through_a_link(study: Study, tmp_path: Path, name: str) -> None:
    folder = test_merge.write(study, tmp_path / "study")
    (tmp_path / "secret").write_text("<svg>secret</svg>")
    (folder / name).unlink(missing_ok=True)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="is a symbolic link"):
        write_results(folder)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    "name", ["cells", "plans", "cells/one/model", "summary.json", "wandb", "wandb/one", "wandb/one/wandb"]
)
def test_a_study_is_not_written_through_a_link(study: Study, tmp_path: Path, name: str) -> None:
    with writing(tmp_path / "study", study, overwrite=False):
        pass
    (tmp_path / "study" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "study" / name).symlink_to(tmp_path)
    for how in ({"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}):
        with pytest.raises(InputError, match="is a symbolic link"):
            check_folder(tmp_path / "study", study, **how)


def test_a_lock_that_is_a_link_empties_no_file(study: Study, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="cannot be written"), writing(tmp_path / "study", study, overwrite=False):
        pass
    assert (tmp_path / "precious").read_text() == "kept"


@pytest.mark.parametrize("key", ["../../elsewhere", "/etc", "..", ".", "", "a\0b", "a\\b"])
def test_a_key_in_a_ledger_leads_nowhere(tmp_path: Path, key: str) -> None:
    with pytest.raises(InputError, match="no key of a cell"):
        cell_folder(tmp_path, key)


def test_a_key_that_leads_out_is_not_merged(study: Study, tmp_path: Path) -> None:
    one, other = (test_merge.write(study, tmp_path / name) for name in ("one", "other"))
    (tmp_path / "elsewhere").mkdir()
    trial = next(iter(Ledger(one / LEDGER).read()[0].values()))
    Ledger(one / LEDGER).append(replace(trial, key="../../elsewhere"))
    with pytest.raises(InputError, match="no key of a cell"):
        merge([one, other], tmp_path / "merged")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_what_is_merged_is_not_copied_from_elsewhere(study: Study, tmp_path: Path) -> None:
    one, other = (test_merge.write(study, tmp_path / name) for name in ("one", "other"))
    (tmp_path / "secret").write_text("secret")
    next((one / "cells").iterdir()).joinpath("result.json").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="is a symbolic link"):
        merge([one, other], tmp_path / "merged")


NAMES = ["..", ".", "../up", "/etc", "a/b", "a\\b", "a\nb", "a\0b", "-rf", " ", "é/..", ".hidden"]


@pytest.mark.parametrize("name", NAMES)
def test_a_data_sets_name_leads_nowhere(task: Path, tmp_path: Path, name: str) -> None:
    given = test_merge.study(task, ["stlr"], [0, 1]).to_dict() | {"data_sets": {name: {"rows": 8}, "b": {"rows": 9}}}
    with pytest.raises(RecipeError, match="it names a folder"):
        Study(**given)
    (tmp_path / "data_sets").mkdir()
    (tmp_path / "study.yaml").write_text(json.dumps({"data_sets": {name: {}}}))
    with pytest.raises(InputError, match="names no folder of a data set|no character of a text"):
        results_of(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_configurations_name_is_no_path_for_a_logger(tmp_path: Path, name: str) -> None:
    trial = replace(test_report.trial("stlr", 0, 0.5), configuration=name, key="0" * 64)
    place = Path(LoggedCell.of(trial, tmp_path, "tensorboard").local_path)
    assert place.resolve().parent == tmp_path / "tensorboard"
    place.mkdir(parents=True)


# -- pages, tables, terminals ----------------------------------------------------------------------------

EVIL = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    '"><img src=x onerror=alert(3)>',
    "' onmouseover='alert(4)",
    "javascript:alert(5)",
    "</title><svg onload=alert(6)>",
    "{{ 7 * 7 }}",
    "[red]x[/red] [link=https://example.org]y[/link]",
    "\x1b[31mred\x1b]0;title\x07\x9b2J",
    "=HYPERLINK(1)",
    r"$\frac$",
    "```",
]


class Tags(HTMLParser):
    """What a browser would see: elements, attributes, scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


def hostile() -> Summary:
    """Every text in it is an attack."""
    names = ["baseline", *EVIL]
    given = test_report.manifest(names, 2)
    given = replace(given, warnings=tuple(EVIL), command=EVIL[0], decisions=tuple(EVIL), ended=EVIL[0])
    given.study["metric"] = "accuracy"
    trials = [test_report.trial(n, seed, 0.5 + seed / 10) for n in names[:-1] for seed in (0, 1)]
    environment = {"python": EVIL[0], "tricks": {EVIL[2]: EVIL[3]}, "libraries": {EVIL[0]: EVIL[0]}}
    trials = [replace(t, environment=environment, warnings=tuple(EVIL)) for t in trials]
    lost = test_report.trial(names[-1], 0, None, status="failed", error="\n".join(EVIL))
    return summary_of(given, [*trials, lost])


def test_a_page_shows_what_it_is_given_and_obeys_none_of_it() -> None:
    page, plain = render(hostile()), render(test_report.summary(2))
    seen = Tags()
    seen.feed(page)
    assert [tag for tag, _ in seen.elements].count("script") == 1  # its own
    assert page[page.rindex("<script>") :] == plain[plain.rindex("<script>") :]
    for tag, attributes in seen.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("href", "src"):
            assert not (attributes.get(name) or "").lower().startswith(("javascript:", "http")), tag
        assert tag != "img" or (attributes["src"] or "").startswith("data:image/svg+xml;base64,")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page


@pytest.mark.parametrize("form", [markdown, card])
def test_markdown_shows_what_it_is_given(form: Any, tmp_path: Path) -> None:
    text, plain = form(hostile(), tmp_path), form(test_report.summary(2), tmp_path)
    fences, of_plain = (
        sum(line.startswith("```") for line in made.splitlines()) for made in (text, plain)
    )  # one that was put in would hide the rest from what follows
    assert fences == of_plain == (2 if form is markdown else 0)
    fenced = False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        if not fenced:
            assert "<script" not in line
            assert "<img" not in line
            assert "](" not in line.replace("\\]", "")


def test_a_spreadsheet_computes_nothing_from_cells_csv(tmp_path: Path) -> None:
    found = hostile()
    found.manifest.write(tmp_path)
    rows = list(csv.reader(io.StringIO(cells_csv(found, tmp_path))))
    assert "'=HYPERLINK(1)" in [cell for row in rows for cell in row]
    assert not [cell for row in rows for cell in row if cell[:1] in ("=", "+", "@", "\t", "\r")]


def test_predictions_keep_their_texts_to_the_letter(finished: Path, tmp_path: Path) -> None:
    texts = ["=1+1 wing", "+wing", "-fin", "@reef", "\x1b[31mnest"]
    (tmp_path / "new.csv").write_text("\n".join(["text", *texts]) + "\n")
    with pytest.raises(SystemExit, match="^0$"):
        main(["predict", str(finished), str(tmp_path / "new.csv"), "--out", str(tmp_path / "out.csv")])
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [row["text"] for row in rows] == texts


@pytest.mark.parametrize("text", EVIL)
def test_a_terminal_is_told_nothing_by_a_message_or_a_table(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from finetricks.cli.console import complain, output, warn

    monkeypatch.setenv("COLUMNS", "200")
    complain(text)
    warn(text)
    table = new_table("name")
    table.add_row(escape(text))
    output().print(table)
    messages().print(text, markup=False)
    said = "".join(capsys.readouterr())
    assert not [letter for letter in said if ord(letter) in {*range(9), *range(11, 32), *range(127, 160)}]
    said, shown = said.replace("\u2407", ""), printable(text.replace("\x07", ""))  # rich leaves the bell out
    assert said.count(shown[:16]) == 4
    assert said.count(shown) >= 3  # the table may cut it


def test_on_a_terminal_only_the_consoles_own_styles_are_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    from finetricks.cli.literal import LiteralConsole

    monkeypatch.delenv("NO_COLOR", raising=False)
    written = io.StringIO()
    console = LiteralConsole(file=written, force_terminal=True, color_system="standard", width=80, highlight=False)
    console.print("\x1b[5mx", style="red")
    assert written.getvalue() == "\x1b[31m␛[5mx\x1b[0m\n"


# -- secrets ---------------------------------------------------------------------------------------------

SECRETS = {
    "HF_TOKEN": "hf_0123456789abcdef",
    "WANDB_API_KEY": "wandb-0123456789",
    "AWS_SECRET_ACCESS_KEY": "aws/0123'456789+x\\y",
    "DATABASE_PASSWORD": 'quote"d-and-long',
}
TELLS = """
import os
from finetricks import Trick, hookimpl

class TellsItsEnvironment(Trick):
    @hookimpl
    def build(self, model):
        raise RuntimeError(f"{os.environ} and postgres://me:hunter2@host/db {os.environ['HF_TOKEN']}")
"""


@dataclass(frozen=True)
class Swept:
    """A study that Ray has run in a folder with pickles; a configuration quotes its environment in an error."""

    folder: Path
    attack: Attack
    code: object


@pytest.fixture(scope="module")
def swept(task: Path, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    place = tmp_path_factory.mktemp("swept")
    (place / "tells.py").write_text(TELLS)
    given = test_merge.study(task, ["stlr"], [0]).to_dict() | {"factors": ["tells_its_environment"]}
    given["recipe"]["training"]["epochs"] = 1
    given["cpus_per_cell"] = os.cpu_count()  # one worker
    (place / "study.yaml").write_text(json.dumps(given))
    folder, attack = place / "out", Attack(place / "owned")
    of = Study.load(place / "study.yaml", catalog=installed().with_file(place / "tells.py"))
    with writing(folder, of, overwrite=False):
        for name in OF_RAY:
            (folder / name).write_bytes(attack.as_file())
    files = ["sweep", str(place / "study.yaml"), "--out", str(folder), "--plugin", str(place / "tells.py")]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        try:
            code: object = main([*files, "--logger", "tensorboard", "--resume"])
        except SystemExit as end:
            code = end.code
    return Swept(folder, attack, code)


def test_no_record_of_a_study_holds_a_secret(swept: Swept) -> None:
    assert swept.code == 0
    trials, _ = Ledger(swept.folder / LEDGER).read()
    assert sorted(trial.status for trial in trials.values()) == ["failed", "finished"]
    failed = next(trial for trial in trials.values() if trial.status == "failed")
    assert "<HF_TOKEN>" in (failed.error or "")
    assert "postgres://<credentials>@host/db" in (failed.error or "")
    assert {path.name for path in swept.folder.iterdir()} <= {*OWN, *OF_RAY}
    files = content(swept.folder)
    assert {"study.yaml", "cells.json", "trials.jsonl", "report.html", "summary.json"} <= files.keys()
    secrets = [*SECRETS.values(), "hunter2", "0123456789abcdef"]
    for value in (form for secret in secrets for form in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1])):
        found = [name for name, held in files.items() if value.encode() in held]
        assert not found, f"{value} in {found}"


@pytest.mark.parametrize("name", ["PGPASSWORD", "OPENAI_APIKEY", "db_credentials", "MY_TOKEN_2", "X_AUTH", "SECRETS"])
def test_the_end_of_a_word_makes_a_secret(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "0123456789")
    assert redacted("is 0123456789") == f"is <{name}>"


def test_short_values_and_other_names_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORT_KEY", "name")
    monkeypatch.setenv("GIT_AUTHOR_NAME", "questions")
    monkeypatch.setenv("SSH_KEY_DIR", str(tmp_path))
    assert redacted(f"questions in {tmp_path}") == f"questions in {tmp_path}"
    monkeypatch.setenv("HOME_OF_DATA", "/data/questions")
    assert (
        redacted("name of /data/questions at https://host:80/x@y") == "name of /data/questions at https://host:80/x@y"
    )
