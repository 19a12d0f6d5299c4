"""The machine: what a run's bits depend on, and the number of cores."""

import math
import os
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pipeline.system.kernels import ARCHITECTURE, KERNELS


def numeric_tags() -> dict[str, str]:
    """Return what a run's bits depend on besides its fingerprint: architecture, kernel path and torch version."""
    return {"architecture": ARCHITECTURE, "kernels": KERNELS, "torch": _torch()}


@cache
def _torch() -> str:
    return version("torch")  # reads a file of the package in 4 ms


def may_differ(there: Mapping[str, str], here: Mapping[str, str], device: str) -> bool:
    """Tell whether a run made with numeric tags `there` may have other bits here.

    It may if a tag differs or is missing, and always on a GPU or with native kernels, which a machine chooses itself.
    """
    return device != "cpu" or here["kernels"] == "native" or any(there.get(key) != here[key] for key in here)


def name_kernels(tags: Mapping[str, str], others: Mapping[str, str]) -> str:
    """Describe in words what a run's bits depend on; with torch's version if that of `others` differs."""
    if "architecture" not in tags:
        return "unknown"
    architecture, kernels = tags["architecture"].replace("x86_64", "x86-64"), tags.get("kernels", "unknown")
    names = {"avx2": " AVX2", "default": " without AVX2", "native": " native kernels", "unknown": " unknown kernels"}
    own = names.get(kernels, f" {kernels}") if architecture == "x86-64" or kernels != "native" else ""
    torch = tags.get("torch", "unknown")
    return f"{architecture}{own}" + (f" and torch {torch}" if torch != others.get("torch", torch) else "")


def cores(quotas: Path = Path("/sys/fs/cgroup")) -> int:
    """Count the cores that this process may use: by its affinity, and by the container's quota if it has one.

    Args:
        quotas: the folder with Linux's quota, in cpu.max, or in cpu/cpu.cfs_quota_us before cgroup v2.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period, *_ = " ".join((quotas / name).read_text(encoding="ascii") for name in names).split()
        except OSError:
            continue
        if quota not in {"max", "-1"}:
            count = min(count, max(1, math.ceil(int(quota) / int(period))))
    return count
