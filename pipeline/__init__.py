"""One regression written four ways in PyTorch, swept, evaluated and tracked.

Importing the package pins the kernels that numpy and torch compute with, so that results have the same bits on every
x86-64 processor with AVX2, and sets defaults for libraries' variables that the user has not set. Import it before
numpy, torch and MLflow: they read these variables once, when they are loaded.
"""

import gc
import sys
from pathlib import Path

import pipeline.system.kernels  # noqa: F401 - it pins them
from pipeline.errors import say_why

if Path(sys.argv[0]).name in {"-m", "pipeline"}:  # a stage or command, not a library; "-m" while Python locates it
    sys.excepthook = say_why
    gc.set_threshold(200_000)  # loading torch makes a million objects that stay: to look through them takes 0.2 s
