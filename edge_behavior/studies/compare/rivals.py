"""Systems over a language model as contenders: the recipe's backbone is one run's, shared by all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_behavior.baselines.kept_adapter import BACKBONE_RUN
from edge_behavior.baselines.language.backbone import Language
from edge_behavior.baselines.language.rival import Rival
from edge_behavior.baselines.system import Fitted
from edge_behavior.studies.compare.contenders import Bench, Other
from edge_behavior.studies.compare.plan import Point
from edge_behavior.studies.runs.planned import PlannedRun, changed
from edge_behavior.studies.runs.runner import do_run, train_until
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.stage_list import STAGE_NAMES

# The last stage of the run that has the backbone and nothing else.
_STAGE = STAGE_NAMES[0]


@dataclass(frozen=True)
class RivalContender:
    """A system of `baselines.language`; what is tuned takes the recipe's targets and the rates of tuned models.

    Attributes:
        kind: The system.
        settings: Those that are not its own by default.
    """

    kind: type[Rival]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As `--systems` takes it."""
        return self.kind.name

    @property
    def title(self) -> str:
        """As tables show it."""
        return self.kind.title

    @property
    def needs(self) -> frozenset[str]:
        """What a log must have."""
        return self.kind.needs

    def learns(self, base: Recipe) -> bool:
        """Whether a seed changes it."""
        return self.kind.learns

    def swept(self, base: Recipe) -> frozenset[str]:
        """Training size."""
        return frozenset({"targets"})

    def choose_rate(self, bench: Bench) -> tuple[float, Mapping[float, float]] | None:
        """See `Other.choose_rate`."""
        return self._other(bench).choose_rate(bench)

    def fit(self, bench: Bench, seed: int, point: Point | None, rate: float | None) -> Fitted:
        """See `Other.fit`."""
        return self._other(bench).fit(bench, seed, point, rate)

    def clean(self, bench: Bench, seed: int, point: Point | None) -> None:
        """See `Other.clean`."""
        self._other(bench).clean(bench, seed, point)

    def _other(self, bench: Bench) -> Other:
        asked = bench.asked
        language = Language.of_run(_backbone_run(bench), asked.recipe)
        rates = {"rates": asked.sizes.rates} if self.kind.tunes else {}
        return Other(
            self.kind(language, **{**rates, **self.settings}),
            asked.recipe.a_tuning.max_targets if self.kind.tunes else None,
        )


def _backbone_run(bench: Bench) -> RunFolder:
    """The run whose backbone all of them take, made where it is missing."""
    base = bench.asked.recipe
    recipe = changed(
        base, {"a_tuning.method": "none", "b_tuning.method": "none"}, base.seed, BACKBONE_RUN, "the backbone"
    )
    if not bench.folder.finished(BACKBONE_RUN, _STAGE):
        do_run(PlannedRun(BACKBONE_RUN, base.seed, recipe), bench.dataset, bench.folder, train_until(_STAGE))
    return RunFolder.open(bench.folder.run_path(BACKBONE_RUN))
