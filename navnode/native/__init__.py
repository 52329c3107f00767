"""The compiled kernels: a shared library with a C interface, loaded with ctypes (which releases the GIL)."""

from __future__ import annotations

import ctypes
import os
import sysconfig
from functools import cache
from pathlib import Path

__all__ = ["holding_library", "instruction_sets", "library"]

NAME = "libnavnode_native.so"
OTHER_BUILD = "NAVNODE_NATIVE"
"""Environment variable with the path of another build of the library: one that counts lines, or checks every access."""


def path() -> Path:
    """Path of the built library, or of the build that ``NAVNODE_NATIVE`` names.

    Raises:
        ImportError: the library was never built; says how to build it.
    """
    if other := os.environ.get(OTHER_BUILD):
        if not Path(other).is_file():
            raise ImportError(f"{OTHER_BUILD} names {other}, which is no file")
        return Path(other)
    beside, installed = Path(__file__).parent, Path(sysconfig.get_path("platlib")) / "navnode" / "native"
    for folder in (beside, installed):  # an editable install keeps the sources and the build apart
        if (folder / NAME).exists():
            return folder / NAME
    raise ImportError(f"{NAME} is missing: build it with `make build` or `pip install -e .`")


@cache
def library() -> ctypes.CDLL:
    """The loaded library; its functions release the GIL."""
    lib = ctypes.CDLL(str(path()))
    lib.navnode_crc64.restype = ctypes.c_uint64
    lib.navnode_crc64.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64]
    lib.navnode_count_cells.restype = ctypes.c_int64
    lib.navnode_count_cells.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32]
    lib.navnode_instruction_sets.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    pointer = ctypes.c_void_p
    lib.navnode_project.restype = None
    lib.navnode_project.argtypes = [ctypes.c_int, pointer, ctypes.c_int, pointer, pointer, pointer, ctypes.c_int]
    lib.navnode_backproject.restype = None
    lib.navnode_backproject.argtypes = [ctypes.c_int, *[pointer] * 4, ctypes.c_int64, ctypes.c_int]
    lib.navnode_sum.restype = None
    lib.navnode_sum.argtypes = [pointer, pointer, ctypes.c_int64, ctypes.c_int]
    lib.navnode_correct.restype = None
    lib.navnode_correct.argtypes = [*[pointer] * 3, *[ctypes.c_float] * 2, pointer, *[ctypes.c_int] * 2]
    lib.navnode_scale.restype = None
    lib.navnode_scale.argtypes = lib.navnode_correct.argtypes
    lib.navnode_fit.restype = None
    lib.navnode_fit.argtypes = [ctypes.c_int, *[pointer] * 5]
    lib.navnode_pool.restype = None
    lib.navnode_pool.argtypes = [ctypes.c_int, pointer, ctypes.c_int]
    if hasattr(lib, "navnode_sender_start"):
        lib.navnode_sender_start.restype = pointer
        lib.navnode_sender_start.argtypes = []
        lib.navnode_sender_stop.restype = None
        lib.navnode_sender_stop.argtypes = [pointer]
        lib.navnode_sender_write_all.restype = None
        numbers, outcomes = ctypes.POINTER(ctypes.c_uint64), ctypes.POINTER(ctypes.c_int)
        lib.navnode_sender_write_all.argtypes = [
            pointer,
            numbers,
            ctypes.c_int,
            ctypes.c_char_p,
            ctypes.c_size_t,
            outcomes,
        ]
        lib.navnode_sender_copy.restype = pointer
        lib.navnode_sender_copy.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    return lib


@cache
def holding_library() -> ctypes.PyDLL:
    """The same library, but its functions keep the GIL: for microsecond calls, where regaining it would take longer."""
    lib = ctypes.PyDLL(str(path()))
    lib.navnode_crc64.restype = ctypes.c_uint64
    lib.navnode_crc64.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]
    pose, result = ctypes.c_char_p, ctypes.c_void_p  # bytes of an array are at hand sooner than its address
    lib.navnode_nearest_rigid.restype = ctypes.c_int
    lib.navnode_nearest_rigid.argtypes = [pose, ctypes.c_double, result]
    lib.navnode_carry.restype = None
    lib.navnode_carry.argtypes = [pose, result]
    lib.navnode_bends.restype = ctypes.c_int
    number, count = ctypes.c_double, ctypes.c_int
    lib.navnode_bends.argtypes = [result, result, count, number, number, result, count, count, result]
    if hasattr(lib, "navnode_sender_start"):
        sender, message, peer = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64
        lib.navnode_sender_freed_fd.restype = ctypes.c_int
        lib.navnode_sender_freed_fd.argtypes = [sender]
        lib.navnode_sender_add.restype = peer
        lib.navnode_sender_add.argtypes = [sender, ctypes.c_int]
        lib.navnode_sender_remove.restype = None
        lib.navnode_sender_remove.argtypes = [sender, peer]
        lib.navnode_sender_forget.restype = None
        lib.navnode_sender_forget.argtypes = [message]
        lib.navnode_sender_write.restype = ctypes.c_int
        lib.navnode_sender_write.argtypes = [sender, peer, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int]
        lib.navnode_sender_queue.restype = ctypes.c_int
        lib.navnode_sender_queue.argtypes = [sender, peer, message, ctypes.c_uint64]
        lib.navnode_sender_withdraw.restype = ctypes.c_int
        lib.navnode_sender_withdraw.argtypes = [sender, peer, ctypes.c_uint64]
        lib.navnode_sender_bytes.restype = ctypes.c_size_t
        lib.navnode_sender_bytes.argtypes = [sender, peer]
        lib.navnode_sender_take_freed.restype = ctypes.c_int
        lib.navnode_sender_take_freed.argtypes = [sender, ctypes.POINTER(peer), ctypes.c_int]
    return lib


@cache
def instruction_sets() -> tuple[str, ...]:
    """Kernel builds that this CPU can run, best first."""
    names = ctypes.create_string_buffer(128)
    library().navnode_instruction_sets(names, len(names))
    return tuple(names.value.decode().split())
