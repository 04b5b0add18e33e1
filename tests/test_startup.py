"""What a command imports: answers that need no model come without the libraries that train one. Never the clock."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HEAVY = ["torch", "transformers", "datasets", "ray", "pandas", "scipy", "sklearn", "matplotlib", "accelerate", "optuna"]
TRAINING = ["transformers", "datasets", "ray", "pandas", "sklearn", "matplotlib", "accelerate", "torch._dynamo"]

RUN = """
import contextlib, io, json, sys
from finetricks.cli import main
for arguments in json.loads(sys.argv[1]):
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code
    loaded = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
    print(json.dumps([arguments, code, told.getvalue(), loaded]))
"""


def loaded_by(commands: list[list[str]], names: list[str]) -> list[tuple[list[str], int, str, list[str]]]:
    """The commands, run one after the other in a new process: exit code, output, and what of `names` is loaded then."""
    code = [sys.executable, "-c", RUN, json.dumps(commands), json.dumps(names)]
    told = subprocess.run(code, check=True, capture_output=True, text=True, timeout=120).stdout
    return [tuple(json.loads(line)) for line in told.splitlines()]


def test_help_and_a_light_trick_need_no_torch() -> None:
    words = {"--help": "finetricks", "--version": "finetricks", "show stlr": "stlr"}
    words |= {f"{command} --help": command for command in ("train", "check", "sweep", "report")}
    found = loaded_by([command.split() for command in words], HEAVY)
    for (command, code, told, loaded), word in zip(found, words.values(), strict=True):
        assert (code or 0, loaded) == (0, []), command
        assert word in told


def test_a_wrong_recipe_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model: minilm\ntraining: {epoch: 3}\ntricks: [stlr, gradual_unfreezing, {discriminative_lr: {decay: x}}]\n"
    )
    ((_, code, told, loaded),) = loaded_by([["check", str(recipe)]], HEAVY)
    assert (code, loaded) == (2, [])
    assert "epoch" in told
    assert "decay" in told


def test_tricks_are_listed_without_what_trains_them() -> None:
    """A trick's own module may load torch, of which it has modules."""
    study = str(Path(__file__).parents[1] / "examples" / "quickstart.yaml")
    for command, code, told, loaded in loaded_by([["list"], ["schema"], ["check", study]], TRAINING):
        assert (code, loaded) == (0, []), command
        assert told.strip()
