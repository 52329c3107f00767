"""Pooling what views show: against plain NumPy, for every instruction set."""

from __future__ import annotations

import numpy as np
import pytest

from navnode import native
from navnode.reconstruction.pooling import pool

HEIGHT, WIDTH = 13, 17


def drawn(seed: int, views: int, channels: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures, what was measured, and geometries in which a cube is seen partly, from far and near and from behind."""
    rng = np.random.default_rng(seed)
    pictures = rng.standard_normal((views, channels, HEIGHT, WIDTH)).astype(np.float32)
    measured = rng.random((views, HEIGHT, WIDTH)) < 0.8
    pixels = np.zeros((views, 3, 4))
    for rows in pixels:
        depth_mm = float(rng.uniform(0.5, 3.0)) * size
        rows[2] = *rng.uniform(-0.6, 0.6, 3), depth_mm
        for row, pixels_across in zip(rows[:2], (WIDTH, HEIGHT), strict=True):
            row[:3] = rng.uniform(-1.2, 1.2, 3) * pixels_across * depth_mm / size
            row[3] = rng.uniform(-0.2, 0.6) * pixels_across * depth_mm
    return pictures, measured, pixels


def bilinear(picture: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Beyond the edge, the pixel at the edge."""
    u, v = np.clip(u, 0, WIDTH - 1), np.clip(v, 0, HEIGHT - 1)
    left, top = np.minimum(u.astype(int), WIDTH - 2), np.minimum(v.astype(int), HEIGHT - 2)
    across, down = u - left, v - top
    upper = picture[top, left] * (1 - across) + picture[top, left + 1] * across
    lower = picture[top + 1, left] * (1 - across) + picture[top + 1, left + 1] * across
    return np.asarray(upper * (1 - down) + lower * down)


@pytest.mark.parametrize("instruction_set", native.instruction_sets())
@pytest.mark.parametrize("views, channels, size", [(1, 1, 5), (2, 3, 16), (5, 2, 19)])
def test_the_kernel_pools_as_plain_numpy_does(instruction_set, views, channels, size):
    pictures, measured, pixels = drawn(views, views, channels, size)
    made = pool(pictures, measured, pixels, size, least=True, most=True, threads=2, instruction_set=instruction_set)
    k, j, i = np.meshgrid(*[np.arange(size)] * 3, indexing="ij")
    at = np.stack([i, j, k, np.ones_like(i)], -1).astype(float)
    uw, vw, depth_mm = np.moveaxis(np.einsum("vrc,kjic->vkjir", pixels, at), -1, 0)
    u, v = uw / np.maximum(depth_mm, 1.0), vw / np.maximum(depth_mm, 1.0)
    # Zero beyond the edge: as if a frame of unmeasured pixels lay around the picture.
    framed = [np.pad(one.astype(float), 1) for one in measured]
    share = []
    for one, across, down in zip(framed, u + 1, v + 1, strict=True):
        across, down = np.clip(across, 0, WIDTH + 1), np.clip(down, 0, HEIGHT + 1)
        left, top = np.minimum(across.astype(int), WIDTH), np.minimum(down.astype(int), HEIGHT)
        fx, fy = across - left, down - top
        upper = one[top, left] * (1 - fx) + one[top, left + 1] * fx
        lower = one[top + 1, left] * (1 - fx) + one[top + 1, left + 1] * fx
        share.append(upper * (1 - fy) + lower * fy)
    seen = (np.stack(share) > 0.5) & (depth_mm > 1.0)
    certain = np.all(np.abs(np.stack(share) - 0.5) > 1e-3, axis=0)  # rounding decides about the others
    values = np.stack(
        [[bilinear(channel, u[n], v[n]) for channel in pictures[n]] for n in range(views)], axis=1
    )  # (C, V, k, j, i)
    assert 0.05 < seen.mean() < 0.95 and certain.mean() > 0.95
    masked = np.ma.masked_array(values, np.broadcast_to(~seen, values.shape))
    np.testing.assert_array_equal(made.count[certain], seen.sum(0)[certain])
    for name, found in (("mean", made.mean), ("min", made.least), ("max", made.most)):
        expected = getattr(masked, name)(axis=1).filled(0.0)
        np.testing.assert_allclose(found[:, certain], expected[:, certain], atol=2e-3, err_msg=name)


def test_only_what_was_asked_for_is_made():
    pictures, measured, pixels = drawn(0, 2, 3, 16)
    made = pool(pictures, measured, pixels, 16, least=True)
    assert made.mean.shape == (3, 16, 16, 16) and made.count.shape == (16, 16, 16)
    assert made.least is not None and made.most is None
    assert (made.least <= made.mean + 1e-6).all()


@pytest.mark.parametrize("bad", ["measured", "geometry", "narrow"])
def test_shapes_that_do_not_fit_are_refused(bad):
    pictures, measured, pixels = drawn(0, 2, 3, 16)
    if bad == "measured":
        measured = measured[:, 1:]
    elif bad == "geometry":
        pixels = pixels[:1]
    else:
        pictures, measured = pictures[..., :1], measured[..., :1]
    with pytest.raises(ValueError, match="pictures"):
        pool(pictures, measured, pixels, 16)
