"""The population's table as a step of the export: counted from the training events of the run's dataset."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_behavior.bundle.population import PopulationInfo
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.population import PopulationTable
from edge_behavior.errors import EdgebError
from edge_behavior.export.fits import FitReport, check_fitting
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.export.source import ExportSource

_HINT = "import the log of more users, or export with --no-population"


@dataclass(frozen=True)
class ExportedPopulation:
    """What a bundle gets: a table with its description, or neither, and the report."""

    table: PopulationTable | None
    info: PopulationInfo | None
    report: FitReport


def check_population(source: ExportSource, mode: str) -> None:
    """Refuse an unknown mode, and `on` without a dataset."""
    check_fitting(mode, "population", source)


def export_population(source: ExportSource, profile: ExportProfile, candidates: CandidateSet) -> ExportedPopulation:
    """Count the table as the profile asks.

    Args:
        source: With the dataset and the layout.
        profile: With the mode and the largest size.
        candidates: The bundle's, whose counts the widest level backs off to.

    Raises:
        EdgebError: in mode `on`, no context has enough users.
    """
    report = FitReport(profile.population)
    if profile.population == "off" or source.data is None:
        return ExportedPopulation(None, None, report.skipped(source.data_note))
    # Here, since an export without a dataset needs no pyarrow.
    from edge_behavior.data.dataset import Dataset
    from edge_behavior.fit.population import count_population

    events = replace(Dataset.open(source.data).events("train"), candidates=candidates)
    found = count_population(events, places=source.layout.places, max_bytes=profile.population_bytes)
    if not found.table.contexts:
        few = f"no behavior has {found.table.config.min_users} of the {found.users} training users in one context"
        if profile.population == "on":
            raise EdgebError(f"{source.data}: {few}", _HINT)
        return ExportedPopulation(None, None, report.skipped(few))
    info = PopulationInfo.of(found.table, found.users)
    values = {"contexts": info.contexts, "users": info.users, "bytes": info.bytes, "dropped": dict(found.dropped)}
    return ExportedPopulation(found.table, info, report.done(values))
