"""Pins the kernels that numpy and torch compute with, so that results have the same bits on every processor."""

import ctypes
import os
import platform
import sys
from collections.abc import Mapping

# MKL (torch's products), ATen (torch's own loops), OpenBLAS (numpy's products) and numpy's own loops take other paths
# on Intel than on AMD, and with AVX-512 than with AVX2; these sum in other orders. So do other numbers of threads.
_ONE_THREAD = dict.fromkeys(("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# The names of numpy 2.4 and of earlier versions; numpy ignores unknown names.
_AVX512 = "X86_V4 AVX512_ICL AVX512_SPR AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL"
PINS: Mapping[str, Mapping[str, str]] = {
    "avx2": {
        "MKL_CBWR": "COMPATIBLE",
        "ATEN_CPU_CAPABILITY": "avx2",
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": _AVX512,
        **_ONE_THREAD,
    },
    "default": {
        "MKL_CBWR": "COMPATIBLE",
        "ATEN_CPU_CAPABILITY": "default",
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": f"{_AVX512} X86_V3 AVX2 FMA3",
        **_ONE_THREAD,
    },
    "native": {},
}
DEFAULTS: Mapping[str, str] = {
    # For native kernels; MKL and OpenBLAS obey it. More threads do not speed up small tensors, and slow large ones
    # down on a busy machine.
    "OMP_NUM_THREADS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the pipeline retries itself, without MLflow's doubling pauses
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "90",
}
_PINNED = {(name, value) for pins in PINS.values() for name, value in pins.items()}
_OUTSIDE = dict(os.environ.items() - _PINNED)  # without what the parent process pinned


def has_avx2() -> bool:
    """Ask the processor on Linux whether it has AVX2; under emulation, /proc/cpuinfo would describe the host."""
    try:
        find = ctypes.CDLL(None).dlvsym
        find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
        # See: libgcc's __cpu_model: vendor, type, subtype, features. Torch needs libgcc too.
        address = find(ctypes.CDLL("libgcc_s.so.1")._handle, b"__cpu_model", b"GCC_4.8.0")  # noqa: SLF001
    except (AttributeError, OSError):
        return False
    return bool(address and (ctypes.c_uint * 4).from_address(address)[3] >> 10 & 1)


def choose_kernels() -> str:
    """Choose the path: avx2; default, without AVX2; or native, the machine's own choice, where nothing can be pinned.

    PIPELINE_KERNELS, native or default, overrides it.
    """
    given = os.environ.get("PIPELINE_KERNELS", "")
    if given not in {"", "native", "default"}:
        raise SystemExit(f"PIPELINE_KERNELS: got {given!r}, takes native or default; or unset it")
    if given or not (sys.platform == "linux" and platform.machine() == "x86_64"):
        return given or "native"
    return "avx2" if has_avx2() else "default"


def unpinned() -> dict[str, str]:
    """Return the environment without these pins, for processes that choose their own."""
    return dict(os.environ.items() - _PINNED) | {name: _OUTSIDE[name] for name, _ in _PINNED if name in _OUTSIDE}


def check_pins() -> None:
    """Refuse to compute if a library chose its kernels before they were pinned.

    Raises:
        SystemExit: numpy or torch was loaded first.
    """
    if LOADED and KERNELS != "native":
        raise SystemExit(
            f"{' and '.join(LOADED)}: loaded before the pipeline, so its kernels are not pinned; "
            "import pipeline first, or set PIPELINE_KERNELS=native"
        )


ARCHITECTURE = platform.machine()
LOADED = sorted({"numpy", "torch"} & sys.modules.keys())
KERNELS = choose_kernels()
os.environ.update(PINS[KERNELS])
os.environ.update({name: value for name, value in DEFAULTS.items() if name not in os.environ})
