"""Trains the networks of the learned volume: examples in a background thread, crops on the CPU, resumable
checkpoints."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from navnode.reconstruction.features import GRID
from navnode.reconstruction.learned import BONE_HU, SCALES
from navnode.reconstruction.network import ViewNet, VolumeNet
from navnode.reconstruction.training.checkpoints import end_at, resume, save
from navnode.reconstruction.training.examples import Example, examples
from navnode.reconstruction.training.learner import multiplies_bfloat16
from navnode.types import Volume

__all__ = ["CHECKPOINT_FILE", "LOSSES_FILE", "Networks", "Recipe", "objective", "seconds_from_now", "train"]

_HU_RANGE = (-1000.0, 1500.0)
CHECKPOINT_FILE, LOSSES_FILE = "checkpoint.pt", "losses.jsonl"
_SAVED_EVERY = 200
_AHEAD = 3
"""Bodies whose examples are made in advance."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    ``learning_rate`` is AdamW's, unitless; ``averaging`` and ``cooling`` are fractions, 0..1.
    """

    steps: int = 12_000
    learning_rate: float = 1.2e-3
    block: int = 64
    """Voxels along each side of the blocks in a step."""
    batch: int = 2
    """Examples per step."""
    blocks: int = 2
    """Blocks of each example; encoding its views takes most of the time, and is done once."""
    pool: int = 64
    """Examples kept at a time."""
    reuse: int = 10
    """Steps between new bodies."""
    averaging: float = 0.998
    """Share of the running average that each step keeps."""
    cooling: float = 0.3
    """Last share of the steps, in which the learning rate falls to zero."""
    seed: int = 0


class Networks(nn.Module):
    """Both graphs, trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.view, self.volume = ViewNet(), VolumeNet()
        # 3-D convolutions with channels last: backward passes on a CPU take two thirds of the time.
        self.volume.to(memory_format=torch.channels_last_3d)


def train(
    bodies: Sequence[Volume],
    folder: Path,
    recipe: Recipe,
    *,
    weights: Sequence[float] | None = None,
    threads: int = 2,
    until: Callable[[], bool] = lambda: False,
    report: Callable[[int, dict[str, float]], None] = lambda step, values: None,
) -> int:
    """Train, or resume from the checkpoint in ``folder``; return the total number of steps.

    Args:
        bodies: sources of examples.
        weights: how often each is used, relative to the others; default: equally often.
        threads: CPU threads.
        until: stop, with a checkpoint, as soon as this is true.
        report: called after every step with the losses.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / CHECKPOINT_FILE
    networks = Networks()
    averaged = Networks()
    averaged.load_state_dict(networks.state_dict())
    optimiser = torch.optim.AdamW(networks.parameters(), lr=recipe.learning_rate, weight_decay=1e-4, betas=(0.9, 0.98))
    parts = {"networks": networks, "averaged": averaged, "optimiser": optimiser}
    step = resume(checkpoint, parts)
    # bfloat16 halves the bytes and doubles the products.
    fast = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and multiplies_bfloat16()
    pool = _Pool(bodies, recipe, step, weights)
    try:
        end_at(folder / LOSSES_FILE, step)
        with (folder / LOSSES_FILE).open("a", buffering=1) as log:
            while step < recipe.steps and not until():
                rng = np.random.default_rng((recipe.seed, 2, step))
                rate = _rate(step, recipe)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                    loss, values = _losses(networks, pool.take(step, rng), recipe, rng)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                norm = nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
                if torch.isfinite(norm):
                    optimiser.step()
                share = min(recipe.averaging, (step + 1) / (step + 10))
                with torch.no_grad():
                    for mean, new in zip(averaged.parameters(), networks.parameters(), strict=True):
                        mean.lerp_(new, 1 - share)
                step += 1
                values["rate"] = rate
                log.write(json.dumps({"step": step, **{k: round(v, 5) for k, v in values.items()}}) + "\n")
                report(step, values)
                if step % _SAVED_EVERY == 0:
                    save(checkpoint, parts, step)
    finally:  # also where somebody ends it
        pool.close()
        save(checkpoint, parts, step)
    return step


def _rate(step: int, recipe: Recipe) -> float:
    """Warm-up, a plateau, and a fall to zero over the last part: training can be prolonged from any checkpoint before
    that (Hägele et al., Scaling laws and compute-optimal training beyond fixed durations, NeurIPS 2024)."""
    left = (recipe.steps - step) / (recipe.cooling * recipe.steps)
    return recipe.learning_rate * min(1.0, (step + 1) / 200, left)


def _losses(
    networks: Networks, batch: Sequence[Example], recipe: Recipe, rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    made = [part for one in batch for part in _blocks(networks, one, recipe, rng)]
    sums, coarse, fine, hu, views = (torch.cat(parts) for parts in zip(*made, strict=True))
    seen = sums[:, -1:].float().repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    return objective(networks.volume(sums, coarse, fine, views).float(), seen, hu, views)


def _blocks(
    networks: Networks, made: Example, recipe: Recipe, rng: np.random.Generator
) -> Iterator[tuple[Tensor, ...]]:
    """Blocks of an example: sums over its views, SART's volumes, true HU, and the number of views."""
    pictures = torch.from_numpy(made.channels.astype(np.float32))
    picture_from_grid = torch.from_numpy(made.picture_from_grid)
    features = networks.view.encoded(pictures)
    block, half = recipe.block, recipe.block // 2
    room = (GRID - block) // 2
    for _ in range(recipe.blocks):
        i, j, k = (int(2 * round((rng.integers(0, room + 1) + rng.integers(0, room + 1)) / 2)) for _ in range(3))
        sums = networks.view.summed(features, pictures, picture_from_grid, (i, j, k), block)
        coarse = made.coarse[k // 2 : k // 2 + half, j // 2 : j // 2 + half, i // 2 : i // 2 + half]
        fine, hu = (part[k : k + block, j : j + block, i : i + block] for part in (made.fine, made.hu))
        volumes = (torch.from_numpy(part.astype(np.float32))[None, None] for part in (coarse, fine, hu))
        yield (sums, *volumes, torch.tensor([float(len(pictures))]))


def objective(out: Tensor, seen: Tensor, hu: Tensor, views: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Loss of the attenuation (squared error), its stated scale (Laplace), and bone (cross-entropy and Dice).

    Args:
        out: ``OUTPUTS`` of blocks, (N, 3, s, s, s).
        seen: number of views that see each voxel, (N, 1, s, s, s).
        hu: true HU, (N, 1, s, s, s).
        views: number of views, (N,).
    """
    target = hu.clamp(*_HU_RANGE) / 1000
    weight = torch.where(seen >= views.view(-1, 1, 1, 1, 1), 1.0, torch.where(seen > 0, 0.3, 0.03))
    weight = weight / weight.sum()
    error = out[:, 0:1] - target
    squared = (weight * error * error).sum()
    scale = out[:, 2:3].clamp(*SCALES)
    stated = (weight * (error.detach().abs() * torch.exp(-scale) + scale)).sum()
    bone = (hu > BONE_HU).to(out.dtype)
    entropy = (weight * functional.binary_cross_entropy_with_logits(out[:, 1:2], bone, reduction="none")).sum()
    likely = torch.sigmoid(out[:, 1:2])
    dice = 1 - (2 * (weight * likely * bone).sum() + 1e-3) / ((weight * (likely + bone)).sum() + 1e-3)
    loss = 4 * squared + 0.1 * stated + 0.8 * entropy + 0.4 * dice
    parts = {"loss": loss, "mse": squared, "stated": stated, "entropy": entropy, "dice": dice}
    return loss, {name: float(part.detach()) for name, part in parts.items()} | {"views": float(views.mean())}


class _Pool:
    """Examples, made in the background; every few steps those of a new body replace the oldest."""

    def __init__(self, bodies: Sequence[Volume], recipe: Recipe, step: int, weights: Sequence[float] | None) -> None:
        self._bodies, self._recipe = bodies, recipe
        share = np.ones(len(bodies)) if weights is None else np.asarray(weights, float)
        self._share = share / share.sum()
        self._taken = self._asked = step // recipe.reuse
        self._examples: list[Example] = []
        self._ahead: deque[Future[list[Example]]] = deque()
        self._maker = ThreadPoolExecutor(1)

    def _make(self, number: int) -> list[Example]:
        rng = np.random.default_rng((self._recipe.seed, 1, number))
        return examples(self._bodies[int(rng.choice(len(self._bodies), p=self._share))], rng)

    def take(self, step: int, rng: np.random.Generator) -> list[Example]:
        """Examples for a step; the pool starts with a few and grows to its size."""
        wanted = step // self._recipe.reuse + _AHEAD
        while self._asked < wanted + _AHEAD:
            self._ahead.append(self._maker.submit(self._make, self._asked))
            self._asked += 1
        while self._taken < wanted:
            self._examples = [*self._examples, *self._ahead.popleft().result()][-self._recipe.pool :]
            self._taken += 1
        return [self._examples[int(n)] for n in rng.integers(len(self._examples), size=self._recipe.batch)]

    def close(self) -> None:
        """Cancel the examples not begun yet."""
        self._maker.shutdown(wait=False, cancel_futures=True)


def seconds_from_now(seconds: float) -> Callable[[], bool]:
    """A condition for ``train(until=…)`` that is true once so many ``seconds`` have passed."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end
