"""Measure what the pipeline claims: print each row when it is measured, and at the end one table with the goals.

`PARTS=… make bench` measures some parts only; SLOW=no leaves out the parts that take minutes.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

# Engines first: before torch, pipeline pins its kernels.
from bench import engines, growth, peers, search, stacks, storing, storing_process, sweeps
from bench.rows import HEAD, Row, line
from pipeline.system import machine

PARTS: Mapping[str, Callable[[], Iterator[Row]]] = {
    "sweeps": sweeps.rows,
    "storing": storing.rows,
    "stacks": stacks.rows,
    "kernels": stacks.pinning,
    "engines": engines.rows,
    "search": search.rows,
    "storing-process": storing_process.rows,
    "growth": growth.rows,
    "peers": peers.rows,
}
SLOW = ("kernels", "storing-process", "growth", "peers")


def main(parts: Sequence[str]) -> None:
    """Measure parts."""
    if unknown := [name for name in parts if name not in PARTS]:
        sys.exit(f"{unknown[0]}: no such part; there are {', '.join(PARTS)}")
    if not Path("data/prepared/tensors.safetensors").exists():
        sys.exit("data/prepared: is missing; run: make repro")
    lines = [f"{machine.cores()} cores, {processor()}; load when this began: {os.getloadavg()[0]:.1f}", line(HEAD)]
    print(*lines, sep="\n", flush=True)
    for name in parts:
        lines.append(f"{name}:")
        print(lines[-1], flush=True)
        for row in PARTS[name]():
            lines.append(line(("  " + row.what, *row.cells()[1:])))
            print(lines[-1], flush=True)
    print("\nThe table:", *lines, sep="\n")


def processor() -> str:
    """Name the processor, on Linux."""
    file = Path("/proc/cpuinfo")
    found = [told for told in file.read_text().splitlines() if told.startswith("model name")] if file.exists() else []
    return found[0].partition(":")[2].strip() if found else "unknown processor"


if __name__ == "__main__":
    left_out = SLOW if os.environ.get("SLOW") == "no" else ()
    main(sys.argv[1:] or [name for name in PARTS if name not in left_out])
