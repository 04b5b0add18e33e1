"""Composition: order, owners and wrappers, conflicts, and errors that name the trick."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from finetricks import ParamOptions, Progress, Stack, Trick, TrickConflict, TrickError, hookimpl
from finetricks.layers import Layers

HERE = Progress(step=3, total_steps=10, steps_per_epoch=5)
LAYERS = Layers(names=("block.0", "head"), parameters={"block.0": ("a",), "head": ("b",)}, modules={})


class Half(Trick):
    """Owns the schedule."""

    @hookimpl
    def schedule(self, progress: Progress) -> float:
        return 0.5


class Other(Trick):
    """Owns the schedule too."""

    @hookimpl
    def schedule(self) -> float:
        return 0.25


class Times(Trick):
    """Wraps the schedule."""

    by: float

    @hookimpl(wrapper=True)
    def schedule(self):
        return (yield) * self.by


class Plus(Trick):
    """Wraps the schedule."""

    what: float

    @hookimpl(wrapper=True)
    def schedule(self):
        return (yield) + self.what


def test_an_empty_stack_has_neutral_answers() -> None:
    stack = Stack()
    assert stack.schedule(HERE) == 1.0
    assert stack.freeze(HERE, LAYERS) == frozenset()
    assert stack.param_groups(nn.Linear(1, 1), LAYERS) == {}


def test_the_first_listed_wrapper_is_the_outermost() -> None:
    assert Stack([("half", Half()), ("times", Times(by=10)), ("plus", Plus(what=1))]).schedule(HERE) == (0.5 + 1) * 10
    assert Stack([("plus", Plus(what=1)), ("times", Times(by=10)), ("half", Half())]).schedule(HERE) == 0.5 * 10 + 1


def test_a_wrapper_wraps_the_default_when_nobody_owns() -> None:
    assert Stack([("times", Times(by=3))]).schedule(HERE) == 3.0
    assert Stack([("times", Times(by=3))], schedule=[0.1] * 10).schedule(HERE) == pytest.approx(0.3)


def test_two_owners_are_refused_by_name() -> None:
    with pytest.raises(TrickConflict, match="half and other both own the 'schedule' hook; pick one"):
        Stack([("half", Half()), ("other", Other())])


def test_declared_conflicts_and_requirements_are_all_reported() -> None:
    class Loner(Trick):
        """Stands alone."""

        conflicts: ClassVar = {"half": "both scale the rate"}
        requires: ClassVar = {"other": "reads its table"}

        @hookimpl
        def freeze(self) -> list[str]:
            return []

    with pytest.raises(TrickConflict) as error:
        Stack([("half", Half()), ("loner", Loner())])
    assert [str(problem) for problem in error.value.problems] == [
        "loner and half exclude one another: both scale the rate",
        "loner needs other: reads its table",
    ]


def test_a_trick_stands_once() -> None:
    with pytest.raises(TrickConflict, match=r"tricks\.half: stands twice"):
        Stack([("half", Half()), ("half", Half())])


def test_build_and_data_pass_on_what_the_one_before_gave() -> None:
    class Wrap(Trick):
        """Wraps the model."""

        name: str

        @hookimpl
        def build(self, model: nn.Module) -> nn.Module:
            return nn.Sequential(model, nn.Identity()) if self.name == "a" else nn.Sequential(nn.Flatten(), model)

    class Keep(Trick):
        """Changes nothing."""

        @hookimpl
        def build(self, model: nn.Module) -> None:
            model.seen = True

    linear = nn.Linear(1, 1)

    class Wrap2(Wrap):
        """Another class, so that both may stand in one recipe."""

    built = Stack([("a", Wrap(name="a")), ("keep", Keep()), ("b", Wrap2(name="b"))]).build(linear, seed=0)
    assert isinstance(built[0], nn.Flatten)
    assert built[1][0] is linear
    assert built[1].seen


def test_data_of_any_kind_can_be_given_back_as_it_is() -> None:
    class TrainOnly(Trick):
        """Leaves other splits as they are; forgets to return train."""

        @hookimpl
        def data(self, dataset: Any, split: str) -> Any:
            return None if split == "train" else dataset

    stack, rows = Stack([("train_only", TrainOnly())]), [{"labels": 1}]
    assert stack.data(rows, "valid", seed=0) is rows
    with pytest.raises(
        TrickError, match="'train_only' of .*, hook 'data': gave NoneType instead of a data set; return it"
    ):
        stack.data(rows, "train", seed=0)


def test_freezing_is_the_union_and_unknown_layers_are_refused() -> None:
    class Freeze(Trick):
        """Freezes one layer."""

        layer: str

        @hookimpl
        def freeze(self) -> list[str]:
            return [self.layer]

    class Freeze2(Freeze):
        """Another."""

    both = Stack([("one", Freeze(layer="block.0")), ("two", Freeze2(layer="head"))])
    assert both.freeze(HERE, LAYERS) == {"block.0", "head"}
    with pytest.raises(
        TrickError, match=r"trick 'one' of .*, hook 'freeze': no layer 'block.1' \(did you mean 'block.0'\?\)"
    ):
        Stack([("one", Freeze(layer="block.1"))]).freeze(HERE, LAYERS)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, None, "1"])
def test_a_schedule_gives_a_finite_factor(value: Any) -> None:
    class Bad(Trick):
        """Gives what it must not."""

        @hookimpl
        def schedule(self) -> Any:
            return value

    class Forgets(Trick):
        """A wrapper that forgets to return."""

        @hookimpl(wrapper=True)
        def schedule(self):
            yield

    if value is not None:
        with pytest.raises(TrickError, match="trick 'bad' of .*, hook 'schedule': gave .*; it gives a finite factor"):
            Stack([("bad", Bad())]).schedule(HERE)
    with pytest.raises(TrickError, match="trick 'forgets' of .*, hook 'schedule': gave None; .*does a wrapper return"):
        Stack([("forgets", Forgets())]).schedule(HERE)


def test_an_error_names_the_trick_and_the_hook() -> None:
    class Breaks(Trick):
        """Raises."""

        @hookimpl
        def regularize(self, model: nn.Module) -> torch.Tensor:
            raise ZeroDivisionError("no")

        @hookimpl(wrapper=True)
        def schedule(self):
            yield
            raise ZeroDivisionError("no")

    stack = Stack([("half", Half()), ("breaks", Breaks())])
    with pytest.raises(ZeroDivisionError) as error:
        stack.regularize(nn.Linear(1, 1), None)
    assert error.value.__notes__ == [f"raised by trick 'breaks' of {__file__} in its hook 'regularize'"]
    with pytest.raises(ZeroDivisionError) as error:
        stack.schedule(HERE)
    assert error.value.__notes__ == [f"raised by trick 'breaks' of {__file__} in its hook 'schedule'"]


def test_param_groups_are_checked() -> None:
    class Ask(Trick):
        """Asks for what it is told to."""

        key: str
        factor: float

        @hookimpl
        def param_groups(self) -> dict[str, ParamOptions]:
            return {self.key: ParamOptions(lr_factor=self.factor)}

    with pytest.raises(TrickError, match="no layer or parameter 'block.9'"):
        Stack([("ask", Ask(key="block.9", factor=1))]).param_groups(nn.Linear(1, 1), LAYERS)
    with pytest.raises(TrickError, match="lr_factor of 'a' is -1"):
        Stack([("ask", Ask(key="a", factor=-1))]).param_groups(nn.Linear(1, 1), LAYERS)


def test_penalties_are_summed_and_must_be_scalars() -> None:
    class Penalty(Trick):
        """A constant."""

        value: float | None
        shape: tuple[int, ...] = ()

        @hookimpl
        def regularize(self) -> torch.Tensor | None:
            return None if self.value is None else torch.full(self.shape, self.value)

    class Penalty2(Penalty):
        """Another."""

    model = nn.Linear(1, 1)
    assert Stack([("none", Penalty(value=None))]).regularize(model, None) is None
    both = Stack([("a", Penalty(value=1)), ("b", Penalty2(value=2))])
    assert both.regularize(model, None) == 3.0
    with pytest.raises(TrickError, match=r"shape \(2,\) instead of a scalar"):
        Stack([("a", Penalty(value=1, shape=(2,)))]).regularize(model, None)


def test_tricks_of_equal_values_can_stand_together() -> None:
    # pluggy compares plugins with ==.
    class Same(Trick):
        """Freezes the head."""

        layer: str = "head"

        @hookimpl
        def freeze(self) -> list[str]:
            return [self.layer]

    class Same2(Same):
        """So does this."""

    assert Stack([("a", Same()), ("b", Same2())]).freeze(HERE, LAYERS) == {"head"}
