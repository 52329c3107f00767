"""The network: what a view says about every voxel, and what all of them say together.

Two graphs. :class:`ViewNet` encodes one view and back-projects its features along the rays; what it gives is only
added up over views, so views come in any number and order, and one can be taken out again. :class:`VolumeNet` turns
the sums, and what SART makes of the views in a moment, into attenuation, bone and uncertainty. (Back-projected
features: Lin et al., DIF-Net, MICCAI 2023; C2RV, CVPR 2024.) Needs torch; nothing that runs in the operating room
imports this module.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from navnode.reconstruction import reader, refining
from navnode.reconstruction.features import CHANNELS, GRID

FEATURES = 16
SUMS = 2 * FEATURES + 1
"""Sums over views at half the grid's resolution: features, their squares, and how many views see the voxel."""
OUTPUTS = 3
"""Attenuation over water's less 1 (HU / 1000), logit of bone, logarithm of the attenuation's scale."""

Network = TypeVar("Network", bound=nn.Module)

_LEVELS = (16, 32, 64, 96)
_NEAREST = 0.05


class Residual(nn.Module):
    """Two convolutions around a shortcut; the second begins at zero, so that no normalisation is needed
    (Zhang, Dauphin and Ma, Fixup, ICLR 2019)."""

    def __init__(self, width: int, dimensions: int) -> None:
        super().__init__()
        convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
        self.first = convolution(width, width, 3, padding=1)
        self.second = convolution(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(functional.relu(self.first(functional.relu(x))))


def halved(network: Network) -> Network:
    """A copy whose convolutions compute in FP16; what comes in and goes out, where rays go and the sum with SART's
    volume stay FP32. (TensorRT computes in the precisions that a graph states.)"""
    copied = copy.deepcopy(network)
    for part in copied.modules():
        if isinstance(part, nn.Conv2d | nn.Conv3d):
            part.half()
    return copied


class ViewNet(nn.Module):
    """Pictures (N, 4, 256, 256) and picture_from_grid (N, 3, 4) -> sums over the views."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(CHANNELS, 16, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(16, 24, 3, padding=1)
        )
        self.near = Residual(24, 2)
        self.down = nn.Conv2d(24, 40, 4, stride=2, padding=1)
        self.far = nn.Sequential(
            Residual(40, 2), nn.Conv2d(40, 48, 4, stride=2, padding=1), Residual(48, 2), Residual(48, 2)
        )
        self.up = nn.Conv2d(48, 24, 1)
        self.out = nn.Conv2d(24, FEATURES, 3, padding=1)

    def encoded(self, pictures: Tensor) -> Tensor:
        """(N, 16, 128, 128)"""
        near = self.near(self.stem(pictures.to(self.up.weight.dtype)))
        far = self.up(self.far(self.down(near)))
        near = near + functional.interpolate(far, scale_factor=4.0, mode="bilinear", align_corners=False)
        return torch.as_tensor(self.out(functional.relu(near))).to(pictures.dtype)

    def forward(
        self, pictures: Tensor, picture_from_grid: Tensor, first: tuple[int, int, int] = (0, 0, 0), size: int = GRID
    ) -> Tensor:
        """Sums (1, 33, s/2, s/2, s/2) over the block of ``size`` s from voxel ``first`` (i, j, k) on."""
        return self.summed(self.encoded(pictures), pictures, picture_from_grid, first, size)

    def summed(
        self, features: Tensor, pictures: Tensor, picture_from_grid: Tensor, first: tuple[int, int, int], size: int
    ) -> Tensor:
        """The same of pictures whose features (N, 16, 128, 128) are known."""
        half = [start + 0.5 + 2 * torch.arange(size // 2, dtype=torch.float32) for start in first]
        at, seen = _rays(picture_from_grid, half)
        seen = seen * (_sampled(pictures[:, 3:4], at, size // 2) > 0.5).to(seen.dtype)
        found = _sampled(features, at, size // 2) * seen
        return torch.cat([found, found * found, seen], 1).sum(0, keepdim=True)


def _rays(picture_from_grid: Tensor, axes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Where voxels are in the pictures (N, s s, s, 2), and 1 where in them (N, 1, s, s, s)."""
    i, j, k = axes[0].view(1, 1, 1, -1), axes[1].view(1, 1, -1, 1), axes[2].view(1, -1, 1, 1)
    x, y, depth = (
        row[:, 0].view(-1, 1, 1, 1) * i + row[:, 1].view(-1, 1, 1, 1) * j + row[:, 2].view(-1, 1, 1, 1) * k
        + row[:, 3].view(-1, 1, 1, 1)
        for row in (picture_from_grid[:, 0], picture_from_grid[:, 1], picture_from_grid[:, 2])
    )  # fmt: skip
    depth = depth.clamp(min=_NEAREST)
    x, y = x / depth, y / depth
    seen = ((x.abs() < 1) & (y.abs() < 1)).to(x.dtype)
    at = torch.stack([x, y], -1).clamp(-2, 2)
    return at.flatten(1, 2), seen.unsqueeze(1)


def _sampled(pictures: Tensor, at: Tensor, size: int) -> Tensor:
    values = functional.grid_sample(pictures, at, mode="bilinear", padding_mode="border", align_corners=False)
    return values.view(values.shape[0], values.shape[1], size, size, size)


def unshuffled(x: Tensor) -> Tensor:
    """(N, C, 2a, 2b, 2c) -> (N, 8 C, a, b, c)"""
    n, c, a, b, d = x.shape
    x = x.view(n * c, a // 2, 2, b // 2, 2, d // 2, 2).permute(0, 2, 4, 6, 1, 3, 5)
    return x.reshape(n, 8 * c, a // 2, b // 2, d // 2)


def shuffled(x: Tensor, channels: int) -> Tensor:
    """The inverse of :func:`unshuffled`."""
    n, _, a, b, d = x.shape
    x = x.reshape(n * channels, 2, 2, 2, a, b, d).permute(0, 4, 1, 5, 2, 6, 3)
    return x.reshape(n, channels, 2 * a, 2 * b, 2 * d)


def u_levels(
    widths: Sequence[int], dimensions: Literal[2, 3]
) -> tuple[nn.ModuleList, nn.ModuleList, nn.ModuleList, nn.ModuleList, nn.ModuleList]:
    """The levels of a U-Net, of these widths from fine to coarse: down, encoders, up, merge, decoders.

    The first two go from fine to coarse, the others back.
    """
    convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
    down, encoders = nn.ModuleList(), nn.ModuleList([Residual(widths[0], dimensions)])
    up, merge, decoders = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
    for low, high in pairwise(widths):
        down.append(convolution(low, high, 2, stride=2))
        encoders.append(nn.Sequential(Residual(high, dimensions), Residual(high, dimensions)))
        up.insert(0, convolution(high, low, 1))
        merge.insert(0, convolution(2 * low, low, 1))
        decoders.insert(0, Residual(low, dimensions))
    return down, encoders, up, merge, decoders


class VolumeNet(nn.Module):
    """Sums of :class:`ViewNet`, what SART begins with, and the numbers of views (N,) -> (N, 3, s, s, s), ``OUTPUTS``.

    SART's volumes, in units of ``OUTPUTS``, are coarse (N, 1, s/2, s/2, s/2) and fine (N, 1, s, s, s); what comes out
    is a correction of the fine one.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = _LEVELS
        self.stem = nn.Conv3d(2 * FEATURES + 3 + 1 + 8, widths[0], 1)
        self.down, self.encoders, self.up, self.merge, self.decoders = u_levels(widths, 3)
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv3d(widths[0] + 8, 24, 1), nn.ReLU(), nn.Conv3d(24, 8 * OUTPUTS, 3, padding=1)
        )
        self.bony = nn.Parameter(torch.tensor(5.0))
        """What dense is, is rather bone: of the logit, over attenuation's."""
        # It begins with SART's volume, little bone and wide intervals.
        nn.init.zeros_(self.head[-1].weight)
        with torch.no_grad():
            self.head[-1].bias.copy_(torch.tensor([0.0, -2.5, -1.5]).repeat_interleave(8))

    def forward(self, sums: Tensor, coarse: Tensor, fine: Tensor, views: Tensor) -> Tensor:
        seen = sums[:, -1:].clamp(min=1.0)
        views = views.view(-1, 1, 1, 1, 1)
        mean = sums[:, :FEATURES] / seen
        spread = (sums[:, FEATURES:-1] / seen - mean * mean).clamp(min=0.0)
        count = torch.cat(
            [
                sums[:, -1:] / views,
                torch.log2(1 + sums[:, -1:]) / 4,
                torch.log2(views).expand_as(seen) / 4,
            ],
            1,
        )
        width = self.stem.weight.dtype
        finest = unshuffled(fine).to(width)
        x = self.stem(torch.cat([part.to(width) for part in (mean, spread, count, coarse, finest)], 1))
        kept = []
        for index, encoder in enumerate(self.encoders):
            x = encoder(x)
            if index < len(self.down):
                kept.append(x)
                x = self.down[index](functional.relu(x))
        for up, merge, decoder in zip(self.up, self.merge, self.decoders, strict=True):
            x = functional.interpolate(up(x), scale_factor=2.0, mode="trilinear", align_corners=False)
            x = decoder(merge(torch.cat([x, kept.pop()], 1)))
        out = shuffled(self.head(torch.cat([x, finest], 1)).to(fine.dtype), OUTPUTS)
        attenuation = out[:, :1] + fine
        bone = out[:, 1:2] + self.bony * attenuation.detach()
        return torch.cat([attenuation, bone, out[:, 2:]], 1)


_READER_LEVELS = (32, 48, 80, 128, 160)


class ReaderNet(nn.Module):
    """X-rays as :func:`reader.reading_channels` makes them, (N, 4, H, W) -> (N, 5, H, W), ``reader.OUTPUTS``.

    A U-Net whose finest level works on blocks of 2 x 2 pixels; its sides must be multiples of 32.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = _READER_LEVELS
        self.stem = nn.Conv2d(4 * reader.CHANNELS, widths[0], 3, padding=1)
        self.down, self.encoders, self.up, self.merge, self.decoders = u_levels(widths, 2)
        self.head = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(widths[0], 48, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(48, 4 * reader.OUTPUTS, 3, padding=1),
        )
        # It begins with little of everything, and with wide intervals.
        nn.init.zeros_(self.head[-1].weight)
        with torch.no_grad():
            self.head[-1].bias.copy_(torch.tensor([0.2, -1.0, -1.0, 0.0, -3.0]).repeat_interleave(4))

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.stem(functional.pixel_unshuffle(pictures, 2))
        kept = []
        for index, encoder in enumerate(self.encoders):
            x = encoder(x)
            if index < len(self.down):
                kept.append(x)
                x = self.down[index](functional.relu(x))
        for up, merge, decoder in zip(self.up, self.merge, self.decoders, strict=True):
            x = functional.interpolate(up(x), scale_factor=2.0, mode="bilinear", align_corners=False)
            x = decoder(merge(torch.cat([x, kept.pop()], 1)))
        return functional.pixel_shuffle(self.head(x), 2)


_REFINER_LEVELS = (16, 32, 64, 96)


class RefinerNet(nn.Module):
    """Evidence as :mod:`refining` makes it, (N, FINE, s, s, s) and (N, COARSE, s/2, s/2, s/2) -> logit of solid bone
    (N, 1, s, s, s).

    A U-Net whose finest level works on blocks of 2 x 2 x 2 voxels, s a multiple of ``refining.BLOCK``; what comes out
    is a correction of the lift, which it begins with.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = _REFINER_LEVELS
        self.stem = nn.Conv3d(8 * refining.FINE + refining.COARSE, widths[0], 1)
        self.down, self.encoders, self.up, self.merge, self.decoders = u_levels(widths, 3)
        self.head = nn.Sequential(
            nn.ReLU(),
            nn.Conv3d(widths[0] + 8 * refining.FINE, 24, 1),
            nn.ReLU(),
            nn.Conv3d(24, 8, 3, padding=1),
        )
        self.lifted = nn.Parameter(torch.tensor(5.0))
        """How much what the lift takes for bone counts at first."""
        nn.init.zeros_(self.head[-1].weight)
        nn.init.zeros_(self.head[-1].bias)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        blocks = unshuffled(fine)
        x = self.stem(torch.cat([blocks, coarse], 1))
        kept = []
        for index, encoder in enumerate(self.encoders):
            x = encoder(x)
            if index < len(self.down):
                kept.append(x)
                x = self.down[index](functional.relu(x))
        for up, merge, decoder in zip(self.up, self.merge, self.decoders, strict=True):
            x = functional.interpolate(up(x), scale_factor=2.0, mode="trilinear", align_corners=False)
            x = decoder(merge(torch.cat([x, kept.pop()], 1)))
        correction = shuffled(self.head(torch.cat([x, blocks], 1)).float(), 1)
        return correction + self.lifted * fine[:, :1]
