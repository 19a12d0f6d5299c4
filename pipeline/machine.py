"""What of a machine a run's bits depend on."""

from collections.abc import Mapping
from importlib.metadata import version

from pipeline import ARCHITECTURE, KERNELS


def numeric_tags() -> dict[str, str]:
    """Name what a run's bits depend on beside its fingerprint: architecture, kernel path and torch."""
    return {"architecture": ARCHITECTURE, "kernels": KERNELS, "torch": version("torch")}


def may_differ(there: Mapping[str, str], here: Mapping[str, str], device: str) -> bool:
    """Tell whether the bits of a run made with numeric tags `there`, unknown where they are missing, may differ here.

    Kernels that a machine chooses for itself, a GPU's among them, may differ whatever the tags say.
    """
    return device != "cpu" or here["kernels"] == "native" or any(there.get(key) != here[key] for key in here)


def name_kernels(tags: Mapping[str, str], others: Mapping[str, str]) -> str:
    """Name for people what a run's bits depend on, and its torch where that is not the other's."""
    if "architecture" not in tags:
        return "unknown"
    architecture, kernels = tags["architecture"].replace("x86_64", "x86-64"), tags.get("kernels", "unknown")
    names = {"avx2": " AVX2", "default": " without AVX2", "native": " native kernels", "unknown": " unknown kernels"}
    own = names.get(kernels, f" {kernels}") if architecture == "x86-64" or kernels != "native" else ""
    torch = tags.get("torch", "unknown")
    return f"{architecture}{own}" + (f" and torch {torch}" if torch != others.get("torch", torch) else "")
