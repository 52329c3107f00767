"""``navnode worker`` and ``navnode keys``: reconstruction on another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from navnode import config
from navnode.commands.command import command
from navnode.commands.ui import Ui, say
from navnode.config.fields import argument, option
from navnode.security import curve

app = typer.Typer()


class WorkerRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Run a reconstruction worker."""

    config: Annotated[Path, argument("Configuration of the worker, such as launch/gpu-worker.toml.", "WORKER.toml")]
    check: Annotated[bool, option("Only check the configuration.")] = False


class KeysRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Make keys of a node and a worker."""

    folder: Annotated[Path, argument("Write the four files into this folder.", "DIR")]


_WORKER = "navnode worker launch/gpu-worker.toml   (on the machine with the GPU)"
_KEYS = "navnode keys keys/   then copy node.key and worker.key_secret to the worker's machine"


@command(app, WorkerRequest, example=_WORKER, json=False)
def worker(request: WorkerRequest, ui: Ui) -> None:
    """Run a reconstruction worker for a node on another machine."""
    from navnode.node.worker import serve
    from navnode.reconstruction.choice import Method, engine_name

    loaded = config.load_worker(request.config)
    own, node = Path(loaded.key), Path(loaded.node_key)
    curve.check(own, node)
    method, threads = Method(loaded.method), loaded.threads or None
    say(f"{engine_name(method)} for the node at {loaded.node}")
    if not request.check:
        address = f"tcp://{loaded.node}"
        serve(address, method, threads=threads, secured=lambda socket: curve.join(socket, own, node), report=say)


@command(app, KeysRequest, example=_KEYS, json=False)
def keys(request: KeysRequest, ui: Ui) -> None:
    """Make keys for a node and a worker on another machine."""
    for path in curve.create(request.folder):
        say(str(path))
