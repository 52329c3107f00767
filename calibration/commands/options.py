"""How a routine becomes its command."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand

from navnode.commands.command import command
from navnode.commands.ui import Ui

from ..requests import RoutineRequest
from ..verdict import Calibration
from .call import Call

R = TypeVar("R", bound=RoutineRequest)


class Command(TyperCommand):
    """``--tip`` takes three numbers, or the calibration that found them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for n, text in enumerate(args[:-1]):
            if text == "--tip" and not _is_number(args[n + 1]):
                args = [*args[:n], "--pivot", *args[n + 1 :]]
                break
        return super().parse_args(ctx, args)


def add_routine(app: typer.Typer, routine: Callable[[R, Call], Calibration[Any]], example: str) -> None:
    """A command of a routine, which is asked what its first parameter's type says."""
    request: type[R] = get_type_hints(routine)["request"]

    @functools.wraps(routine)
    def body(asked: R, ui: Ui) -> None:
        call = Call(asked, ui)
        call.finish(call.collected(lambda: routine(asked, call)))

    command(app, request, example=f"navnode calibrate {example}", cls=Command)(body)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
