"""A bundle's manifest for people."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from edge_behavior.commands.shown.export_report import show_parity

if TYPE_CHECKING:
    from edge_behavior.bundle.manifest import BaseModelInfo
    from edge_behavior.core.license import License


def _base_model(model: BaseModelInfo) -> str:
    """Name, hash and license of a backbone, without the license's texts."""
    from edge_behavior.core.license import license_lines

    first, *others = license_lines(model.license)
    lines = [f"name: {model.name}", f"weights_sha256: {model.weights_sha256}", f"license: {first}"]
    lines += [f"    {line}" for line in others]
    if model.license is not None and model.license.texts:
        lines.append(f"    {', '.join(model.license.texts)}: see --license")
    return "\n".join(lines)


def license_text(stated: License | None) -> str:
    """Everything that is stated of a license, its texts included."""
    from edge_behavior.core.license import license_lines

    texts = {} if stated is None else stated.texts
    return "\n\n".join(["\n".join(license_lines(stated)), *(f"{name}\n\n{text}" for name, text in texts.items())])


def show_manifest(manifest: dict[str, Any], base_model: BaseModelInfo) -> None:
    """A table of its fields, and the parity table."""
    from rich.table import Table

    from edge_behavior.core.fusion import SOURCES
    from edge_behavior.evaluation.balance_tables import balance_lines
    from edge_behavior.evaluation.calibration_tables import calibration_lines
    from edge_behavior.util.numbers import file_size
    from edge_behavior.util.terminal import open_console

    table = Table("field", "value", title="edgeb bundle (hashes verified)")
    for key, value in manifest.items():
        if key == "candidates":
            text = f"{len(value['labels'])}: " + ", ".join(value["labels"])
        elif key == "parity" and value is not None:
            text = f"measured on {value['windows']} windows, see below"
        elif key == "base_model":
            text = _base_model(base_model)
        elif key == "evaluation":
            text = ", ".join(f"{name}" for name in value) or "–"
        elif key == "calibration" and value is not None:
            text = calibration_lines(value, [name for name in SOURCES if name in value])
        elif key == "balance" and value is not None:
            text = balance_lines(value, [name for name in SOURCES if name in value["fitted"]])
        elif key == "population" and value is not None:
            text = (
                f"{value['contexts']:,} contexts of {value['users']:,} users, {file_size(value['bytes'])}; "
                f"every count stands on {value['config']['min_users']} users or more"
            )
        elif isinstance(value, dict):
            text = "\n".join(f"{k}: {v}" for k, v in value.items())
        else:
            text = str(value)
        table.add_row(key.replace("_", " "), text)
    open_console().print(table)
    if manifest["parity"] is not None:
        show_parity(manifest["parity"], sys.stdout)
