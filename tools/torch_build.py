"""Choose torch's build before pip does: on Linux pip takes the one for CUDA, several GB, with or without a GPU.

`make setup` runs it in the new environment, as `python tools/torch_build.py "$TORCH" INDEX`. INDEX is PyTorch's
own, with builds for the CPU alone; only torch is ever taken from it. TORCH is the wish:

- empty: INDEX joins pip's own indexes, on Linux without an NVIDIA driver, where INDEX answers within 3 s;
- cpu: the build for the CPU, from INDEX or wherever pip finds it;
- cuda, default: whatever pip finds, as on a Mac, where that is the build for the CPU already.
"""

import http.client
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
DRIVER = ("/proc/driver/nvidia/version", "/dev/nvidiactl")
SECONDS = 3.0


def has_driver() -> bool:
    """Tell whether NVIDIA's driver is here; under WSL, only its program is visible."""
    return shutil.which("nvidia-smi") is not None or any(map(os.path.exists, DRIVER))


def answers(index: str) -> bool:
    """Tell whether an index sends its page for torch within SECONDS."""
    heard = threading.Event()

    def ask() -> None:
        try:
            request = urllib.request.Request(f"{index}/torch/", headers={"User-Agent": "pip"})
            with urllib.request.urlopen(request, timeout=SECONDS):
                heard.set()
        except (OSError, ValueError, http.client.HTTPException):
            pass  # no answer, no index, or no URL

    # urllib's limit is for each address and each read, and not for looking up the name; a thread can be left behind.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SECONDS)
    return heard.is_set()


def pip_install(*arguments: str, quiet: bool = False) -> bool:
    """Install torch alone, with pip and its own configuration; tell whether that worked."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *arguments]
    output = subprocess.DEVNULL if quiet else None
    return subprocess.run(command, stdout=output, stderr=output, check=False).returncode == 0


def main(wish: str, index: str) -> None:
    """Install the build that the wish asks for, or leave it to pip.

    Raises:
        SystemExit: the wish is unknown, or pip found no build for the CPU though that is the wish.
    """
    if wish not in ("", "cpu", "cuda", "default"):
        sys.exit(f"TORCH={wish}: must be cpu, cuda or default, or left out")
    if sys.platform != "linux" or wish in ("cuda", "default"):
        return
    if not wish and (has_driver() or not answers(index)):
        return
    pinned = re.findall(r"^torch==.+", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)[0]
    wanted = f"{pinned}+cpu" if wish else pinned
    # Of equal builds pip takes the index's, even if its configuration names a folder that has one: look there first.
    if pip_install("--no-index", wanted, quiet=True):
        return
    if not wish:
        other = "for the build with CUDA: rm -r .venv && make setup TORCH=cuda"
        print(f"torch: no NVIDIA driver is here, so pip looks at {index} too; {other}", flush=True)
    if not pip_install("--extra-index-url", index, wanted):
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
