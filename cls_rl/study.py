"""The evidence as the claims and tables ask for it: averages over main sets, curves, the transfer matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from cls_rl import data_sets
from cls_rl.arms import MAIN_SETS, MATRIX_SEED, SWEPT, ZERO
from cls_rl.evidence import Curves, Evidence, Key, RunKey
from cls_rl.resampling import Array, Draws, Statistic, average, harmonic, statistic
from cls_rl.rewards import Method

TRANSFERRED = tuple(name for name in data_sets.SETS if name != SWEPT)  # learning rates were chosen on SWEPT
FEW, NEW = "few_shot", "base_to_new"


class Study:
    """The evidence, its resamples, and which sets have all that a claim needs."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence, self.draws = evidence, Draws(evidence)

    def sets(self, setting: str, *arms: str) -> list[str]:
        """Main sets that all arms have at least one common seed of."""
        return [name for name in MAIN_SETS if self.seeds(setting, name, *arms)]

    def seeds(self, setting: str, name: str, *arms: str) -> list[int]:
        tests = ("base", "new") if setting == NEW else (name,)
        found = [set(self.evidence.seeds(setting, name, test, *arms)) for test in tests]
        return sorted(set.intersection(*found))

    def accuracy(self, setting: str, arm: str, arms: Sequence[str], test: str = "", **how: str) -> Array:
        """Mean over the sets that all `arms` have, on their common seeds; `test`: base or new, if halves."""
        draws = [
            self.draws.share(setting, arm, name, test or name, self.seeds(setting, name, *arms), **how)
            for name in self.sets(setting, *arms)
        ]
        return average(draws)

    def difference(self, setting: str, a: str, b: str, test: str = "") -> Statistic:
        """Accuracy of `a` minus `b`; `test` H is the harmonic mean of the averages."""
        first, second = (self._of(setting, arm, (a, b), test) for arm in (a, b))
        where = {FEW: "few-shot"}.get(setting, test or setting)
        return statistic(f"{a} - {b}, {where}", first - second)

    def _of(self, setting: str, arm: str, arms: Sequence[str], test: str) -> Array:
        if test == "H":
            return harmonic(*(self.accuracy(setting, arm, arms, half) for half in ("base", "new")))
        return self.accuracy(setting, arm, arms, test)

    def curves(
        self, setting: str, arms: Sequence[str], names: Sequence[str]
    ) -> dict[str, list[list[Curves]]]:
        """set -> per arm -> per common seed: the curves; sets without a common seed are left out."""
        found = {}
        for name in names:
            seeds = set.intersection(*(set(self.evidence.runs(setting, arm, name)) for arm in arms))
            if seeds:
                keys = [[RunKey(setting, arm, name, seed) for seed in sorted(seeds)] for arm in arms]
                found[name] = [[self.evidence.curves[key] for key in of] for of in keys]
        return found

    def over_curves(
        self,
        setting: str,
        arms: Sequence[str],
        number: Callable[..., float],
        names: Sequence[str] = MAIN_SETS,
    ) -> Array:
        """Mean over sets and seeds of `number(set, curves of each arm)`."""
        draws = []
        for name, of in self.curves(setting, arms, names).items():
            values = [number(name, *runs) for runs in zip(*of, strict=True)]
            draws.append(self.draws.over_runs(setting, name, values))
        return average(draws)

    # ---- the transfer matrix

    def has_matrix(self, *methods: Method) -> bool:
        """Whether every set has its row and its column in every method's matrix."""
        return all(self.has_cell(m, a, b) for m in methods for a in data_sets.SETS for b in data_sets.SETS)

    def has_cell(self, method: Method, tuned: str, test: str) -> bool:
        after = Key(FEW, method, tuned, test, MATRIX_SEED)
        return {after, Key(FEW, ZERO[method], test, test, MATRIX_SEED)} <= self.evidence.cells.keys()

    def change(self, method: Method, tuned: str, test: str, part: str = "exact") -> Array:
        """Draws of one cell of the matrix."""
        return self.draws.change(method, ZERO[method], tuned, test, [MATRIX_SEED], part)

    def off_diagonal(self, method: Method, part: str = "exact") -> Array:
        return self.draws.over_rows(partial(self.change, method, part=part), TRANSFERRED)
