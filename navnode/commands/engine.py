"""``navnode engine``: what runs the networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from navnode.commands.command import command
from navnode.commands.ui import Ui, messages
from navnode.errors import NavError
from navnode.request import Threads, option

if TYPE_CHECKING:  # engines are loaded when they are asked for
    from navnode.reconstruction.engines import Engine, EngineName

app = typer.Typer()
engine = typer.Typer(help="What runs the networks of the learned reconstruction.", no_args_is_help=True)
app.add_typer(engine, name="engine")

_Model = Annotated[Path, option("Use networks of your own, from `navnode train`.", "DIR")]


class ListRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The engines."""


class CheckRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Engines against plain FP32."""

    model: _Model | None = None
    threads: Threads = 0


class BuildRequest(msgspec.Struct, frozen=True, kw_only=True):
    """TensorRT's plans."""

    model: _Model | None = None


class ListReport(msgspec.Struct, frozen=True, kw_only=True):
    """The engines, best first."""

    engines: list[Engine]
    uses: str
    """What makes volumes."""


class CheckedEngine(msgspec.Struct, frozen=True, kw_only=True):
    """How far an engine is from plain FP32."""

    max_error_hu: float
    dice_change: float
    view_ms: float
    volume_ms: float
    good: bool
    """Nothing that can be seen."""


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """Engines by name."""

    engines: dict[EngineName, CheckedEngine]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A graph as TensorRT runs it."""

    bytes: int
    seconds: float
    was_there: bool


class BuildReport(msgspec.Struct, frozen=True, kw_only=True):
    """Plans by the file of their graph."""

    plans: dict[str, Plan]


@command(engine, ListRequest, name="list", example="navnode engine list")
def list_engines(request: ListRequest, ui: Ui) -> None:
    """List the engines that navnode knows, best first, and whether they run here."""
    from navnode.reconstruction import engines
    from navnode.reconstruction.methods import engine_name

    ui.show(ListReport(engines=engines.known(), uses=engine_name()), _draw_list)


@command(engine, CheckRequest, example="navnode engine check --json")
def check(request: CheckRequest, ui: Ui) -> None:
    """Compare every engine that runs here with plain FP32: error, change of bone, times. Exit 1 if one is wrong."""
    from navnode.reconstruction import engines

    compared = engines.check(request.model or engines.SHIPPED, request.threads)
    found = {name: msgspec.convert(each, CheckedEngine, from_attributes=True) for name, each in compared.items()}
    ui.show(CheckReport(engines=found), _draw_check)
    if wrong := [engines.title(name) for name, each in found.items() if not each.good]:
        raise NavError(f"{', '.join(wrong)}: result differs from the FP32 reference")


@command(engine, BuildRequest, example="navnode engine build   (pip install tensorrt-rtx)")
def build(request: BuildRequest, ui: Ui) -> None:
    """Build TensorRT's plans ahead, so that the first start does not wait; needs no GPU with TensorRT for RTX."""
    from navnode.reconstruction import engines

    with messages.status("TensorRT parses and builds …"):
        built = engines.build(request.model or engines.SHIPPED)
    plans = {name: Plan(bytes=size, seconds=s, was_there=there) for name, (size, s, there) in built.items()}
    ui.show(BuildReport(plans=plans), _draw_plans)


def _draw_list(report: ListReport) -> None:
    table = Table("engine", "version", "runs here")
    for one in report.engines:
        table.add_row(one.title, one.version or "-", "yes" if one.runs else f"no: {one.why_not}")
    Console().print(table)
    Console().print(f"Volumes are made by: {report.uses}", highlight=False)


def _draw_check(report: CheckReport) -> None:
    from navnode.reconstruction import engines

    table = Table("engine", "largest error HU", "1 - Dice of bone", "a view ms", "the volume ms", "")
    for name, found in report.engines.items():
        numbers = (f"{found.max_error_hu:.3f}", f"{found.dice_change:.5f}")
        times = (f"{found.view_ms:.0f}", f"{found.volume_ms:.0f}")
        table.add_row(engines.title(name), *numbers, *times, "fine" if found.good else "[red]wrong[/]")
    Console().print(table)


def _draw_plans(report: BuildReport) -> None:
    for name, plan in report.plans.items():
        how = "was there" if plan.was_there else f"built in {plan.seconds:.1f} s"
        Console().print(f"{name}: {plan.bytes / 1e6:.1f} MB, {how}", highlight=False)
