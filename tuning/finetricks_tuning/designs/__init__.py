"""Designs: which configurations of its factors a study runs, and how their effects are estimated."""

from finetricks_tuning.designs.base import Design
from finetricks_tuning.designs.combinations import Factorial, Random
from finetricks_tuning.designs.one_at_a_time import Ablation, LeaveOneOut
from finetricks_tuning.designs.orthogonal_array import OrthogonalArray
from finetricks_tuning.designs.search import Search
from finetricks_tuning.designs.seed_search import SeedSearch
from finetricks_tuning.designs.two_level import FractionalFactorial, PlackettBurman

DESIGNS: dict[str, type[Design]] = {
    design.name: design
    for design in (
        Ablation,
        LeaveOneOut,
        PlackettBurman,
        FractionalFactorial,
        OrthogonalArray,
        Factorial,
        Random,
        Search,
        SeedSearch,
    )
}

__all__ = ["DESIGNS", "Design", "Factorial"]
