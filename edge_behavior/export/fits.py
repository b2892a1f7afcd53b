"""What an export fits on held-out users with the finished bundle: how model and habits mix, calibration, balance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.balance import FittedBalance, balance_offsets
from edge_behavior.core.calibration import CalibrationSet
from edge_behavior.core.fusion import Mixture
from edge_behavior.core.habits import HabitsConfig
from edge_behavior.errors import EdgebError, nearest
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.export.source import ExportSource
from edge_behavior.util.timebox import Forecast

if TYPE_CHECKING:
    from edge_behavior.fit.mixture import HeldOut

MODES = ("auto", "on", "off")


@dataclass(frozen=True)
class FitReport:
    """What became of one fit.

    Attributes:
        mode: auto, on or off.
        fitted: Whether the bundle carries it.
        reason: Why not; "" if it does.
        values: What was fitted and measured; empty if nothing was.
    """

    mode: str
    fitted: bool = False
    reason: str = "not asked for"
    values: Mapping[str, Any] = field(default_factory=dict)

    def skipped(self, reason: str) -> FitReport:
        """Not done, with the reason; a fit that is switched off keeps its own."""
        return self if self.mode == "off" else replace(self, reason=reason)

    def done(self, values: Mapping[str, Any]) -> FitReport:
        """Fitted."""
        return replace(self, fitted=True, reason="", values=values)

    def to_dict(self) -> dict[str, Any]:
        """As `--json` has it."""
        return {"mode": self.mode, "fitted": self.fitted, "reason": self.reason, **self.values}


@dataclass(frozen=True)
class Fits:
    """The fits, and the manifest that holds what they found; the balance is fitted where calibration is."""

    manifest: Manifest
    habits: FitReport
    calibration: FitReport
    balance: FitReport


def check_fitting(mode: str, what: str, source: ExportSource) -> None:
    """Refuse an unknown mode, and `on` without a dataset."""
    if mode not in MODES:
        raise EdgebError(f"unknown {what} mode '{mode}'", nearest(mode, MODES))
    if mode == "on" and source.data is None:
        raise EdgebError(f"{what} cannot be fitted: {source.data_note}", "pass the run's dataset with --data")


def fit_held_out(
    bundle: Path, manifest: Manifest, source: ExportSource, profile: ExportProfile, forecast: Forecast
) -> Fits:
    """Fit what the profile asks for.

    Args:
        bundle: The written bundle, which scores the users.
        manifest: Its manifest.
        source: With the dataset.
        profile: With the modes.
        forecast: With the time budget: in mode `auto` too little time is a reason to fit nothing.

    Raises:
        EdgebError: in mode `on`, too few users or windows.
    """
    habits, calibration, balance = (FitReport(m) for m in (profile.habits, profile.calibrate, profile.calibrate))

    def nothing(why: str) -> Fits:
        return Fits(manifest, habits.skipped(why), calibration.skipped(why), balance.skipped(why))

    if profile.habits == profile.calibrate == "off" or source.data is None:
        return nothing(source.data_note)
    # Here, since an export without a dataset needs no pyarrow.
    from edge_behavior.fit.calibrate import TooFewToCalibrateError, fit_calibration
    from edge_behavior.fit.mixture import TimeLimit, TooFewUsersError, TooLittleTimeError, fit_habits, score_held_out

    asked = "on" in (profile.habits, profile.calibrate)
    # A bundle whose habits are not fitted counts them by the defaults.
    config = HabitsConfig() if profile.habits == "off" else None
    try:
        held = score_held_out(bundle, source.data, config=config, limit=TimeLimit(forecast, insists=asked))
    except (TooFewUsersError, TooLittleTimeError) as error:
        if asked:
            raise
        return nothing(error.message)
    if profile.habits != "off":
        found = fit_habits(held).to_dict()
        manifest = replace(manifest, habits=Mixture.from_dict(found))
        habits = habits.done({"default": found["default"], "measured": found["measured"]})
    if profile.calibrate != "off":
        try:
            found = fit_calibration(held, fused=manifest.habits is not None).to_dict()
        except TooFewToCalibrateError as error:
            if profile.calibrate == "on":
                raise
            calibration, balance = calibration.skipped(error.message), balance.skipped(error.message)
        else:
            manifest = replace(manifest, calibration=CalibrationSet.from_dict(found, manifest.sources))
            calibration = calibration.done(found)
            manifest, balance = _fit_balance(held, manifest, balance)
    return Fits(manifest, habits, calibration, balance)


def _fit_balance(held: HeldOut, manifest: Manifest, report: FitReport) -> tuple[Manifest, FitReport]:
    """Fit the balance, and the calibration of the scores that it gives."""
    from edge_behavior.fit.balance import NoCountsError, fit_balance
    from edge_behavior.fit.calibrate import fit_calibration

    counts, fused = manifest.candidates.counts, manifest.habits is not None
    try:
        measured = fit_balance(held, counts, fused)
    except NoCountsError as error:
        return manifest, report.skipped(error.message)
    offsets = {source: balance_offsets(fitted, counts) for source, fitted in measured.fitted.items()}
    found = {
        "fitted": measured.fitted,
        "calibration": fit_calibration(held, fused, offsets=offsets).to_dict(),
        "measured": measured.to_dict(),
    }
    return replace(manifest, balance=FittedBalance.from_dict(found, manifest.sources)), report.done(found)
