"""What must hold on every node of a cluster before the first cell is run. All that does not is said at once.

A cell that waits for a node that will never come waits for ever; one that runs on a node with another version of a
trick gives a number that looks like any other. Both are looked for here, in the seconds before the study starts.
"""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetricks.catalog import installed
from finetricks.errors import InputError, Problem
from finetricks.source import hash_of_core, hash_of_module
from finetricks.trick import input_files

if TYPE_CHECKING:
    from finetricks.tasks import Task
    from finetricks_tuning.study import Study

DISTRIBUTIONS = ("finetricks", "ray", "torch", "transformers", "tokenizers", "datasets", "numpy")
ACCELERATOR = "accelerator_type:"
"""How Ray names the kind of a node's GPUs among its resources."""

SECONDS = 600.0
"""How long a node has to answer: it may have to install its environment first."""

DIGITS = 12  # of a hash that is shown
NOT_THERE = "not there"


@dataclass(frozen=True)
class Node:
    """A node of the cluster that is alive: Ray's id, what it is called, and what it has."""

    id: str
    name: str
    resources: Mapping[str, float]

    def slots(self, cpus: float, gpus: float) -> int:
        """How many bundles of so many CPUs and GPUs fit on it at once. One bundle never spans two nodes."""
        wanted = {"CPU": cpus, "GPU": gpus}
        return min(int(self.resources.get(kind, 0.0) / amount) for kind, amount in wanted.items() if amount)


@dataclass(frozen=True)
class Needs:
    """What the cells of a study take from the node that they run on. The examples are not among it: they are sent.

    Attributes:
        files: the models that are local folders, and the files that tricks name.
        tricks: names of the study's tricks that distributions announce; the others are sent.
    """

    files: tuple[str, ...] = ()
    tricks: tuple[str, ...] = ()

    @classmethod
    def of(cls, study: Study, tasks: Iterable[Task]) -> Needs:
        levels = [level.tricks for factor in study.factors for level in factor.levels]
        used = [named for tricks in (study.recipe.tricks, *levels) for named in tricks]
        models = [task.model_name for task in tasks if Path(task.model_name).is_dir()]
        files = [file for _, trick in used for file in input_files(trick)]
        announced = {name for name, _ in used} - set(study.catalog.classes)
        return cls(tuple(dict.fromkeys(models + files)), tuple(sorted(announced)))


@dataclass(frozen=True)
class Facts:
    """What a node says of itself.

    Attributes:
        versions: of Python and of what a cell's result rests on, by name; `not there` for what is missing.
        marker: what stands in the study's folder, in the file that the driver has just written; `None` if nothing.
        writes: why the node cannot write there; empty if it can.
        files: the size in bytes of each file or folder that cells read; `None` for those that it does not find.
    """

    versions: Mapping[str, str]
    marker: str | None
    writes: str
    files: Mapping[str, int | None]


def nodes() -> list[Node]:
    """The nodes of the cluster that this process is connected to."""
    import ray

    return [Node(node["NodeID"], _name(node), node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _name(node: Mapping[str, Any]) -> str:
    address, given = node["NodeManagerAddress"], node["NodeName"]
    return str(given if given != address else node["NodeManagerHostname"] or address)


def count_slots(there: Iterable[Node], cpus: float, gpus: float) -> int:
    """How many bundles of so many CPUs and GPUs the nodes hold at once.

    Raises:
        InputError: not one of them can ever hold a bundle.
    """
    there = list(there)
    slots = sum(node.slots(cpus, gpus) for node in there)
    if slots:
        return slots
    for kind, wanted in (("CPU", cpus), ("GPU", gpus)):
        most = max((node.resources.get(kind, 0.0) for node in there), default=0.0)
        if wanted > most:
            on = "there are" if len(there) == 1 else "no node has more than"
            raise InputError(f"a cell needs {wanted:g} {kind}s and {on} {most:g}; lower {kind.lower()}s_per_cell")
    raise InputError(f"a cell needs {cpus:g} CPUs and {gpus:g} GPUs, and no node has both; lower cpus_per_cell")


def check_nodes(there: Sequence[Node], folder: Path, needs: Needs) -> None:
    """Ask every node whether it can run the cells of a study as this process would.

    Args:
        there: the nodes that cells may run on.
        folder: the study's, which exists.

    Raises:
        InputError: with everything that is wrong, on every node.
    """
    marker = folder / f".preflight-{uuid.uuid4().hex}"
    try:
        marker.write_text(marker.name, encoding="utf-8")
        here = facts(str(marker), needs)
        found = _ask(there, str(marker), needs)
    finally:
        for left in folder.glob(f"{marker.name}*"):
            left.unlink(missing_ok=True)
    if problems := [*kinds_of_gpu(there), *compare(here, found, marker)]:
        raise InputError(problems)


def facts(marker: str, needs: Needs) -> Facts:
    """What holds in this process. Imports no trick, and neither torch nor transformers."""
    files = {file: _size(file) for file in needs.files}
    return Facts(_versions(needs.tricks), _read(Path(marker)), _write(Path(marker)), files)


def _versions(tricks: Sequence[str]) -> dict[str, str]:
    found = {"python": platform.python_version(), "source of finetricks": hash_of_core()[:DIGITS]}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = NOT_THERE
    catalog = installed()
    for name in tricks:
        entry = catalog.entries.get(name)
        source = hash_of_module(entry.target.partition(":")[0])[:DIGITS] if entry else ""
        found[f"trick {name}"] = f"{entry.origin} (source {source})" if entry else NOT_THERE
    return found


def _read(marker: Path) -> str | None:
    try:
        return marker.read_text(encoding="utf-8")
    except OSError:
        return None


def _write(marker: Path) -> str:
    try:
        Path(f"{marker}-{uuid.uuid4().hex}").write_text("", encoding="utf-8")
    except OSError as error:
        return os.strerror(error.errno or 0)
    return ""


def _size(file: str) -> int | None:
    path = Path(file)
    with suppress(OSError):
        if path.is_file():
            return path.stat().st_size
        if path.is_dir():
            return sum(part.stat().st_size for part in path.iterdir() if part.is_file())
    return None


def _ask(there: Sequence[Node], *question: Any) -> dict[str, Facts | str]:
    """What each node answers, by its name; a text where it gives none."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(facts)
    answers = []
    for node in there:
        on_it = NodeAffinitySchedulingStrategy(node.id, soft=False)
        answers.append(task.options(num_cpus=0, max_retries=1, scheduling_strategy=on_it).remote(*question))
    answered, _ = ray.wait(answers, num_returns=len(answers), timeout=SECONDS)
    found: dict[str, Facts | str] = {}
    for node, answer in zip(there, answers, strict=True):
        name = node.name if node.name not in found else f"{node.name} ({node.id[:6]})"
        if answer not in answered:
            found[name] = f"does not answer within {SECONDS:g} seconds"
            continue
        try:
            found[name] = ray.get(answer)
        except ray.exceptions.RayError as error:
            found[name] = f"cannot run a task of this study: {_reason(error)}"
    return found


def _reason(error: Exception) -> str:
    """The last line that tells something: of an error on a node, that is the error itself."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def kinds_of_gpu(there: Iterable[Node]) -> list[Problem]:
    """Whether the nodes' GPUs are of one kind, as far as Ray knows them."""
    kinds = {
        name.removeprefix(ACCELERATOR) for node in there for name in node.resources if name.startswith(ACCELERATOR)
    }
    if len(kinds) < 2:
        return []
    return [
        Problem(
            "GPUs",
            f"the nodes have {' and '.join(sorted(kinds))}, and a cell does not give the same result on both; give the "
            "study nodes of one kind",
        )
    ]


def compare(here: Facts, found: Mapping[str, Facts | str], marker: Path) -> list[Problem]:
    """What is wrong with the nodes, beside this process.

    Args:
        found: what each node says, by its name; a text for one that says nothing.
        marker: the file that this process has written, with its name in it.
    """
    problems = [Problem(f"node {name}", answer) for name, answer in found.items() if isinstance(answer, str)]
    answers = {name: answer for name, answer in found.items() if isinstance(answer, Facts)}
    unshared = [name for name, answer in answers.items() if answer.marker != marker.name]
    if unshared:
        problems.append(
            Problem(
                f"the study's folder {marker.parent}",
                f"is not shared: what this process writes there is not seen on {_listed(unshared)}; name a folder on "
                "storage that every node mounts at the same place (NFS, a shared volume)",
            )
        )
    for reason, names in _grouped({name: a.writes for name, a in answers.items() if name not in unshared}).items():
        if reason:
            message = f"cannot be written to on {_listed(names)}: {reason}; cells write their files there"
            problems.append(Problem(f"the study's folder {marker.parent}", message))
    for file, size in here.files.items():
        sizes = {name: answer.files[file] for name, answer in answers.items()}
        if missing := [name for name, there in sizes.items() if there is None]:
            problems.append(Problem(file, f"not found on {_listed(missing)}; put it on storage that all nodes mount"))
        if other := [name for name, there in sizes.items() if there not in (None, size)]:
            problems.append(Problem(file, f"has another content on {_listed(other)} than here; copy it anew"))
    differing = []
    for what, own in here.versions.items():
        groups = _grouped({name: answer.versions[what] for name, answer in answers.items()})
        groups.pop(own, None)
        if groups:
            there = "; ".join(f"{value} on {_listed(names)}" for value, names in groups.items())
            differing.append(Problem(what, f"{own} here; {there}"))
    if differing:
        mend = "install the same on every node: one image, or a runtime environment (docs/cluster.md); what differs:"
        problems += [Problem("versions", mend), *differing]
    return problems


def _grouped(values: Mapping[str, str]) -> dict[str, list[str]]:
    """Names by their value."""
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(value, []).append(name)
    return groups


def _listed(names: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more nodes"
