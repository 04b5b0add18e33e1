"""What a cluster must have before a study begins: counted per node, and compared with this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from finetricks import Recipe, Trick
from finetricks.errors import InputError
from finetricks.trick import InputFile
from finetricks_tuning.preflight import Facts, Needs, Node, compare, count_slots, facts, kinds_of_gpu
from finetricks_tuning.study import Study


def node(cpus: float, gpus: float = 0, **more: float) -> Node:
    return Node("id", "name", {"CPU": cpus, "GPU": gpus, **more})


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "slots"),
    [
        ([node(4)], 1, 0, 4),
        ([node(3), node(3)], 2, 0, 2),  # six CPUs, but what is left of one node and of the other makes no third cell
        ([node(16, 2), node(0)], 4, 1, 2),
        ([node(6, 8)], 2, 1, 3),
        ([node(16, 1)], 1, 0.25, 4),
        ([node(2, 0), node(8, 4)], 1, 1, 4),
    ],
)
def test_cells_are_counted_on_each_node(nodes: list[Node], cpus: int, gpus: float, slots: int) -> None:
    assert count_slots(nodes, cpus, gpus) == slots


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "message"),
    [
        ([node(2)], 4, 0, "a cell needs 4 CPUs and there are 2; lower cpus_per_cell"),
        ([node(2), node(3)], 4, 0, "a cell needs 4 CPUs and no node has more than 3; lower cpus_per_cell"),
        ([node(8), node(8)], 1, 1, "a cell needs 1 GPUs and no node has more than 0; lower gpus_per_cell"),
        ([node(16), node(1, 1)], 4, 1, "a cell needs 4 CPUs and 1 GPUs, and no node has both; lower cpus_per_cell"),
    ],
)
def test_what_can_never_run_is_refused_and_not_waited_for(
    nodes: list[Node], cpus: int, gpus: float, message: str
) -> None:
    with pytest.raises(InputError) as refused:
        count_slots(nodes, cpus, gpus)
    assert str(refused.value) == message


def test_two_kinds_of_gpu_are_refused() -> None:
    assert kinds_of_gpu([node(8, 1, **{"accelerator_type:H200": 1}), node(8)]) == []
    (problem,) = kinds_of_gpu([node(8, 1, **{"accelerator_type:H200": 1}), node(8, 1, **{"accelerator_type:T4": 1})])
    assert "the nodes have H200 and T4" in problem.message


# -- what nodes say --------------------------------------------------------------------------------------


class Reading(Trick):
    """Reads a file."""

    path: InputFile


def test_cells_need_models_in_folders_files_of_tricks_and_tricks_of_distributions(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("wing")
    recipe = Recipe(model="minilm", data={"train": "stdlib_docstrings"}, tricks=["weight_decay"])  # type: ignore[arg-type]
    study = Study(recipe=recipe, factors=[Reading(path=str(tmp_path / "words.txt")), "stlr"])  # type: ignore[arg-type]

    class Folder:
        model_name = str(tmp_path)

    class Hub:
        model_name = "someone/some-model"

    needs = Needs.of(study, [Folder(), Hub()])  # type: ignore[list-item]
    assert needs == Needs((str(tmp_path), str(tmp_path / "words.txt")), ("stlr", "weight_decay"))


@pytest.fixture
def here(tmp_path: Path) -> Facts:
    (tmp_path / "marker").write_text("marker")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"12345")
    (tmp_path / "model" / "config").write_bytes(b"67")
    return facts(str(tmp_path / "marker"), Needs((str(tmp_path / "model"),), ("stlr", "no_such_trick")))


def test_a_process_tells_what_it_sees(here: Facts, tmp_path: Path) -> None:
    assert here.marker == "marker"
    assert here.writes == ""
    assert here.files == {str(tmp_path / "model"): 7}
    assert here.versions["trick stlr"].startswith("finetricks ")
    assert here.versions["trick no_such_trick"] == "not there"


def problems(here: Facts, tmp_path: Path, **found: Facts | str) -> list[str]:
    return [str(problem) for problem in compare(here, found, tmp_path / "marker")]


def test_nodes_that_are_alike_are_fine(here: Facts, tmp_path: Path) -> None:
    assert problems(here, tmp_path, one=here, two=here) == []


def test_what_differs_is_a_table_with_the_nodes_named(here: Facts, tmp_path: Path) -> None:
    older = replace(here, versions=here.versions | {"torch": "2.0", "trick stlr": "not there"})
    said = problems(here, tmp_path, a=here, b=older, c=older)
    assert said[0].startswith("versions: install the same on every node")
    assert said[1:] == [
        f"torch: {here.versions['torch']} here; 2.0 on b, c",
        f"trick stlr: {here.versions['trick stlr']} here; not there on b, c",
    ]


def test_a_folder_that_is_not_shared_or_not_writable_and_a_file_that_is_missing_or_another(
    here: Facts, tmp_path: Path
) -> None:
    model = str(tmp_path / "model")
    said = problems(
        here,
        tmp_path,
        unshared=replace(here, marker=None),
        stale=replace(here, marker="of another study"),
        locked=replace(here, writes="Read-only file system"),
        empty=replace(here, files={model: None}),
        old=replace(here, files={model: 6}),
        silent="does not answer within 600 seconds",
    )
    assert said == [
        "node silent: does not answer within 600 seconds",
        f"the study's folder {tmp_path}: is not shared: what this process writes there is not seen on unshared, stale; "
        "name a folder on storage that every node mounts at the same place (NFS, a shared volume)",
        f"the study's folder {tmp_path}: cannot be written to on locked: Read-only file system; "
        "cells write their files there",
        f"{model}: not found on empty; put it on storage that all nodes mount",
        f"{model}: has another content on old than here; copy it anew",
    ]


def test_of_many_nodes_the_first_are_named(here: Facts, tmp_path: Path) -> None:
    apart = replace(here, marker=None)
    (said,) = problems(here, tmp_path, **{f"n{number}": apart for number in range(7)})
    assert "is not seen on n0, n1, n2, n3 and 3 more nodes;" in said
