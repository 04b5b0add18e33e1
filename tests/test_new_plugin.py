"""`finetricks new-plugin` writes packages that install and whose tests pass, one for each hook."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from clean import clean_environment, done
from finetricks import InputError, __version__, installed
from finetricks.catalog import Catalog
from finetricks.cli import main
from finetricks.hooks import HOOKS
from finetricks.new_plugin import STARTS, write_plugin
from finetricks.new_plugin.write import versions
from finetricks.testing import ORDER, check_trick

ROOT = Path(__file__).parent.parent
LONG = ("interleaved", "resume", "trainer", "beside_each")
"""The checks that take longest: `test_each_is_installed_and_passes_its_own_tests` asks them at night."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    sources = [ROOT / root for root in ("core", "plugins", "tuning")]
    return clean_environment(tmp_path_factory.mktemp("environment"), sources)


def test_the_path_from_an_idea_to_a_package_is_as_the_docs_print_it(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    page = (ROOT / "docs" / "writing-a-trick.md").read_text()
    (block,) = [text for text in re.findall(r"```console\n(.*?)```", page, re.DOTALL) if "new-plugin" in text]
    said = done(
        re.sub(r"^pytest$", f"pytest -k 'not {' and not '.join(LONG)}'", block, flags=re.MULTILINE),
        tmp_path,
        environment,
    )
    (passed,) = re.findall(r"(\d+) passed", said)
    assert int(passed) == len(ORDER) - len(LONG) - 6  # it has no data, build, freeze, loss, penalty, finish
    assert "failed" not in said
    assert re.search(r"gentle_decay +\(schedule; from finetricks-gentle-decay 0\.1\.0, for finetricks <0", said)


@pytest.mark.nightly
def test_the_tutorials_trick_becomes_a_package_that_passes(tmp_path: Path, environment: dict[str, str]) -> None:
    page = (ROOT / "docs" / "tutorial" / "4-trick.md").read_text()
    for name in ("cooldown.py", "test_cooldown.py"):
        (text,) = re.findall(rf'```python title="{name}"\n(.*?)```', page, re.DOTALL)
        (tmp_path / name).write_text(text)
    (commands,) = [text for text in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if "new-plugin" in text]
    said = done(commands, tmp_path, environment)
    (passed,) = re.findall(r"(\d+) passed", said)
    assert int(passed) == 1 + len(ORDER) - 7  # it has no data, build, freeze, loss, penalty, finish, and no neutral
    assert "failed" not in said
    assert "cooldown  (schedule; from finetricks-cooldown 0.1.0" in said


@pytest.mark.nightly
def test_each_is_installed_and_passes_its_own_tests(tmp_path: Path, environment: dict[str, str]) -> None:
    folders = [write_plugin(f"own_{hook}", hook, tmp_path / hook) for hook in STARTS]
    done(f"pip install {' '.join(map(str, folders))}", tmp_path, environment)
    said = done(f"pytest --import-mode=importlib {' '.join(map(str, folders))}", tmp_path, environment)
    (passed,) = re.findall(r"(\d+) passed", said)
    assert int(passed) >= 12 * len(STARTS)
    assert "failed" not in said
    assert "skipped" not in said


@pytest.mark.parametrize("hook", STARTS)
def test_the_trick_of_each_hook_is_a_good_one(hook: str, tmp_path: Path) -> None:
    folder = write_plugin("own_start", hook, tmp_path / "package")
    module = folder / "src" / "finetricks_own_start" / "__init__.py"
    for checked in (["format", "--check"], ["check", "--ignore", "I"]):
        command = [sys.executable, "-m", "ruff", *checked, "--config", str(ROOT / "pyproject.toml"), str(folder)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout
    kind = installed().with_file(module).get("own_start")
    (values,) = re.findall(r"OwnStart\((?:target=(\d+))?\)", (folder / "tests" / "test_own_start.py").read_text())
    check_trick(kind(target=int(values)) if values else kind, leave_out=LONG)


def test_what_it_writes(tmp_path: Path) -> None:
    folder = write_plugin("gentle_decay", "schedule", tmp_path / "package")
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == "finetricks-gentle-decay"
    assert project["entry-points"]["finetricks"] == {"gentle_decay": "finetricks_gentle_decay:GentleDecay"}
    assert project["dependencies"] == [f"finetricks{versions()}"]
    workflow = yaml.safe_load((folder / ".github" / "workflows" / "test.yml").read_text())
    python = workflow["jobs"]["test"]["steps"][1]["with"]["python-version"]
    assert python == "${{ matrix.python }}"
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == [
        ".github/workflows/test.yml",
        "README.md",
        "pyproject.toml",
        "src/finetricks_gentle_decay/__init__.py",
        "src/finetricks_gentle_decay/py.typed",
        "tests/test_gentle_decay.py",
    ]
    for file in files:
        text = (folder / file).read_text()
        assert "{%" not in text
        assert "jinja" not in text


def test_every_hook_but_finish_is_a_start() -> None:
    assert [hook for hook in HOOKS if hook not in STARTS] == ["finish"]


@pytest.mark.parametrize(
    ("present", "written"), [("0.1.0", ">=0.1,<0.3"), ("0.9.3.dev1", ">=0.9,<0.11"), ("1.0.0", ">=1.0,<1.2")]
)
def test_a_plugin_is_for_this_minor_version_and_the_next(present: str, written: str) -> None:
    assert versions(present) == written


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        (
            "Gentle-Decay",
            {},
            "'Gentle-Decay' is no trick's name; give words in lower case, joined by underscores",
        ),
        ("Gentle-Decay", {}, "such as gentle_decay"),
        ("../up", {}, "'../up' is no trick's name"),
        ("größe", {}, "'größe' is no trick's name"),
        ("lambda", {}, "'lambda' is no trick's name"),
        ("", {}, "'' is no trick's name"),
        ("stlr", {}, f"'stlr' is a trick of finetricks {__version__} already; choose another name"),
        (
            "own",
            {"hook": "shedule"},
            "no trick begins with 'shedule' (did you mean 'schedule'?); give one of data,",
        ),
        ("own", {"hook": "finish"}, "no trick begins with 'finish'"),
    ],
)
def test_what_cannot_be_is_refused_with_the_mend(name: str, options: dict[str, str], told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        write_plugin(name, options.get("hook", "schedule"), tmp_path / "package")
    assert told in str(error.value)
    assert not (tmp_path / "package").exists()


def test_a_name_that_two_distributions_claim_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claimed = Catalog({}, {"own": "trick 'own' is claimed by one 1.0 and by two 1.0; uninstall one"})
    monkeypatch.setattr("finetricks.new_plugin.write.installed", lambda: claimed)
    with pytest.raises(InputError, match="'own' is a trick of"):
        write_plugin("own", "schedule", tmp_path / "package")


def test_the_command_writes_here_and_refuses_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["new-plugin", "own", "--hook", "freeze"])
    assert ended.value.code == 0
    assert "pip install --editable finetricks-own" in capsys.readouterr().out
    assert "def freeze(" in (tmp_path / "finetricks-own/src/finetricks_own/__init__.py").read_text()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert main(["new-plugin", "own"]) == 2
    assert "finetricks-own exists already; give a new folder with --out, or remove it" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["new-plugin", "own", "--out", "file"]) == 2
    (tmp_path / "link").symlink_to("nowhere")
    assert main(["new-plugin", "own", "--out", "link"]) == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit):
        main(["new-plugin", "own", "--out", "empty"])
    assert (tmp_path / "empty" / "pyproject.toml").is_file()
