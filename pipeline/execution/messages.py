"""What the stage and a process that trains for it send each other.

A worker on a cluster may lack torch or numpy, and must be able to report that: this file imports neither.
"""

import copyreg
import io
import math
import pickle
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.runs.records import Array
    from pipeline.training.stacks import Fitted, Stack


@dataclass(frozen=True)
class Task:
    """The stage asks for a stack, and for the paths of the runs with `seed`."""

    stack: "Stack"
    seed: int


@dataclass(frozen=True)
class Started:
    """A worker on a cluster takes a task: its host, and what its bits depend on; no tags where torch is missing."""

    host: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Grown:
    """The curves have grown until `epoch`: columns (F, new epochs), float32, of the F runs on all training rows."""

    columns: "Array"
    epoch: int


@dataclass(frozen=True)
class Trained:
    """The stack is trained; checkpoints may have been saved under these keys."""

    fits: "list[Fitted]"
    keys: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Failed:
    """The worker could not train the stack."""

    error: Exception


Message = Task | Started | Grown | Trained | Failed


def pack(message: Message) -> bytes:
    """Pickle a message, with tensors as arrays: that takes 3 µs for each, and torch's own way 100 µs."""
    content = io.BytesIO()
    pickler = pickle.Pickler(content, pickle.HIGHEST_PROTOCOL)
    if "torch" in sys.modules:
        pickler.dispatch_table = copyreg.dispatch_table | {sys.modules["torch"].Tensor: _as_array}
    pickler.dump(message)
    return content.getvalue()


def _as_array(tensor: Any) -> tuple[Callable[..., Any], tuple[Any]]:  # noqa: ANN401 - torch may be missing
    return sys.modules["torch"].from_numpy, (tensor.numpy(),)


def unpack(packed: bytes) -> Any:  # noqa: ANN401 - a Message; each side knows which it gets
    """Read what `pack` wrote in another process of this stage."""
    return pickle.loads(packed)  # noqa: S301


class Reporter:
    """Sends the new columns of a stack's curves: the first at once, further ones after `seconds`."""

    def __init__(self, send: Callable[[Grown], object], seconds: float) -> None:
        self.send, self.seconds = send, seconds
        self.sent, self.sent_at = 0, -math.inf

    def follow(self, stack: "Stack", curves: "Array", epoch: int) -> None:
        """Send the columns of curves (R, epochs) since the last report, if that was long enough ago."""
        if time.monotonic() - self.sent_at >= self.seconds:
            self.send(Grown(curves[list(stack.places.values()), self.sent : epoch], epoch))  # a copy
            self.sent, self.sent_at = epoch, time.monotonic()
