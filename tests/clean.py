"""A clean virtual environment that borrows the libraries of this one, and has nothing to reach for."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

SCRIPT = '#!/bin/sh\nexec {python} -m {module} "$@"\n'
COMMANDS = {"pip": "pip", "pytest": "pytest"}
OFFLINE = {
    "PIP_NO_INDEX": "1",
    "PIP_NO_DEPS": "1",
    "PIP_NO_BUILD_ISOLATION": "0",  # 0 says: without isolation
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_QUIET": "1",
    "COLUMNS": "200",
    "PYTEST_ADDOPTS": "-q -p no:cacheprovider",
}


def clean_environment(folder: Path, sources: Sequence[Path] = ()) -> dict[str, str]:
    """Make a virtual environment in `folder`; the environment variables with which its commands are run.

    Args:
        sources: further folders that its Python imports from. Without the source roots of this repository it knows no
            finetricks until one is installed, and with them the command `finetricks` is there too.
    """
    venv.create(folder, with_pip=False)
    (own,) = folder.glob("lib/*/site-packages")
    libraries = [path for path in sys.path if Path(path).name == "site-packages"]
    (own / "borrowed.pth").write_text("\n".join([*libraries, *map(str, sources)]))
    for command, module in (COMMANDS | ({"finetricks": "finetricks"} if sources else {})).items():
        script = folder / "bin" / command
        script.write_text(SCRIPT.format(python=folder / "bin" / "python", module=module))
        script.chmod(0o755)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "VIRTUAL_ENV": str(folder), **OFFLINE}


def done(command: str, folder: Path, environment: dict[str, str]) -> str:
    """What a command line wrote. It must succeed."""
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout + ran.stderr
