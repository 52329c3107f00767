"""The reference of commands, from the commands themselves: what ``--help`` says, option by option."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any

import typer

from navnode.cli import app
from navnode.commands.mounted import loaded
from sitepages.markdown import code, inline, table, toctree

__all__ = ["each_command", "pages"]


def pages() -> dict[str, str]:
    """A page for every command, and a list of them."""
    known = dict(_top_level())
    rows = [
        (f"[{code(f'navnode {name}')}](commands/{name}.md)", inline(_summary(each))) for name, each in known.items()
    ]
    index = (
        "# Commands\n\nEvery command ends with 0 when done, 1 when its work failed (one line says why), and 2 when an "
        "argument or the configuration is wrong. With `--json` standard output is one JSON document.\n\n"
    )
    index += table(("command", ""), rows) + toctree((f"commands/{name}" for name in known), hidden=True)
    return {"commands.md": index} | {
        f"commands/{name}.md": "".join(_section(called, each, name == called) for called, each in _tree(name, command))
        for name, command in known.items()
    }


def each_command() -> Iterator[tuple[str, Any]]:
    """Every command and command within a family, by what is typed after ``navnode``."""
    for name, command in _top_level():
        yield from _tree(name, command)


def _top_level() -> Iterator[tuple[str, Any]]:
    for name, listed in typer.main.get_group(app).commands.items():
        if not listed.hidden:
            yield name, loaded(name)


def _tree(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    for part, below in getattr(command, "commands", {}).items():
        yield from _tree(f"{name} {part}", below)


def _section(name: str, command: Any, first: bool) -> str:
    text = f"{'#' if first else '##'} navnode {name}\n\n"
    for paragraph in (command.help or "").split("\n\n"):
        text += inline(paragraph) + "\n\n"
    if command.epilog:
        text += "    " + "\n    ".join(examples(command.epilog)) + "\n\n"
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    if arguments:
        text += table(("argument", "", "default"), map(_row, arguments))
    options = [each for each in command.params if each.param_type_name == "option" and not each.hidden]
    for panel in dict.fromkeys(getattr(each, "rich_help_panel", None) for each in options):
        text += f"**{panel}**\n\n" if panel else ""
        rows = [_row(each) for each in options if getattr(each, "rich_help_panel", None) == panel]
        text += table(("option", "", "default"), rows)
    return text


def examples(epilog: str) -> list[str]:
    """The example calls of a command's help, one a line."""
    _, _, calls = epilog.replace("\\[", "[").partition(":")
    return [" ".join(each.split()) for each in calls.split("   |   ")]


def _row(parameter: Any) -> tuple[str, str, str]:
    shown = ", ".join(code(flag) for flag in [*parameter.opts, *parameter.secondary_opts])
    if parameter.param_type_name == "argument":
        shown = code(parameter.metavar or parameter.name.upper())
    elif not parameter.is_flag:
        shown += " " + code(parameter.metavar or _kind(parameter))
    limits = _limits(parameter)
    text = inline((parameter.help or "").replace("\\[", "["))
    return shown, text + (f" ({limits})" if limits else ""), _default(parameter)


def _kind(parameter: Any) -> str:
    """What stands for a value that has no name of its own."""
    annotation = parameter.type_descriptor.annotation
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "|".join(str(each.value) for each in annotation)
    return {int: "INTEGER", float: "NUMBER", str: "TEXT"}.get(annotation, "PATH")


def _limits(parameter: Any) -> str:
    low, high = getattr(parameter, "min", None), getattr(parameter, "max", None)
    if low is None and high is None:
        return ""
    return f"at least {low:g}" if high is None else f"at most {high:g}" if low is None else f"{low:g} to {high:g}"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if value is None or value is False or value == "" or value == () or callable(value) or "UNSET" in repr(value):
        return ""
    return code(str(getattr(value, "value", value)))


def _summary(command: Any) -> str:
    return str(command.help or "").partition("\n\n")[0]
