"""Commands made of requests: what Typer parses becomes a request, and what it cannot parse ends with 2."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from navnode.commands.command import command
from navnode.config.fields import Threads, argument, option, switches
from navnode.errors import ConfigError


class Pace(StrEnum):
    FAST = "fast"
    VERY_SLOW = "very-slow"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    files: Annotated[tuple[Path, ...], argument("Files to read.", "FILE...")]
    spacing_mm: Annotated[float, option("Voxel size.", ge=0.5, le=4)] = 2.0
    views: tuple[Annotated[int, option("Views; repeat.", ge=2)], ...] = ()
    center_mm: Annotated[tuple[float, float, float], option("Middle.")] | None = None
    pace: Annotated[Pace, switches({Pace.FAST: "Hurry.", Pace.VERY_SLOW: "Wait."}, "give one of them")] | None = None
    threads: Annotated[Threads, option("Threads for this.")] = 0
    peers: Annotated[bool, option("Ask peers.", flag="--peers/--no-peers")] = True

    def __post_init__(self) -> None:
        if self.threads == 13:
            raise ConfigError("--threads 13: no")


asked: list[Request] = []
app = typer.Typer()


@command(app, Request, name="work", example=("work a", "work b"))
def work(request: Request, ui) -> None:
    """Works."""
    asked.append(request)
    ui.done({"files": len(request.files)}, "worked")


def run(*arguments: str):
    asked.clear()
    return CliRunner().invoke(app, [*arguments])


def test_defaults_are_the_structs():
    result = run("a")
    assert result.exit_code == 0 and result.stderr == "worked\n" and result.stdout == ""
    assert asked == [Request(files=(Path("a"),))]


def test_every_kind_of_field_is_parsed():
    options = ("--spacing-mm", "0.5", "--views", "2", "--views", "4", "--center-mm", "1", "2", "3", "--very-slow")
    result = run("a", "b", *options, "--threads", "4", "--no-peers", "--json")
    assert result.exit_code == 0 and result.stdout == '{"files": 2}\n' and result.stderr == ""
    assert asked == [
        Request(
            files=(Path("a"), Path("b")),
            spacing_mm=0.5,
            views=(2, 4),
            center_mm=(1.0, 2.0, 3.0),
            pace=Pace.VERY_SLOW,
            threads=4,
            peers=False,
        )
    ]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ((), "FILE..."),
        (("a", "--spacing-mm", "0.4"), "--spacing-mm"),
        (("a", "--spacing-mm", "5"), "--spacing-mm"),
        (("a", "--views", "1"), "--views"),
        (("a", "--threads", "-1"), "--threads"),  # the bound of the described type holds under another description
        (("a", "--center-mm", "1", "2"), "--center-mm"),
        (("a", "--unknown"), "--unknown"),
    ],
)
def test_what_cannot_be_parsed_ends_with_2_and_is_named(options, named):
    result = run(*options)
    assert result.exit_code == 2 and named in result.stderr and asked == []


@pytest.mark.parametrize(
    ("options", "said"), [(("--fast", "--very-slow"), "give one of them"), (("--threads", "13"), "--threads 13: no")]
)
def test_what_the_request_refuses_is_an_error_of_arguments(options, said):
    result = run("a", *options)
    assert isinstance(result.exception, ConfigError) and str(result.exception) == said and asked == []


def test_help_is_the_requests():
    text = " ".join(run("--help").stdout.replace("│", " ").split())
    for part in ("Works.", "Files to read.", "Voxel size.", "0.5<=x<=4", "[default: 2.0]", "Hurry.", "Wait."):
        assert part in text
    assert "Threads for this." in text and "Threads for computing" not in text
    assert "Examples: work a | work b" in text and "--json" in text


def test_a_request_can_be_made_without_a_terminal(tmp_path):
    from navnode.recording.requests import MergeRequest, Mode, ReplayRequest

    session = tmp_path / "session.mcap"
    session.touch()
    request = ReplayRequest(session=session, mode=Mode.LOCKSTEP, tolerance=("x_mm=0.5",), serve="5")
    assert request.tolerances() == {"x_mm": 0.5} and request.served_at() == ("127.0.0.1", 5)
    for wrong, said in (
        ({"rate": 1.0}, "give one of --lockstep, --as-consumed and --rate"),
        ({"check": True, "reference": session}, "give --check or --reference, not both"),
        ({"session": tmp_path}, "a folder, not a session"),
    ):
        with pytest.raises(ConfigError, match=said):
            msgspec.structs.replace(request, **wrong)
    with pytest.raises(ConfigError, match="two sessions or more"):
        MergeRequest(sessions=(session,), out=tmp_path / "out.mcap")
