"""Messages of every type, for property and fuzz tests."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from navnode import igtl

text = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=40)
names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)
numbers = st.floats(-1e4, 1e4, width=32)
positions = st.tuples(numbers, numbers, numbers)
quaternions = st.tuples(numbers, numbers, numbers, numbers)
colors = st.tuples(*[st.integers(0, 255)] * 4)
sizes = st.tuples(*[st.integers(0, 65535)] * 3)
times = st.integers(0, 10**9 * 2**32 - 1)
matrices = st.lists(numbers, min_size=12, max_size=12).map(
    lambda values: np.vstack([np.reshape(values, (3, 4)), [0, 0, 0, 1]])
)
scalars = st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
common = {
    "device": st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30),
    "timestamp_ns": times,
    "version": st.just(2),
    "message_id": st.integers(0, 2**32 - 1),
    "metadata": st.dictionaries(names, text, max_size=4),
}


def some(element: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(element, max_size=3).map(tuple)


def _array(code: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(np.prod(shape)).astype(code).reshape(shape)


def images() -> st.SearchStrategy:
    shapes = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6))
    shapes |= st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(2, 4))
    whole = st.builds(
        igtl.Image,
        voxels=st.builds(_array, scalars, shapes),
        ras_from_index=matrices,
        lps=st.booleans(),
        big_endian=st.booleans(),
        **common,
    )
    part = st.builds(
        igtl.Image,
        voxels=st.builds(_array, scalars, st.just((2, 3, 4))),
        ras_from_index=matrices,
        size=st.just((9, 8, 7)),
        offset=st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)),
        **common,
    )
    return whole | part


@st.composite
def surfaces(draw: st.DrawFn) -> igtl.PolyData:
    count = draw(st.integers(1, 9))
    cell = st.lists(st.integers(0, count - 1), max_size=5).map(tuple)
    flat = st.lists(cell, max_size=4).map(igtl.cells)
    values = st.tuples(st.integers(0, 5), st.integers(1, 4)).map(lambda shape: _array("f4", shape))
    attribute = st.builds(igtl.Attribute, names, values, st.integers(0, 4), st.booleans())
    return igtl.PolyData(
        points_mm=_array("f4", (count, 3)),
        vertices=draw(flat),
        lines=draw(flat),
        polygons=draw(flat),
        strips=draw(flat),
        attributes=draw(some(attribute)),
        **{key: draw(value) for key, value in common.items()},
    )


def color_tables() -> st.SearchStrategy:
    shapes = st.sampled_from([((256,), "u1"), ((256,), "u2"), ((65536,), "u2"), ((256, 3), "u1")])
    tables = shapes.map(lambda made: _array(made[1], made[0]))
    return st.builds(igtl.ColorTable, table=tables, long_name=st.booleans(), **common)


queries = st.one_of(
    st.builds(igtl.Get, kind=st.sampled_from(["TRANSFORM", "IMAGE", "CAPABILITY", "VIDEOMETA", "POLYDATA"]), **common),
    st.builds(
        igtl.Start,
        kind=st.sampled_from(["TDATA", "QTDATA"]),
        resolution_ms=st.integers(0, 10_000),
        coordinate_name=names,
        **common,
    ),
    st.builds(igtl.Start, kind=st.just("BIND"), resolution_ms=st.integers(0, 10_000), body=st.binary(), **common),
    st.builds(igtl.Start, kind=st.sampled_from(["TRANSFORM", "SENSOR"]), **common),
    st.builds(igtl.Stop, kind=st.sampled_from(["TDATA", "POSITION"]), **common),
    st.builds(igtl.Ready, kind=st.sampled_from(["TDATA", "TRANSFORM"]), status=st.integers(-128, 127), **common),
)

# Children of a BIND have no header of their own: its time stamp and version are theirs.
children = st.builds(igtl.String, device=names, text=text) | st.builds(igtl.Transform, device=names, matrix=matrices)

messages = st.one_of(
    queries,
    images(),
    surfaces(),
    color_tables(),
    st.builds(igtl.Transform, matrix=matrices, **common),
    st.builds(igtl.Position, position_mm=positions, quaternion=quaternions | st.none(), **common),
    st.builds(
        igtl.TrackingData,
        elements=some(st.builds(igtl.TrackedElement, names, matrices, st.integers(1, 4))),
        **common,
    ),
    st.builds(
        igtl.QuaternionTrackingData,
        elements=some(st.builds(igtl.QuaternionElement, names, positions, quaternions, st.integers(1, 4))),
        **common,
    ),
    st.builds(
        igtl.StatusMessage, code=st.integers(0, 19), subcode=st.integers(-5, 5), error_name=names, text=text, **common
    ),
    st.builds(igtl.Capability, types=st.lists(st.sampled_from(["IMAGE", "TRANSFORM"])).map(tuple), **common),
    st.builds(igtl.String, text=text, **common),
    st.builds(igtl.ClientInfo, text=text, **common),
    st.builds(igtl.Command, command_id=st.integers(0, 2**32 - 1), name=names, text=text, **common),
    st.builds(igtl.CommandReply, command_id=st.integers(0, 2**32 - 1), name=names, text=text, **common),
    st.builds(
        igtl.Point, points=some(st.builds(igtl.PointElement, names, positions, names, colors, numbers, names)), **common
    ),
    st.builds(
        igtl.Trajectory,
        trajectories=some(
            st.builds(
                igtl.TrajectoryElement, names, positions, positions, names, st.integers(1, 3), colors, numbers, names
            )
        ),
        **common,
    ),
    st.builds(
        igtl.Sensor,
        values=st.lists(numbers, max_size=9).map(lambda v: np.array(v, np.float64)),
        unit=st.integers(0, 2**64 - 1),
        status=st.integers(0, 255),
        **common,
    ),
    st.builds(
        igtl.NDArray,
        array=st.builds(_array, scalars | st.just("c16"), st.lists(st.integers(0, 4), max_size=4).map(tuple)),
        **common,
    ),
    st.builds(
        igtl.ImageMeta,
        images=some(
            st.builds(
                igtl.ImageMetaElement, names, names, names, names, names, times, st.just(0), sizes, st.integers(2, 11)
            )
        ),
        **common,
    ),
    st.builds(
        igtl.LabelMeta,
        labels=some(st.builds(igtl.LabelMetaElement, names, names, st.integers(0, 255), colors, sizes, names)),
        **common,
    ),
    st.builds(
        igtl.VideoMeta,
        videos=some(
            st.builds(
                igtl.VideoMetaElement,
                names,
                names,
                names,
                names,
                st.integers(-9, 9),
                numbers,
                sizes,
                matrices,
                st.integers(2, 11),
            )
        ),
        **common,
    ),
    st.builds(igtl.Bind, children=some(children), **common),
    st.builds(igtl.Raw, type_name=st.just("VENDOR"), body=st.binary(max_size=50), **common),
)
