"""The storing process: stores what a stage sends to its standard input. See: tracker."""

import gc
import sys
from importlib import import_module

from pipeline.errors import leave
from pipeline.tracking import tracker

gc.set_threshold(1_000_000)  # loading MLflow makes a million objects that stay: to look through them takes 0.6 s
for name in sys.argv[2:]:
    import_module(name)
leave(tracker.serve(sys.stdin.buffer, tracker.reporter(int(sys.argv[1]))))
