"""Builds commands from requests: a field's type, default, bounds and description give its option or argument."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import typer
from msgspec import NODEFAULT, Meta
from msgspec.structs import FieldInfo
from typer.core import TyperCommand

from navnode.commands.ui import Ui
from navnode.config.fields import Shown
from navnode.errors import ConfigError
from navnode.files.ordinary import refuse_special

R = TypeVar("R", bound=msgspec.Struct)
Body = Callable[[R, Ui], None]
_JSON = typer.Option("--json", help="Print one JSON document on standard output, nothing else.")


def command(
    app: typer.Typer,
    request: type[R],
    *,
    example: str | tuple[str, ...],
    name: str | None = None,
    json: bool = True,
    cls: type[TyperCommand] | None = None,
) -> Callable[[Body[R]], Body[R]]:
    """Make a function ``(request, ui)`` a command; its docstring is the help.

    Args:
        request: type of the request; its fields become options, in their order.
        example: one or several example calls.
        name: name of the command, if not the function's.
        json: add ``--json`` as the last option.
        cls: subclass of Typer's command for a parser that differs.
    """

    def mounted(function: Body[R]) -> Body[R]:
        @functools.wraps(function)
        def called(**arguments: Any) -> None:
            with Ui(arguments.pop("as_json", False)) as ui:
                function(to_request(request, arguments), ui)

        parameters = list(_parameters(request))
        if json:
            parameters.append(_parameter("as_json", bool, _JSON, False))
        called.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": None}
        generated: Any = called
        generated.__signature__ = inspect.Signature(parameters)
        app.command(name or function.__name__, epilog=_epilog(example), cls=cls)(called)
        return function

    return mounted


def to_request(request: type[R], arguments: Mapping[str, Any]) -> R:
    """Build the request from the arguments that Typer parsed.

    Raises:
        ConfigError: two options exclude each other, a path is a device or a pipe, or the request refuses its values.
    """
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(request):
        switches = shown(field).switches
        chosen = [value for value in switches if arguments[_identifier(value)]]
        if len(chosen) > 1:
            raise ConfigError(shown(field).one_only)
        if switches:
            values |= {field.name: chosen[0]} if chosen else {}
        elif not _is_repeated(field):
            values[field.name] = arguments[field.name]
        elif arguments[field.name]:
            values[field.name] = tuple(arguments[field.name])
    for value in values.values():
        for path in value if isinstance(value, tuple) else (value,):
            if isinstance(path, Path):
                refuse_special(path)
    return request(**values)


def shown(field: FieldInfo) -> Shown:
    """How a field is presented on the command line."""
    extras = [meta.extra["shown"] for meta in _metas(field.type) if meta.extra]
    return extras[-1] if extras else Shown()


def _parameters(request: type[msgspec.Struct]) -> Iterator[inspect.Parameter]:
    plain = get_type_hints(request)
    for field in msgspec.structs.fields(request):
        if switches := shown(field).switches:
            for value, text in switches.items():
                yield _parameter(_identifier(value), bool, typer.Option(f"--{value}", help=text), False)
        elif _is_repeated(field):
            default = NODEFAULT if field.required else None
            items = GenericAlias(list, get_args(plain[field.name])[:1])  # Typer knows lists, not tuples of any length
            yield _parameter(field.name, items, _info(field), default)
        else:
            yield _parameter(field.name, plain[field.name], _info(field), field.default)


def _info(field: FieldInfo) -> Any:
    """Typer's description of an option or argument."""
    presented, metas = shown(field), list(_metas(field.type))
    texts = [meta.description for meta in metas if meta.description]
    about: dict[str, Any] = {
        "help": texts[-1] if texts else None,
        "metavar": presented.metavar or None,
        "min": next((meta.ge for meta in metas if meta.ge is not None), None),
        "max": next((meta.le for meta in metas if meta.le is not None), None),
    }
    if presented.is_argument:
        return typer.Argument(**about)
    flag = presented.flag or f"--{field.name.replace('_', '-')}"
    return typer.Option(flag, rich_help_panel=presented.panel or None, **about)


def _metas(hint: Any) -> Iterator[Meta]:
    """Descriptions within a type, the outermost last."""
    for part in get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint):
        yield from _metas(part)
    yield from (each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Meta))


def _is_repeated(field: FieldInfo) -> bool:
    hint = field.type
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis


def _identifier(value: str) -> str:
    return value.replace("-", "_")


def _parameter(name: str, hint: Any, info: Any, default: Any) -> inspect.Parameter:
    default = inspect.Parameter.empty if default is NODEFAULT else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[hint, info], default=default)


def _epilog(example: str | tuple[str, ...]) -> str:
    return f"Example:  {example}" if isinstance(example, str) else f"Examples:  {'   |   '.join(example)}"
