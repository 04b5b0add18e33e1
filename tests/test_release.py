"""What is released: one version, a wheel and an sdist with all that belongs into them, every supported Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.metadata import Metadata

import tiny
from clean import clean_environment, done
from finetricks import Recipe, __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = {"core": "finetricks", "plugins": "finetricks_plugins", "tuning": "finetricks_tuning"}
PYTHONS = [found.rpartition(" ")[2] for found in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", found)]
NOT_RELEASED = (".ci/", ".github/", ".gitattributes")
"""What only the repository needs: all else of it is in the sdist."""


def python(version: str) -> str:
    """The interpreter of that minor version on this machine. Skips the test without one."""
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    candidates = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"versions/{version}.*/bin/python"))]
    for candidate in filter(None, candidates):
        ran = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
        if ran.stdout.startswith(f"Python {version}."):  # pyenv's shims are there for versions that are not chosen
            return str(candidate)
    pytest.skip(f"there is no Python {version} on this machine")


def build(source: Path, out: Path, *options: str) -> Path:
    """Build what `options` say from a source tree; the file."""
    command = [sys.executable, "-m", "hatchling", "build", *options, "-d", str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "-t", "wheel")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "-t", "sdist")


def test_the_version_stands_in_one_place(wheel: Path, sdist: Path) -> None:
    assert "version" not in PROJECT
    assert PROJECT["dynamic"] == ["version"]
    assert wheel.name == f"finetricks-{__version__}-py3-none-any.whl"
    assert sdist.name == f"finetricks-{__version__}.tar.gz"


def test_what_repeats_the_version_has_the_same() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == __version__
    for name, repeated in (("Dockerfile", 1), ("rayjob.yaml", 2), ("submit.sh", 1)):
        text = (ROOT / "examples" / "cluster" / name).read_text()
        found = re.findall(r"finetricks(?:\[\w+\]==|:)(\d[\w.]*)", text)
        assert found == [__version__] * repeated, name


def test_the_wheel_has_the_packages_and_no_other_file(wheel: Path) -> None:
    given = [
        path.relative_to(ROOT / root)
        for root, package in SOURCES.items()
        for path in (ROOT / root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert {path.suffix for path in given} == {".py", ".typed", ".jinja", ".j2"}
    with zipfile.ZipFile(wheel) as archive:
        about = f"finetricks-{__version__}.dist-info/"
        names = {name for name in archive.namelist() if not name.startswith(about)}
        assert names == {path.as_posix() for path in given}
        assert {f"{package}/py.typed" for package in SOURCES.values()} <= names
        assert archive.read(f"{about}licenses/LICENSE").decode() == (ROOT / "LICENSE").read_text()
        metadata = Metadata.from_email(archive.read(f"{about}METADATA"), validate=True)
    assert metadata.license_expression == "Apache-2.0"
    assert metadata.description == (ROOT / "README.md").read_text()
    assert metadata.description_content_type == "text/markdown"
    assert all(version in metadata.requires_python for version in PYTHONS)
    assert "3.10" not in metadata.requires_python


def test_the_sdist_is_the_repository(sdist: Path) -> None:
    command = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        pytest.skip("this is no git repository")
    wanted = {name for name in ran.stdout.splitlines() if not name.startswith(NOT_RELEASED) and (ROOT / name).exists()}
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert names == {*wanted, "PKG-INFO"}


def test_the_sdist_builds_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4 and newer have it
        archive.extractall(tmp_path / "source", **safely)
    (source,) = (tmp_path / "source").iterdir()
    assert build(source, tmp_path / "wheel", "-t", "wheel").read_bytes() == wheel.read_bytes()


def write_recipe(folder: Path) -> None:
    tiny.write_task(folder)
    settings = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3}
    recipe = Recipe(
        model=str(folder / "model"),
        data={"train": str(folder / "train.csv"), "valid": 0.2},
        training=settings,
        tricks=["stlr", "gradual_unfreezing", "label_smoothing"],
    )
    (folder / "recipe.yaml").write_text(recipe.to_yaml())


def test_the_wheel_trains_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    write_recipe(tmp_path)
    environment = clean_environment(tmp_path / "environment")
    # The libraries that it borrows stand beside a finetricks, which is to be left alone.
    done(f"pip install --ignore-installed {wheel}", tmp_path, environment)
    show = "; ".join(f"import {package}; print({package}.__file__)" for package in SOURCES.values())
    places = done(f"python -c '{show}'", tmp_path, environment).split()
    assert [place for place in places if not place.startswith(str(tmp_path / "environment"))] == []
    assert len(places) == len(SOURCES)
    assert "Train" in done("finetricks --help", tmp_path, environment)
    assert done("finetricks --version", tmp_path, environment) == f"finetricks {__version__}\n"
    said = done("finetricks train recipe.yaml --out run", tmp_path, environment)
    assert "accuracy" in said
    assert re.search(r"\b6 steps in ", said)  # 48 rows in batches of 16, twice
    assert (tmp_path / "run" / "result.json").is_file()


@pytest.mark.parametrize("version", PYTHONS)
def test_every_source_compiles(version: str, tmp_path: Path) -> None:
    sources = [str(ROOT / folder) for folder in (*SOURCES, "examples", "benchmarks", "docs")]
    command = [python(version), "-W", "error", "-m", "compileall", "-q", *sources]
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(list(tmp_path.rglob("*.pyc"))) > 300


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("version", PYTHONS)
def test_the_wheel_trains_on_every_python(version: str, wheel: Path, tmp_path: Path) -> None:
    """With its dependencies from the index, as anyone would install it."""
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run([python(version), "-m", "venv", str(tmp_path / "environment")], env=own, check=True)
    bin_ = tmp_path / "environment" / "bin"
    pip = [str(bin_ / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    pip += ["--constraint", str(ROOT / "constraints.txt")]
    reached = subprocess.run([*pip, "--dry-run", "pluggy"], env=own, capture_output=True, text=True, check=False)
    if reached.returncode:
        pytest.skip(f"no package index: {reached.stderr.splitlines()[-1]}")
    for wanted in ("torch", str(wheel)):  # as the Makefile does: the pinned build of torch decides on the others
        subprocess.run([*pip, wanted], env=own, check=True, capture_output=True, text=True)
    write_recipe(tmp_path)
    environment = own | {"PATH": f"{bin_}{os.pathsep}{own['PATH']}"}
    said = done("python --version; finetricks train recipe.yaml --out run", tmp_path, environment)
    assert said.startswith(f"Python {version}.")
    assert "accuracy" in said


def test_the_citation_can_be_read() -> None:
    """The fields that the Citation File Format 1.2.0 asks for, and who, what and on what terms."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"] == PROJECT["name"]
    assert citation["authors"] == [{"name": "The finetricks authors"}]
    assert citation["license"] == PROJECT["license"]
    assert citation["keywords"]
    assert all(isinstance(value, str) for key, value in citation.items() if key not in ("authors", "keywords"))


def test_the_workflows_test_every_python_and_release_what_was_checked() -> None:
    test, release = (
        yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())["jobs"]
        for name in ("test", "release")
    )
    assert test["test"]["strategy"]["matrix"]["python"] == PYTHONS
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    steps = [step for job in (*test.values(), *release.values()) for step in job["steps"]]
    made = [words.split()[1] for step in steps for words in re.findall(r"make [\w-]+", step.get("run", ""))]
    assert {"test", "lint", "docs", "dist"} <= {*made}
    assert [target for target in made if target not in targets] == []
    assert release["publish"]["permissions"] == {"id-token": "write"}
    assert release["publish"]["needs"] == "build"
