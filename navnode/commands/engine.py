"""``navnode engine``: what runs the networks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from navnode.commands.options import (
    Json,
    Threads,
    messages,
    print_json,
)
from navnode.errors import NavError
from navnode.reconstruction.methods import engine_name

app = typer.Typer()


engine = typer.Typer(help="What runs the networks of the learned reconstruction.", no_args_is_help=True)
app.add_typer(engine, name="engine")


ModelOption = Annotated[
    Path | None, typer.Option("--model", metavar="DIR", help="Networks of your own, from `navnode train`.")
]


@engine.command("list", epilog="Example:  navnode engine list")
def engine_list(as_json: Json = False) -> None:
    """The engines that navnode knows, best first, and whether they run here."""
    from navnode.reconstruction import engines

    known = engines.known()
    if as_json:
        print_json({"engines": [asdict(one) for one in known], "uses": engine_name()})
        return
    table = Table("engine", "version", "runs here")
    for one in known:
        table.add_row(one.title, one.version or "-", "yes" if one.runs else f"no: {one.why_not}")
    Console().print(table)
    Console().print(f"Volumes are made by: {engine_name()}", highlight=False)


@engine.command("check", epilog="Example:  navnode engine check --json")
def engine_check(model: ModelOption = None, threads: Threads = 0, as_json: Json = False) -> None:
    """Every engine that runs here against plain FP32: largest error, change of bone, times. Exit 1 if one is wrong."""
    from navnode.reconstruction import engines

    compared = engines.check(model or engines.SHIPPED, threads)
    wrong = [engines.title(name) for name, found in compared.items() if not found.good]
    if as_json:
        print_json({"engines": {name: {**asdict(found), "good": found.good} for name, found in compared.items()}})
    else:
        table = Table("engine", "largest error HU", "1 - Dice of bone", "a view ms", "the volume ms", "")
        for name, found in compared.items():
            numbers = (f"{found.max_error_hu:.3f}", f"{found.dice_change:.5f}")
            times = (f"{found.view_ms:.0f}", f"{found.volume_ms:.0f}")
            table.add_row(engines.title(name), *numbers, *times, "fine" if found.good else "[red]wrong[/]")
        Console().print(table)
    if wrong:
        raise NavError(f"{', '.join(wrong)}: computes something else than FP32 does")


@engine.command("build", epilog="Example:  navnode engine build   (pip install tensorrt-rtx)")
def engine_build(model: ModelOption = None, as_json: Json = False) -> None:
    """Build TensorRT's plans ahead, so that the first start does not wait; needs no GPU with TensorRT for RTX."""
    from navnode.reconstruction import engines

    with messages.status("TensorRT parses and builds …"):
        built = engines.build(model or engines.SHIPPED)
    if as_json:
        keys = ("bytes", "seconds", "was_there")
        print_json({"plans": {name: dict(zip(keys, facts, strict=True)) for name, facts in built.items()}})
        return
    for name, (size, seconds, was_there) in built.items():
        how = "was there" if was_there else f"built in {seconds:.1f} s"
        Console().print(f"{name}: {size / 1e6:.1f} MB, {how}", highlight=False)
