"""The storing process: stores what a stage sends to its standard input. See: piped."""

import sys

from pipeline.tracking import piped

sys.exit(piped.serve(sys.stdin.buffer, piped.reporter(int(sys.argv[1]))))
