"""The networks: what one view says about every voxel, and what all views say together.

:class:`ViewNet` encodes one view and back-projects its features along the rays. Its outputs are only summed over views,
so views come in any number and order, and can be removed. :class:`VolumeNet` turns the sums, and a quick SART volume,
into attenuation, bone and uncertainty. (Back-projected features: Lin et al., DIF-Net, MICCAI 2023; C2RV, CVPR 2024.)
This module needs torch; nothing that runs in the operating room imports it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from navnode.reconstruction import lungs, reader, refining
from navnode.reconstruction.features import CHANNELS, GRID

__all__ = [
    "FEATURES",
    "LungNet",
    "Network",
    "OUTPUTS",
    "PictureNet",
    "ReaderNet",
    "Refinement",
    "RefinerNet",
    "Residual",
    "SUMS",
    "UNet",
    "ViewNet",
    "VolumeNet",
    "halved",
    "shuffled",
    "unshuffled",
]

FEATURES = 16
SUMS = 2 * FEATURES + 1
"""Channels summed over views, at half the grid's resolution: features, their squares, and the number of views that see
the voxel."""
OUTPUTS = 3
"""Attenuation relative to water's, minus 1 (HU / 1000); logit of bone; logarithm of the attenuation's scale."""

Network = TypeVar("Network", bound=nn.Module)

_LEVELS = (16, 32, 64, 96)
_NEAREST = 0.05


class Residual(nn.Module):
    """Two convolutions around a shortcut; the second starts at zero, so no normalisation is needed (Zhang, Dauphin and
    Ma, Fixup, ICLR 2019)."""

    def __init__(self, width: int, dimensions: int) -> None:
        super().__init__()
        convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
        self.first = convolution(width, width, 3, padding=1)
        self.second = convolution(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, ...) -> the same shape."""
        return x + self.second(functional.relu(self.first(functional.relu(x))))


def halved(network: Network) -> Network:
    """A copy whose convolutions compute in FP16. Inputs, outputs, ray geometry and the sum with SART's volume stay
    FP32. (TensorRT computes in the precisions that a graph states.)"""
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
        """Features (N, 16, 128, 128) of pictures (N, 4, 256, 256)."""
        near = self.near(self.stem(pictures.to(self.up.weight.dtype)))
        far = self.up(self.far(self.down(near)))
        near = near + functional.interpolate(far, scale_factor=4.0, mode="bilinear", align_corners=False)
        return torch.as_tensor(self.out(functional.relu(near))).to(pictures.dtype)

    def forward(
        self, pictures: Tensor, picture_from_grid: Tensor, first: tuple[int, int, int] = (0, 0, 0), size: int = GRID
    ) -> Tensor:
        """Sums (1, 33, s/2, s/2, s/2) over a block of s = ``size`` voxels a side that starts at voxel ``first`` (i, j,
        k)."""
        return self.summed(self.encoded(pictures), pictures, picture_from_grid, first, size)

    def summed(
        self, features: Tensor, pictures: Tensor, picture_from_grid: Tensor, first: tuple[int, int, int], size: int
    ) -> Tensor:
        """Like :meth:`forward`, for pictures whose features (N, 16, 128, 128) are known."""
        half = [start + 0.5 + 2 * torch.arange(size // 2, dtype=torch.float32) for start in first]
        at, seen = _rays(picture_from_grid, half)
        seen = seen * (_sampled(pictures[:, 3:4], at, size // 2) > 0.5).to(seen.dtype)
        found = _sampled(features, at, size // 2) * seen
        return torch.cat([found, found * found, seen], 1).sum(0, keepdim=True)


def _rays(picture_from_grid: Tensor, axes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Positions of voxels in the pictures, (N, s s, s, 2), and 1 where these are inside, (N, 1, s, s, s)."""
    i, j, k = axes[0].view(1, 1, 1, -1), axes[1].view(1, 1, -1, 1), axes[2].view(1, -1, 1, 1)
    x, y, depth = (
        row[:, 0].view(-1, 1, 1, 1) * i
        + row[:, 1].view(-1, 1, 1, 1) * j
        + row[:, 2].view(-1, 1, 1, 1) * k
        + row[:, 3].view(-1, 1, 1, 1)
        for row in (picture_from_grid[:, 0], picture_from_grid[:, 1], picture_from_grid[:, 2])
    )
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
    """(N, 8 C, a, b, c) -> (N, C, 2a, 2b, 2c) with C = ``channels``; the inverse of :func:`unshuffled`."""
    n, _, a, b, d = x.shape
    x = x.reshape(n * channels, 2, 2, 2, a, b, d).permute(0, 4, 1, 5, 2, 6, 3)
    return x.reshape(n, channels, 2 * a, 2 * b, 2 * d)


class UNet(nn.Module):
    """The levels of a U-Net; subclasses add what comes before and after."""

    down: nn.ModuleList
    encoders: nn.ModuleList
    up: nn.ModuleList
    merge: nn.ModuleList
    decoders: nn.ModuleList

    def add_levels(self, widths: Sequence[int], dimensions: Literal[2, 3]) -> None:
        """Add levels of these widths, from fine to coarse. Checkpoints depend on the order in which parts are added."""
        convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
        self._mode = "bilinear" if dimensions == 2 else "trilinear"
        # `down` and `encoders` go from fine to coarse, the others back.
        self.down, self.encoders = nn.ModuleList(), nn.ModuleList([Residual(widths[0], dimensions)])
        self.up, self.merge, self.decoders = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for low, high in pairwise(widths):
            self.down.append(convolution(low, high, 2, stride=2))
            self.encoders.append(nn.Sequential(Residual(high, dimensions), Residual(high, dimensions)))
            self.up.insert(0, convolution(high, low, 1))
            self.merge.insert(0, convolution(2 * low, low, 1))
            self.decoders.insert(0, Residual(low, dimensions))

    def through(self, x: Tensor) -> Tensor:
        """Down all levels and up again: (N, widths[0], ...) -> the same shape."""
        kept = []
        for index, encoder in enumerate(self.encoders):
            x = encoder(x)
            if index < len(self.down):
                kept.append(x)
                x = self.down[index](functional.relu(x))
        for up, merge, decoder in zip(self.up, self.merge, self.decoders, strict=True):
            x = functional.interpolate(up(x), scale_factor=2.0, mode=self._mode, align_corners=False)
            x = decoder(merge(torch.cat([x, kept.pop()], 1)))
        return x


class VolumeNet(UNet):
    """Sums of :class:`ViewNet`, SART's starting volumes and the numbers of views (N,) -> ``OUTPUTS``, (N, 3, s, s, s).

    SART's volumes, in units of ``OUTPUTS``, are coarse (N, 1, s/2, s/2, s/2) and fine (N, 1, s, s, s); the network
    corrects the fine one.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = _LEVELS
        self.stem = nn.Conv3d(2 * FEATURES + 3 + 1 + 8, widths[0], 1)
        self.add_levels(widths, 3)
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv3d(widths[0] + 8, 24, 1), nn.ReLU(), nn.Conv3d(24, 8 * OUTPUTS, 3, padding=1)
        )
        self.bony = nn.Parameter(torch.tensor(5.0))
        """Weight of attenuation in the logit of bone: dense voxels are more likely bone."""
        # Untrained, it returns SART's volume, little bone and wide intervals.
        nn.init.zeros_(self.head[-1].weight)
        with torch.no_grad():
            self.head[-1].bias.copy_(torch.tensor([0.0, -2.5, -1.5]).repeat_interleave(8))

    def forward(self, sums: Tensor, coarse: Tensor, fine: Tensor, views: Tensor) -> Tensor:
        """Sums (N, 33, s/2, s/2, s/2), coarse, fine and views as in the class -> (N, 3, s, s, s)."""
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
        x = self.through(self.stem(torch.cat([part.to(width) for part in (mean, spread, count, coarse, finest)], 1)))
        out = shuffled(self.head(torch.cat([x, finest], 1)).to(fine.dtype), OUTPUTS)
        attenuation = out[:, :1] + fine
        bone = out[:, 1:2] + self.bony * attenuation.detach()
        return torch.cat([attenuation, bone, out[:, 2:]], 1)


_READER_LEVELS = (32, 48, 80, 128, 160)


class ReaderNet(UNet):
    """X-rays from :func:`reader.reading_channels`, (N, 4, H, W) -> ``reader.OUTPUTS``, (N, OUTPUTS, H, W).

    A U-Net whose finest level works on blocks of 2 x 2 pixels; H and W must be multiples of 32.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = _READER_LEVELS
        self.stem = nn.Conv2d(4 * reader.CHANNELS, widths[0], 3, padding=1)
        self.add_levels(widths, 2)
        self.head = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(widths[0], 48, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(48, 4 * reader.OUTPUTS, 3, padding=1),
        )
        # Untrained, it reads little of everything, with wide intervals.
        nn.init.zeros_(self.head[-1].weight)
        with torch.no_grad():
            kinds = [0.0] * len(reader.BONE_KINDS)
            self.head[-1].bias.copy_(torch.tensor([0.2, -1.0, -1.0, 0.0, -3.0, *kinds]).repeat_interleave(4))

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, 4, H, W) -> (N, OUTPUTS, H, W)."""
        x = self.through(self.stem(functional.pixel_unshuffle(pictures, 2)))
        return functional.pixel_shuffle(self.head(x), 2)


_PICTURE_LEVELS = (16, 32, 64, 64)
_REFINER_LEVELS = (16, 32, 64, 96)


class PictureNet(UNet):
    """Views as :mod:`refining` presents them, (N, PICTURES, H, W) -> features (N, FEATURES, H, W); H and W must be
    multiples of 16.

    The features are only pooled over views, voxel by voxel (C2RV, CVPR 2024). They may tell, for example, which bone
    casts a shadow, so that the shadows of two bones are not mistaken for a third.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = _PICTURE_LEVELS
        self.stem = nn.Conv2d(4 * refining.PICTURES, widths[0], 3, padding=1)
        self.add_levels(widths, 2)
        self.out = nn.Conv2d(widths[0], 4 * refining.FEATURES, 3, padding=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, PICTURES, H, W) -> (N, FEATURES, H, W)."""
        x = self.through(self.stem(functional.pixel_unshuffle(pictures, 2)))
        return functional.pixel_shuffle(self.out(functional.relu(x)), 2)


class RefinerNet(UNet):
    """Evidence from :mod:`refining`, (N, FINE, s, s, s) and (N, COARSE, s/2, s/2, s/2), and pooled features (N, 2
    FEATURES, s/2, s/2, s/2) -> logit of solid bone (N, 1, s, s, s).

    A U-Net whose finest level works on blocks of 2 x 2 x 2 voxels; s must be a multiple of ``refining.BLOCK``. It
    corrects the lift, which is all that it returns untrained.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = _REFINER_LEVELS
        self.stem = nn.Conv3d(8 * refining.FINE + refining.COARSE + 2 * refining.FEATURES, widths[0], 1)
        self.add_levels(widths, 3)
        self.head = nn.Sequential(
            nn.ReLU(),
            nn.Conv3d(widths[0] + 8 * refining.FINE, 24, 1),
            nn.ReLU(),
            nn.Conv3d(24, 8, 3, padding=1),
        )
        self.lifted = nn.Parameter(torch.tensor(5.0))
        """Weight of the lift's occupancy above its level in the logit."""
        nn.init.zeros_(self.head[-1].weight)
        nn.init.zeros_(self.head[-1].bias)

    def forward(self, fine: Tensor, coarse: Tensor, felt: Tensor) -> Tensor:
        """Fine and coarse evidence and pooled features as in the class -> (N, 1, s, s, s)."""
        blocks = unshuffled(fine)
        x = self.through(self.stem(torch.cat([blocks, coarse, felt], 1)))
        correction = shuffled(self.head(torch.cat([x, blocks], 1)).float(), 1)
        return correction + self.lifted * fine[:, :1]


_LUNG_LEVELS = (16, 32, 64, 64)


class LungNet(UNet):
    """Evidence from :mod:`lungs`, (N, CHANNELS, s, s, s) -> logit of lung (N, 1, s, s, s).

    A U-Net whose finest level works on blocks of 2 x 2 x 2 voxels; s must be a multiple of ``lungs.BLOCK``. It corrects
    the lift, which is all that it returns untrained.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = _LUNG_LEVELS
        self.stem = nn.Conv3d(8 * lungs.CHANNELS, widths[0], 1)
        self.add_levels(widths, 3)
        self.head = nn.Sequential(nn.ReLU(), nn.Conv3d(widths[0] + 8, 24, 1), nn.ReLU(), nn.Conv3d(24, 8, 3, padding=1))
        self.lifted = nn.Parameter(torch.tensor(5.0))
        """Weight of the lift's occupancy above its level in the logit."""
        nn.init.zeros_(self.head[-1].weight)
        nn.init.zeros_(self.head[-1].bias)

    def forward(self, evidence: Tensor) -> Tensor:
        """(N, CHANNELS, s, s, s) -> (N, 1, s, s, s)."""
        lifted = evidence[:, :1]
        x = self.through(self.stem(unshuffled(evidence)))
        correction = shuffled(self.head(torch.cat([x, unshuffled(lifted)], 1)).float(), 1)
        return correction + self.lifted * lifted


class Refinement(nn.Module):
    """Both refining networks, to be trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures = PictureNet()
        self.volume = RefinerNet()

    def forward(self, fine: Tensor, coarse: Tensor, pictures: Tensor, pixels_from_coarse: Tensor) -> Tensor:
        """The logit (N, 1, s, s, s) from fine and coarse evidence, pictures (N, V, PICTURES, H, W) and
        pixels_from_coarse (N, V, 3, 4); pictures that measured nothing are ignored."""
        views = pictures.shape[1]
        found = self.pictures(pictures.flatten(0, 1)).float()
        measured, pixels = pictures.flatten(0, 1)[:, -1:], pixels_from_coarse.flatten(0, 1)
        with torch.autocast(fine.device.type, enabled=False):  # eight bits cannot locate a pixel
            felt = _pooled(found, measured, pixels, coarse.shape[2:], views)
        return torch.as_tensor(self.volume(fine, coarse, felt))


def _pooled(features: Tensor, measured: Tensor, pixels_from_coarse: Tensor, shape: Sequence[int], views: int) -> Tensor:
    """Like :func:`refining.pooled`, for ``views`` pictures per volume."""
    k, j, i = torch.meshgrid(
        *(torch.arange(size, dtype=torch.float32, device=features.device) for size in shape), indexing="ij"
    )
    at = torch.stack([i, j, k, torch.ones_like(i)]).flatten(1)
    uw, vw, depth_mm = (pixels_from_coarse.float() @ at).unbind(1)
    seen_from = depth_mm > 1.0
    depth_mm = depth_mm.clamp(min=1.0)
    height, width = features.shape[2:]
    x, y = (2 * uw / depth_mm + 1) / width - 1, (2 * vw / depth_mm + 1) / height - 1
    normed = torch.stack([x, y], -1).clamp(-2, 2).unsqueeze(1)
    weight = functional.grid_sample(
        measured.float(), normed, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    seen = ((weight[:, :, 0] > 0.5) & seen_from[:, None]).float()
    found = functional.grid_sample(features, normed, mode="bilinear", padding_mode="border", align_corners=False)
    found = (found[:, :, 0] * seen).unflatten(0, (-1, views))
    count = seen.unflatten(0, (-1, views)).sum(1).clamp(min=1)
    mean = found.sum(1) / count
    spread = ((found * found).sum(1) / count - mean * mean).clamp(min=0)
    return torch.cat([mean, spread], 1).unflatten(2, tuple(shape))
