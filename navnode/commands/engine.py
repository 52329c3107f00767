"""``navnode engine``: the inference engines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from navnode.commands.command import command
from navnode.commands.ui import Ui, messages, standard_output
from navnode.config.fields import Threads, option
from navnode.errors import NavError

if TYPE_CHECKING:  # engines are loaded only when a command uses them
    from navnode.reconstruction.engines import Engine, EngineName

app = typer.Typer()
engine = typer.Typer(
    help="List, check and build the engines that run the networks of the learned reconstruction.", no_args_is_help=True
)
app.add_typer(engine, name="engine")

_Model = Annotated[Path, option("Use your own networks, from `navnode train`.", "DIR")]


class ListRequest(msgspec.Struct, frozen=True, kw_only=True):
    """List the engines."""


class CheckRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Compare engines with plain FP32."""

    model: _Model | None = None
    threads: Threads = 0


class BuildRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Build TensorRT's plans."""

    model: _Model | None = None


class ListReport(msgspec.Struct, frozen=True, kw_only=True):
    """The engines, best first."""

    engines: list[Engine]
    uses: str
    """Method and engine that reconstruct volumes here."""


class CheckedEngine(msgspec.Struct, frozen=True, kw_only=True):
    """How far an engine is from plain FP32."""

    max_error_hu: float
    dice_change: float
    view_ms: float
    volume_ms: float
    good: bool
    """The difference is invisible in the volume."""


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """Engines by name."""

    engines: dict[EngineName, CheckedEngine]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A graph compiled by TensorRT."""

    bytes: int
    seconds: float
    was_there: bool


class BuildReport(msgspec.Struct, frozen=True, kw_only=True):
    """Plans by file name of their graph."""

    plans: dict[str, Plan]


@command(engine, ListRequest, name="list", example="navnode engine list")
def list_engines(request: ListRequest, ui: Ui) -> None:
    """List the engines that navnode supports, best first, and whether they run here."""
    from navnode.reconstruction import engines
    from navnode.reconstruction.choice import engine_name

    ui.show(ListReport(engines=engines.known(), uses=engine_name()), _draw_list)


@command(engine, CheckRequest, example="navnode engine check --json")
def check(request: CheckRequest, ui: Ui) -> None:
    """Compare every engine that runs here with plain FP32: error, change of bone, times; exit 1 if one is wrong."""
    from navnode.reconstruction import engines, models

    compared = engines.check(request.model or models.SHIPPED, request.threads)
    checked = {name: msgspec.convert(each, CheckedEngine, from_attributes=True) for name, each in compared.items()}
    ui.show(CheckReport(engines=checked), _draw_check)
    if wrong := [engines.title(name) for name, each in checked.items() if not each.good]:
        raise NavError(f"{', '.join(wrong)}: result differs from the FP32 reference")


@command(engine, BuildRequest, example="navnode engine build   (pip install tensorrt-rtx)")
def build(request: BuildRequest, ui: Ui) -> None:
    """Build TensorRT's plans ahead, so that the first start is quick; TensorRT for RTX needs no GPU for this."""
    from navnode.reconstruction import engines, models

    with messages.status("TensorRT is building …"):
        built = engines.build(request.model or models.SHIPPED)
    plans = {name: Plan(bytes=size, seconds=s, was_there=there) for name, (size, s, there) in built.items()}
    ui.show(BuildReport(plans=plans), _draw_plans)


def _draw_list(report: ListReport) -> None:
    table = Table("engine", "version", "runs here")
    for one in report.engines:
        table.add_row(one.title, one.version or "-", "yes" if one.runs else f"no: {one.why_not}")
    standard_output().print(table)
    standard_output().print(f"Volumes are reconstructed by: {report.uses}", highlight=False)


def _draw_check(report: CheckReport) -> None:
    from navnode.reconstruction import engines

    table = Table("engine", "largest error HU", "1 - Dice of bone", "ms per view", "ms per volume", "")
    for name, checked in report.engines.items():
        numbers = (f"{checked.max_error_hu:.3f}", f"{checked.dice_change:.5f}")
        times = (f"{checked.view_ms:.0f}", f"{checked.volume_ms:.0f}")
        table.add_row(engines.title(name), *numbers, *times, "fine" if checked.good else Text("wrong", "red"))
    standard_output().print(table)


def _draw_plans(report: BuildReport) -> None:
    for name, plan in report.plans.items():
        how = "already built" if plan.was_there else f"built in {plan.seconds:.1f} s"
        standard_output().print(f"{name}: {plan.bytes / 1e6:.1f} MB, {how}", highlight=False)
