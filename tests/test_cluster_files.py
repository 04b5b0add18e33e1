"""The files and commands that docs/cluster.md shows: they parse, and name what there is."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from ray.scripts.scripts import cli as ray_command

from finetricks.cli import application

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "cluster"
DOCS = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")


def parse(words: list[str]) -> None:
    """Parse a command line as its program does, and run nothing."""
    command: Any = {"finetricks": typer.main.get_command(application()), "ray": ray_command}[words[0]]
    words = words[1:]
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    entrypoint = words[words.index("--") + 1 :] if "--" in words else []
    command.make_context(command.name, list(words))
    if entrypoint:
        parse(entrypoint)


def commands_in(script: str) -> list[list[str]]:
    """The calls of ray and finetricks in a shell script, without what calls them."""
    found = []
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        first = next((at for at, word in enumerate(words) if word in ("ray", "finetricks")), None)
        if first is not None:
            found.append(words[first:])
    return found


@pytest.mark.parametrize("name", ["submit.sh", "slurm.sh"])
def test_scripts_call_ray_with_commands_that_parse(name: str, tmp_path: Path) -> None:
    stand_ins = {
        "ray": f"import json, sys; open({str(tmp_path / 'called')!r}, 'w').write(json.dumps(sys.argv[1:]))",
        "srun": "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])",
        "scontrol": "print('node1\\nnode2')",
    }
    for program, code in stand_ins.items():
        (tmp_path / program).write_text(f"#!{sys.executable}\n{code}\n")
        (tmp_path / program).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "16"}
    environment = os.environ | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run([str(FOLDER / name), "/shared/study.yaml", "/shared/runs/study"], check=True, env=environment)
    parse(["ray", *json.loads((tmp_path / "called").read_text())])


def test_a_command_that_does_not_parse_is_found() -> None:
    with pytest.raises(Exception, match="--no-such-option"):  # typer's own copy of click's exception
        parse(["ray", "job", "submit", "--", "finetricks", "sweep", "study.yaml", "--no-such-option"])


def test_the_commands_of_the_docs_parse() -> None:
    blocks = re.findall(r"```console\n(.*?)```", DOCS, re.DOTALL)
    commands = [command for block in blocks for command in commands_in(block)]
    assert {command[1] for command in commands} == {"sweep", "merge"}
    for command in commands:
        parse(command)


def test_the_kuberay_job_runs_the_study_on_workers_that_share_its_folder() -> None:
    claim, job = yaml.safe_load_all((FOLDER / "rayjob.yaml").read_text())
    assert (claim["kind"], claim["spec"]["accessModes"]) == ("PersistentVolumeClaim", ["ReadWriteMany"])
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    entrypoint = shlex.split(job["spec"]["entrypoint"])
    parse(entrypoint)
    assert "--resume" in entrypoint  # each retry is a new cluster
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == version("ray")
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in pods):
        (container,) = pod["containers"]
        (mount,) = container["volumeMounts"]
        (volume,) = pod["volumes"]
        assert mount["name"] == volume["name"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert entrypoint[entrypoint.index("--out") + 1].startswith(mount["mountPath"])
    assert len({group["template"]["spec"]["containers"][0]["image"] for group in pods}) == 1


def test_the_files_that_are_pinned_name_the_versions_of_this_tree() -> None:
    assert f"rayproject/ray:{version('ray')}-" in (FOLDER / "Dockerfile").read_text()
    for name in ("Dockerfile", "submit.sh"):
        assert f"finetricks[tune]=={version('finetricks')}" in (FOLDER / name).read_text()


def test_every_file_is_shown() -> None:
    for file in FOLDER.iterdir():
        assert f"](../examples/cluster/{file.name})" in DOCS
