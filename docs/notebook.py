"""Execute a notebook in a folder of its own and keep what it prints: `python docs/notebook.py NOTEBOOK...`.

`--write` puts the new outputs in the place of the old ones, without what belongs to this machine alone: times, paths,
the version of the kernel; and without what was written to stderr: progress, which is other each time.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from blocks import same
from nbclient import NotebookClient
from traitlets.config import Config

WIDTH = "110"
EXACT, VARIES = "exact", "varies"
"""Tags of a cell: what it shows is compared to the last decimal; or only its kind, as the rest may differ elsewhere."""


def execute(path: Path, folder: Path) -> Any:
    """The notebook with the outputs that it has now.

    Args:
        folder: where its cells read and write.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    own = {
        "COLUMNS": WIDTH,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "IPYTHONDIR": str(folder / ".ipython"),  # neither history nor start-up files of whoever runs it
    }
    with _runtime() as runtime:
        # Sockets that are files: no port is opened.
        config = Config({"ConnectionFileMixin": {"transport": "ipc", "ip": str(runtime / "kernel")}})
        at = {"metadata": {"path": str(folder)}}
        client = NotebookClient(
            notebook, timeout=600, kernel_name="python3", resources=at, config=config, coalesce_streams=True
        )
        client.execute(env={**os.environ, **own})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the times at which it ran
        if cell.cell_type == "code":
            cell.outputs = [_own(output, str(folder)) for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def differences(told: Any, now: Any) -> list[str]:
    """Where two executions of one notebook show something else: decimals, durations and verdicts aside."""
    found = []
    pairs = zip(told.cells, now.cells, strict=True)
    for number, (before, after) in enumerate(pairs):
        if before.cell_type != "code":
            continue
        tags = before.metadata.get("tags", [])
        kinds = [[sorted(_shown(output)) for output in cell.outputs] for cell in (before, after)]
        if kinds[0] != kinds[1]:
            found.append(f"cell {number} shows {kinds[1]}, where {kinds[0]} stands")
        elif VARIES not in tags:
            texts = [
                "".join(_shown(output).get("text/plain", "") for output in cell.outputs) for cell in (before, after)
            ]
            alike = texts[0] == texts[1] if EXACT in tags else same(texts[0], texts[1])
            if not alike:
                found.append(f"cell {number} shows\n{texts[1]}\nwhere this stands:\n{texts[0]}")
    return found


@contextlib.contextmanager
def _runtime() -> Iterator[Path]:
    """A folder for a kernel's sockets and its key, with a path that is short enough for sockets."""
    name = "JUPYTER_RUNTIME_DIR"
    before = os.environ.get(name)
    with tempfile.TemporaryDirectory(prefix="kernel-") as folder:
        os.environ[name] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop(name)
            os.environ |= {} if before is None else {name: before}


def _text(cell: Any) -> str:
    return "".join(_shown(output).get("text/plain", "") for output in cell.outputs)


def _shown(output: Any) -> dict[str, Any]:
    """What an output shows, by the kind of it."""
    return {"text/plain": output.text} if output.output_type == "stream" else dict(output.data)


def _own(output: Any, folder: str) -> Any:
    """An output without paths of this machine, the codes of a terminal, and the text that stands in for a picture."""
    if output.output_type == "stream":
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.text).replace(f"{folder}{os.sep}", "")
        output.text = "".join(f"{line.rstrip()}\n" for line in re.sub(r".*\r(?!\n)", "", text).splitlines())
    elif "image/png" in output.get("data", {}):
        output.data.pop("text/plain", None)  # what a reader without pictures would see
    return output


def main() -> int:
    for path in (Path(word) for word in sys.argv[1:] if word != "--write"):
        with tempfile.TemporaryDirectory() as folder:
            now = execute(path, Path(folder))
        if "--write" in sys.argv[1:]:
            nbformat.write(now, path)
        elif found := differences(nbformat.read(path, as_version=4), now):
            print(f"{path}:", *found, sep="\n", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
