"""The options that every routine has, and how a function becomes its command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from calibration.commands.call import Call, Options
from calibration.verdict import Calibration

_MEASURED = "Measurement"
_OUT = "What is written"

Poses = Annotated[Path | None, typer.Argument(metavar="POSES", help="tracker_from_tool: .npy (N, 4, 4) or CSV.")]
Tip = Annotated[
    tuple[float, float, float] | None, typer.Option("--tip", metavar="X Y Z", help="The tip, tool frame, mm.")
]
Pivot = Annotated[
    Path | None, typer.Option("--pivot", metavar="PIVOT.json", help="The pivot calibration that found the tip.")
]
Points = Annotated[Path, typer.Option(metavar="CSV", help="label,x_mm,y_mm,z_mm")]


def _common(
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate", metavar="KEY=VALUE", help="Another limit; repeat for several.", rich_help_panel=_MEASURED
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Random seed.", rich_help_panel=_MEASURED)] = 0,
    recording: Annotated[
        Path | None,
        typer.Option(
            "--recording",
            metavar="SESSION",
            help="Take poses from a recording (.mcap, or a folder of them) instead.",
            rich_help_panel=_MEASURED,
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            metavar="[OPTION=]NAME",
            help="A device that is recorded or heard; which option it is for, where there are several.",
            rich_help_panel=_MEASURED,
        ),
    ] = None,
    live: Annotated[
        str | None,
        typer.Option(
            "--live",
            metavar="HOST:PORT",
            help="Collect over OpenIGTLink, with guidance, until it is enough.",
            rich_help_panel=_MEASURED,
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="Collect no longer than this.", rich_help_panel=_MEASURED)
    ] = 120.0,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="ARTIFACT", help="Write the calibration, if it passed.", rich_help_panel=_OUT),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="REPORT.html", help="Write a page with plots.", rich_help_panel=_OUT),
    ] = None,
    device_of: Annotated[
        str, typer.Option("--of", metavar="NAME", help="Which tool, C-arm or detector it is.", rich_help_panel=_OUT)
    ] = "",
    mode: Annotated[
        str, typer.Option("--mode", metavar="MODE", help="The detector's mode.", rich_help_panel=_OUT)
    ] = "",
    valid_days: Annotated[
        float | None, typer.Option("--valid-days", min=0, help="It expires after this; 0: never.", rich_help_panel=_OUT)
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on standard output, nothing else.")
    ] = False,
) -> None:
    """What every routine is told beside its own."""


class Command(TyperCommand):
    """``--tip`` takes three numbers, or the calibration that found them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for n, text in enumerate(args[:-1]):
            if text == "--tip" and not _is_number(args[n + 1]):
                args = [*args[:n], "--pivot", *args[n + 1 :]]
                break
        return super().parse_args(ctx, args)


def add_routine(app: typer.Typer, function: Callable[..., Calibration[Any]], example: str) -> None:
    """A command of a function ``(call, its own options) -> Calibration``; the common options are added to it."""
    common = inspect.signature(_common).parameters
    own = list(inspect.signature(function).parameters.values())[1:]

    @functools.wraps(function)
    def command(**given: Any) -> None:
        call = Call(Options(**{name: given.pop(name) for name in common}))
        call.finish(call.collected(lambda: function(call, **given)))

    hints = {**get_type_hints(function, include_extras=True), **get_type_hints(_common, include_extras=True)}
    hints.pop("call")
    command.__annotations__ = {**hints, "return": None}
    told: Any = command
    told.__signature__ = inspect.Signature(
        [p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY) for p in [*own, *common.values()]]
    )
    app.command(name=function.__name__, epilog=f"Example:  navnode calibrate {example}", cls=Command)(command)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
