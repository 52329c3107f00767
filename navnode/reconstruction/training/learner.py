"""The training loop: a network that learns, the running average of its weights, and what is stored between runs.

The reader and the refiner share it; each brings its own batches and its own loss.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import msgspec
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset

from navnode.reconstruction.training.checkpoints import end_at, resume, save
from navnode.reconstruction.training.exported import start_of

__all__ = [
    "Files",
    "Learner",
    "Pace",
    "RUN",
    "Run",
    "averaged_weights",
    "batches_of",
    "joined",
    "last_scores",
    "multiplies_bfloat16",
    "wait_for_all",
]

_LARGEST_GRADIENT = 1.0
_LOGGED_DIGITS = 5
_RANKS_APART = 1_000_003

Network = TypeVar("Network", bound=nn.Module)
Batch = TypeVar("Batch")
Score = TypeVar("Score")


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How fast to learn, and how often to score and to save.

    ``learning_rate`` is AdamW's, unitless; ``averaging`` is a fraction, 0..1.
    """

    learning_rate: float = 1.0e-3
    warm_up: int = 200
    """Steps until the learning rate is reached."""
    settles: int = 2_000
    """From this step on, the rate falls with the inverse square root of the step, so that training may go on for any
    time (Zhai et al., Scaling vision transformers, CVPR 2022)."""
    averaging: float = 0.999
    """Share of the running average that each step keeps."""
    score_every: int = 500
    """Steps between scorings on the validation patients."""
    save_every: int = 100
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        settled = (max(step, self.settles) / self.settles) ** -0.5
        return float(self.learning_rate * min(1.0, (step + 1) / self.warm_up) * settled)


def _never() -> bool:
    """Not to stop."""
    return False


def _unheard(step: int, loss: float) -> None:
    """Nobody wants to know of a step and its loss."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a training: on what, from where, and how long."""

    batch: int | None = None
    """Examples per step; None: as many as suit the device."""
    device: str = "cpu"
    """``cpu`` or ``cuda``."""
    threads: int = 1
    """Of the CPU."""
    workers: int | None = None
    """Processes that make examples; None: as many as suit the device."""
    start: Path | None = None
    """An exported model to go on from if there is no checkpoint."""
    until: Callable[[], bool] = _never
    """Asked after every step whether to stop."""
    report: Callable[[int, float], None] = _unheard
    """Called with every step and its loss."""


RUN = Run()
"""On a CPU's core, without end."""


class Files(msgspec.Struct, frozen=True):
    """Where a training stores its checkpoint, one line per step, and one line per scoring."""

    checkpoint: Path
    losses: Path
    scores: Path


class Learner(Generic[Network]):
    """A network in training; resumes from its checkpoint, if any.

    Several processes started by ``torchrun`` train it together, each on its own examples (PyTorch's distributed data
    parallel); the first one scores and saves.

    Args:
        make: returns a new network; called twice, for the network and its average.
        files: its checkpoint, losses and scores.
        pace: how fast to learn.
        run: what it runs on, and how long.
        graphs: those of an exported model whose weights ``run.start`` gives.

    Raises:
        ConfigError: ``run.start`` is of another network, or the checkpoint is; or one is damaged.
    """

    def __init__(
        self,
        make: Callable[[], Network],
        files: Files,
        pace: Pace,
        run: Run,
        graphs: Mapping[str, str],
    ) -> None:
        torch.set_num_threads(run.threads)
        torch.manual_seed(pace.seed)
        self.rank, ranks, device = joined(run.device)
        self._files, self._pace, self._run, self._device = files, pace, run, torch.device(device)
        self.network, self.averaged = make().to(device), make().to(device)
        start = None if run.start is None else start_of(run.start, graphs)
        if start is not None:
            start.given_to(self.network)
        self.averaged.load_state_dict(self.network.state_dict())
        self._optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=pace.learning_rate, weight_decay=1e-4, betas=(0.9, 0.98)
        )
        self._parts: dict[str, Any] = {
            "network": self.network,
            "averaged": self.averaged,
            "optimiser": self._optimiser,
        }
        self.step = 0 if start is None else start.steps
        self._fast = device != "cpu" or multiplies_bfloat16()
        files.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        self.step = resume(files.checkpoint, self._parts, device) or self.step
        self._network = cast(Network, DistributedDataParallel(self.network)) if ranks > 1 else self.network
        self._stops = torch.zeros(1, device=device) if ranks > 1 else None

    def learn(
        self,
        batches: Iterable[Batch],
        loss_of: Callable[[Network, Batch, torch.autocast], tuple[Tensor, Mapping[str, float]]],
        look: Callable[[Network], Mapping[str, Any]],
    ) -> int:
        """Learn from batches until the run is told to stop; return the total number of steps.

        Args:
            batches: to learn from, without end.
            loss_of: returns the loss of a batch, a scalar, and its parts by name, one of them ``loss``; whatever may
                run in half precision runs within the given context.
            look: returns scores of the averaged network on the validation patients, by group; dataclasses.
        """
        pace, files = self._pace, self._files
        if self.rank == 0:
            end_at(files.losses, self.step)
            end_at(files.scores, self.step)
        with ExitStack() as kept:
            if self.rank == 0:  # also where somebody ends it
                kept.callback(self.save)
            losses = kept.enter_context(files.losses.open("a", buffering=1))
            scores = kept.enter_context(files.scores.open("a", buffering=1))
            for batch in batches:
                halved = torch.autocast(self._device.type, torch.bfloat16, enabled=self._fast)
                loss, values = loss_of(self._network, batch, halved)
                self._descend(loss)
                if self.rank == 0:
                    line = {"step": self.step, **{name: round(value, _LOGGED_DIGITS) for name, value in values.items()}}
                    losses.write(json.dumps(line) + "\n")
                    self._run.report(self.step, values["loss"])
                    if self.step % pace.score_every == 0:
                        found = look(self.averaged)
                        scores.write(json.dumps({"step": self.step, **{k: vars(v) for k, v in found.items()}}) + "\n")
                    if self.step % pace.save_every == 0:
                        self.save()
                if self._ends(self._run.until()):
                    break
        return self.step

    def _ends(self, told: bool) -> bool:
        """Whether to stop; processes that train together stop at the same step."""
        if self._stops is None:
            return told
        self._stops.fill_(float(told))
        distributed.all_reduce(self._stops, distributed.ReduceOp.MAX)
        return bool(self._stops.item())

    def _descend(self, loss: Tensor) -> None:
        for group in self._optimiser.param_groups:
            group["lr"] = self._pace.rate(self.step)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if torch.isfinite(nn.utils.clip_grad_norm_(self.network.parameters(), _LARGEST_GRADIENT)):
            self._optimiser.step()
        self.step += 1
        share = min(self._pace.averaging, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for mean, new in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(new, 1 - share)

    @property
    def seed(self) -> int:
        """Seed of the examples to come: another one in every process, and after every interruption."""
        return self._pace.seed + self.step + _RANKS_APART * self.rank

    def save(self) -> None:
        """Write the checkpoint."""
        save(self._files.checkpoint, self._parts, self.step)


def joined(device: str) -> tuple[int, int, str]:
    """This process's rank, the number of processes that train together, and the device of this one.

    They were started by ``torchrun``, which says so in the environment; a process started by itself is the only one.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        return 0, 1, device
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        distributed.init_process_group("gloo" if device == "cpu" else "nccl")
    return distributed.get_rank(), ranks, device


def wait_for_all() -> None:
    """Wait until every process that trains together comes here."""
    if distributed.is_initialized():
        distributed.barrier()


def batches_of(examples: IterableDataset[Any], run: Run, usual: int) -> DataLoader[Any]:
    """Batches of examples that processes of their own make: one for a CPU, all cores but two for a GPU.

    Args:
        usual: examples per step that suit a CPU; a GPU gets eight times as many.
    """
    some, makers = (usual, 1) if run.device == "cpu" else (8 * usual, max(1, len(os.sched_getaffinity(0)) - 2))
    workers = makers if run.workers is None else run.workers
    return DataLoader(
        examples,
        some if run.batch is None else run.batch,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="spawn" if workers else None,  # a fork would inherit locks of the engines' threads
    )


def averaged_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Weights of the averaged network of a checkpoint, by name; of any shape."""
    weights: dict[str, Tensor] = torch.load(checkpoint, weights_only=True, map_location="cpu")["averaged"]
    return weights


def last_scores(path: Path, kind: type[Score]) -> dict[str, Score]:
    """The last line of a file of scores, by group; empty before the first."""
    lines = path.read_text().splitlines() if path.exists() else []
    newest = json.loads(lines[-1]) if lines else {}
    return {name: msgspec.convert(value, kind) for name, value in newest.items() if name != "step"}


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware; emulation would be slow."""
    cpu_info = Path("/proc/cpuinfo")
    return cpu_info.exists() and "avx512_bf16" in cpu_info.read_text()
