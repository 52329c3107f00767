"""Commands are thin: what they do is the library's, and their options are described."""

from __future__ import annotations

import ast
import inspect
import textwrap

import pytest

from navnode.commands import mounted

MOST_LINES = 15


def every_command():
    found = []
    for name in [*mounted._OWN, *mounted._OTHERS]:
        command = mounted.loaded(name)
        for part, each in getattr(command, "commands", {"": command}).items():
            found.append(pytest.param(each, id=f"{name} {part}".strip()))
    return found


def body_lines(function) -> int:
    """Lines of a function below its signature and docstring."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    definition = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    body = definition.body[1:] if ast.get_docstring(definition) else definition.body
    return body[-1].end_lineno - body[0].lineno + 1


@pytest.mark.parametrize("command", every_command())
def test_a_command_is_thin(command):
    function = inspect.unwrap(command.callback)
    assert body_lines(function) <= MOST_LINES


@pytest.mark.parametrize("command", every_command())
def test_every_option_says_what_it_does(command):
    assert command.hidden or [option.name for option in command.params if not option.help] == []
