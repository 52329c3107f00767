"""The compiled kernels: a shared library with a C interface, loaded with ctypes (which releases the GIL)."""

from __future__ import annotations

import ctypes
import sysconfig
from functools import cache
from pathlib import Path

NAME = "libnavnode_native.so"


def path() -> Path:
    """Where the built library lies.

    Raises ImportError, with what to do, when it was never built.
    """
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
    lib.navnode_backproject.argtypes = [
        ctypes.c_int, pointer, pointer, pointer, pointer, ctypes.c_int64, ctypes.c_int,
    ]  # fmt: skip
    lib.navnode_sum.restype = None
    lib.navnode_sum.argtypes = [pointer, pointer, ctypes.c_int64, ctypes.c_int]
    lib.navnode_correct.restype = None
    lib.navnode_correct.argtypes = [
        pointer, pointer, pointer, ctypes.c_float, ctypes.c_float, pointer, ctypes.c_int, ctypes.c_int,
    ]  # fmt: skip
    lib.navnode_fit.restype = None
    lib.navnode_fit.argtypes = [ctypes.c_int, pointer, pointer, pointer, pointer, pointer]
    return lib


@cache
def holding_library() -> ctypes.PyDLL:
    """The same, but functions keep the GIL: for calls of a microsecond, which would wait longer to get it back."""
    lib = ctypes.PyDLL(str(path()))
    lib.navnode_crc64.restype = ctypes.c_uint64
    lib.navnode_crc64.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]
    return lib


@cache
def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for products of bfloat16; emulated, they would be slow."""
    path = Path("/proc/cpuinfo")
    return path.exists() and "avx512_bf16" in path.read_text()


@cache
def instruction_sets() -> tuple[str, ...]:
    """The kernel builds this CPU can run, best first."""
    names = ctypes.create_string_buffer(128)
    library().navnode_instruction_sets(names, len(names))
    return tuple(names.value.decode().split())
