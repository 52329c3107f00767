"""What the commands print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from navnode.clock import now_ns
from navnode.commands.ui import standard_output
from navnode.files.artifacts import NS_PER_DAY, Artifact

from ..exchange import Exchanged
from ..results import found as results_found
from ..results import found_in_words, measured, values_in_words
from ..verdict import Calibration, plain


def show_calibration(found: Calibration[Any], out: Path | None) -> None:
    """The verdict and the result, then figures beside their pass marks; all numbers are in ``--json``."""
    console = standard_output()
    if found.passed:
        kept = f"; written to {out}" if out is not None else "; nothing was written (--out)"
        console.print(Text("PASS", "bold green"), kept, sep="", highlight=False)
        console.print(found_in_words(results_found(found)), markup=False, highlight=False)
    else:
        console.print(Text("FAIL", "bold red"), highlight=False)
    table = Table.grid(padding=(0, 2))
    for figure in map(measured, found.figures):
        mark = Text("✓", "green") if figure.kept else Text("✗", "red")
        table.add_row(figure.what, *values_in_words(figure), mark)
    console.print(table)


def show_artifact(found: Artifact[Any]) -> None:
    """Whose it is, until when it holds, and its figures."""
    console = standard_output()
    table = Table.grid(padding=(0, 2))
    age = f"{(now_ns() - found.created_ns) / NS_PER_DAY:.1f} days" if found.created_ns else ""
    left = f"{(found.expires_ns - now_ns()) / NS_PER_DAY:.1f} days" if found.expires_ns else "never"
    for name, value in (
        ("kind", found.kind),
        ("status", found.status),
        ("of", found.device),
        ("mode", found.mode),
        ("age", age),
        ("expires in", left),
        ("inputs", ", ".join(found.inputs)),
    ):
        table.add_row(Text(name, "bold"), value)
    console.print(table)
    console.print(found_in_words(results_found(found)), markup=False, highlight=False)
    gates = found.quality.get("gates", {})
    _print_figures(
        console,
        plain(msgspec.to_builtins(found.result)),
        found.quality,
        gates if isinstance(gates, dict) else {},
    )


def show_exchanged(found: Exchanged) -> None:
    """What another program's file holds."""
    table = Table.grid(padding=(0, 2))
    for (source, target), matrix in found.transforms.items():
        table.add_row(
            Text(f"{target}_from_{source}", "bold"), np.array2string(matrix, precision=4, suppress_small=True)
        )
    for label, at in found.points_mm.items():
        table.add_row(Text(label, "bold"), np.array2string(at, precision=3))
    for device, lag in found.lags_s.items():
        table.add_row(Text(device, "bold"), f"{1e3 * lag:.1f} ms late")
    if found.carm is not None:
        table.add_row(Text("carm", "bold"), str(found.carm))
    if found.angles_deg is not None:
        table.add_row(Text("angles", "bold"), "orbital {:.1f}, angulation {:.1f} degrees".format(*found.angles_deg))
    standard_output().print(table)


def _print_figures(
    console: Console, result: Mapping[str, object], quality: Mapping[str, object], gates: Mapping[str, float]
) -> None:
    table = Table.grid(padding=(0, 2))
    for name, value in [*result.items(), *quality.items()]:
        if name in ("gates", "covariance"):
            continue
        limit = f"gate {gates[name]:g}" if name in gates else ""
        table.add_row(Text(name, "bold"), _brief(value), limit)
    console.print(table)


def _brief(value: object) -> str:
    """A value of a document, short enough for a line."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        parts = [f"{name} {_brief(part)}" for name, part in list(value.items())[:12]]
        return ", ".join(parts) + (" ..." if len(value) > 12 else "")
    if isinstance(value, list):
        if any(isinstance(part, list | dict) for part in value) and len(value) > 4:
            return f"({len(value)})"
        if len(value) > 12:
            return f"[{', '.join(_brief(part) for part in value[:4])}, ...] ({len(value)})"
        return f"[{', '.join(_brief(part) for part in value)}]"
    return "-" if value is None else str(value)
