"""Public names exist, say what they do, and say which errors they raise."""

import ast
import importlib
import inspect
import itertools
import pkgutil
import re
import textwrap
from pathlib import Path

import pytest

import calibration
import navnode
from navnode import errors

_NAV_ERRORS = {
    name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.NavError)
}


def _public_modules():
    """Every module that declares ``__all__``, and can be imported here."""
    for package in (navnode, calibration):
        names = [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
        for name in [package.__name__, *sorted(names)]:
            if name in ("navnode.__main__", "navnode.native.libnavnode_native"):  # runs the command; is no module
                continue
            try:
                module = importlib.import_module(name)
            except ModuleNotFoundError as error:
                if (error.name or "").split(".")[0] in ("navnode", "calibration"):
                    raise
                continue  # an optional package is not installed; tests/test_rooms.py says which
            if "__all__" in vars(module):
                yield module


_MODULES = list(_public_modules())
_NAMES = [(module, name) for module in _MODULES for name in module.__all__]


def _documented(value):
    """The functions, classes and methods behind a public name, with what to call them."""
    if inspect.isfunction(value):
        yield value.__qualname__, value
    elif inspect.isclass(value) and value.__module__.split(".")[0] in ("navnode", "calibration"):
        yield value.__qualname__, value
        for name, member in vars(value).items():
            part = member.fget if isinstance(member, property) else member
            part = part.__func__ if isinstance(part, staticmethod | classmethod) else part
            if not name.startswith("_") and inspect.isfunction(part) and part.__module__ == value.__module__:
                yield part.__qualname__, part


def _overrides(value, name):
    """Whether a method's documentation is that of the base class it overrides."""
    return any(getattr(base, name, None) is not None for base in value.__mro__[1:])


def _raised(function):
    """Names of NavErrors that a function's own body raises; nested functions and what is caught again are its own."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            called = node.exc.func
            name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
            if name in _NAV_ERRORS:
                yield name


def test_something_is_public():
    assert {"navnode.igtl", "navnode.registration", "navnode.config"} <= {module.__name__ for module in _MODULES}


def test_every_module_lists_its_public_names():
    """Modules of commands offer commands, not names; those that begin with an underscore offer nothing."""
    root = Path(navnode.__file__).parent.parent
    lacking = [
        str(path.relative_to(root))
        for package in ("navnode", "calibration")
        for path in sorted((root / package).rglob("*.py"))
        if not path.name.startswith("_") and path.parent.name != "commands" and "__all__" not in path.read_text()
    ]
    assert not lacking


@pytest.mark.parametrize("module", _MODULES, ids=lambda module: module.__name__)
def test_a_public_list_names_what_is_there_once(module):
    assert len(set(module.__all__)) == len(module.__all__)
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert not missing


@pytest.mark.parametrize("module", _MODULES, ids=lambda module: module.__name__)
def test_public_functions_classes_and_methods_have_docstrings(module):
    lacking = []
    for name in module.__all__:
        value = getattr(module, name)
        for called, part in _documented(value):
            if not (part.__doc__ or "").strip() and not (
                inspect.isclass(value) and part is not value and _overrides(value, part.__name__)
            ):
                lacking.append(called)
    assert not lacking


@pytest.mark.parametrize("module", _MODULES, ids=lambda module: module.__name__)
def test_docstrings_say_which_errors_are_raised(module):
    silent = []
    for name in module.__all__:
        value = getattr(module, name)
        for called, part in _documented(value):
            if inspect.isclass(part):
                part = vars(part).get("__init__")
                if not inspect.isfunction(part) or part.__code__.co_filename.startswith("<"):  # a dataclass's
                    continue
                documented = value.__doc__ or ""  # arguments and errors of a constructor are in the class's docstring
            else:
                documented = inspect.getdoc(part) or ""
            if any(_raised(part)) and "Raises:" not in documented:
                silent.append(called)
    assert not silent


_SHAPE = re.compile(
    r"\([A-Za-z0-9_*/+ .]+,[^()]*\)|_from_|[Oo]f any shape|\d ?[x×] ?\d|\bscalar\b|\bsame shape\b|\blike ``"
)
_UNIT = re.compile(
    r"(^|_)(mm|px|rad|deg|ns|ms|s|hz|fps|hu|db|cm2|cm3|msv|bytes|seconds|minutes|hours|days|gigabytes"
    r"|share|fraction|ratio|factor|p\d\d|max|median)$"
)
_QUANTITY = re.compile(r"\b(mm|px|rad|deg|ms|s|HU|counts|[Ss]hare|ratio|[Ss]pread|[Dd]istribution)\b|\d\.\.1\b")


def _quantities(part):
    """Arguments and fields that are arrays or floats, as (name, annotation, what is written about it)."""
    whole = inspect.getdoc(part) or ""
    if not inspect.isclass(part):
        return [(name, str(what), whole) for name, what in part.__annotations__.items()]
    body = ast.parse(textwrap.dedent(inspect.getsource(part))).body[0].body
    said = {}
    for field, after in itertools.zip_longest(body, body[1:]):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            said[field.target.id] = (ast.unparse(field.annotation), text)
    return [
        (name, what, f"{name}: {text}\n{whole}" if text else whole)
        for name, (what, text) in said.items()
        if not name.startswith("_") and "ClassVar" not in what
    ]


@pytest.mark.parametrize("module", _MODULES, ids=lambda module: module.__name__)
def test_docstrings_say_shapes_and_units(module):
    """Arrays have shapes, floats have units: in their names, or where they are described.

    Frames are in the names of transforms, ``a_from_b``, whose shape is always 4x4.
    """
    silent = []
    for name in module.__all__:
        for called, part in _documented(getattr(module, name)):
            if part.__module__ != module.__name__:  # asked where it is defined
                continue
            for argument, what, said in _quantities(part):
                if re.search(r"ndarray|NDArray|Tensor|Array\b|Matrix\b", what) and "_from_" not in argument:
                    clear = _SHAPE.search(said) is not None
                elif what in ("float", "<class 'float'>", "float | None") and argument != "return":
                    clear = (
                        re.search(rf"\b{argument}\b", said) is not None
                        or _UNIT.search(argument) is not None
                        or _QUANTITY.search(said) is not None
                    )
                else:
                    continue
                if not clear:
                    silent.append(f"{called}: {argument}")
    assert not silent
