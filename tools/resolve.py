"""Resolve what `make setup` would install, for each supported Python and platform, without installing it.

`make resolve` runs it. pip evaluates markers for the Python that runs it; uv takes Python and platform by name, and
reads only a package's metadata. For torch these are of the builds in pip's own index, with CUDA on Linux; the build for
the CPU needs a subset of the same packages.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from newest import pins

REPOSITORY = Path(__file__).parent.parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = {
    "Linux x86-64": "x86_64-manylinux_2_28",
    "Linux ARM": "aarch64-manylinux_2_28",
    "macOS ARM": "aarch64-apple-darwin",
}
MACOS = "14.0"  # the oldest version that torch's wheels support
SOURCE_ONLY = "antlr4-python3-runtime"  # pure Python, without a wheel; any other such package would need a compiler


def resolve(python: str, platform: str) -> tuple[set[str], str]:
    """Resolve for one Python and platform; return the packages, or none of them and uv's reason."""
    command = ["uv", "pip", "compile", "--no-python-downloads", "--python", sys.executable]
    command += ["--python-version", python, "--python-platform", platform]
    command += ["--only-binary", ":all:", "--no-binary", SOURCE_ONLY]
    command += ["--extra", "dev", "--constraint", "constraints.txt", "pyproject.toml"]
    macos = os.environ | {"MACOSX_DEPLOYMENT_TARGET": MACOS}
    result = subprocess.run(command, cwd=REPOSITORY, env=macos, capture_output=True, text=True, check=False)
    return (set(pins(result.stdout)), "") if result.returncode == 0 else (set(), result.stderr)


def main() -> None:
    """Print what resolves and what does not; exit with 1 if anything does not."""
    pinned = set(pins((REPOSITORY / "constraints.txt").read_text(encoding="utf-8")))
    unpinned: set[str] = set()
    failed = 0
    for system, platform in PLATFORMS.items():
        for python in PYTHONS:
            begin = time.monotonic()
            packages, reason = resolve(python, platform)
            verdict = f"resolves: {len(packages)} packages" if packages else "does not resolve"
            print(f"{system:13} Python {python:5} {verdict}, {time.monotonic() - begin:.1f} s", flush=True)
            print(reason, end="")
            unpinned |= packages - pinned
            failed += not packages
    print(f"{failed} of {len(PLATFORMS) * len(PYTHONS)} do not resolve")
    print(f"not in constraints.txt: {', '.join(sorted(unpinned)) or 'none'}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
