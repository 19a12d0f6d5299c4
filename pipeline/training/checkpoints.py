"""Checkpoints of a training that lasts: outside DVC's outs, in <repository>/.dvc/tmp, gone when the stage is done."""

import time
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline import outs, repository
from pipeline.training.fit import State

SECONDS = 60.0  # between two checkpoints: a training that is shorter keeps none


class Checkpoints:
    """Where the stacks of a stage stand, kept so that a killed stage goes on with the same bits.

    A stack's key hashes all that determines its result, and minibatch order follows from seed and epoch: parameters,
    curve, epoch and what the optimizer remembers are the whole state.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or repository.root() / ".dvc/tmp/checkpoints"
        self.saved_at = time.monotonic()
        self.unsaved: dict[str, State] = {}  # of this stage, by key, what has gone on since the last checkpoint
        self.keys: set[str] = set()

    def resume(self, key: str, state: State) -> None:
        """Put a stack, as it begins, where it stood when its last checkpoint was taken, if there is one."""
        self.keys.add(key)
        try:
            saved = load_file(self._path(key))
        except (FileNotFoundError, SafetensorError):
            return
        with torch.no_grad():
            for name, tensor in tensors(state).items():
                tensor.copy_(saved[name])
        state.epoch = int(saved["epoch"])

    def keep(self, key: str, state: State) -> None:
        """Take note of a stack's state; every SECONDS, write all that is new."""
        self.unsaved[key] = state
        if time.monotonic() - self.saved_at > SECONDS:
            for changed, one in self.unsaved.items():
                saved = {name: tensor.detach().cpu() for name, tensor in tensors(one).items()}
                with outs.replacing(self._path(changed)) as temporary:
                    save_file(saved | {"epoch": torch.tensor(one.epoch)}, temporary)
            self.unsaved = {key: state}
            self.saved_at = time.monotonic()

    def clear(self) -> None:
        """Forget the stage's checkpoints."""
        for key in self.keys:
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def tensors(state: State) -> dict[str, Tensor]:
    """Name the tensors of a state."""
    named = {"curve": state.curve, "diverged": state.diverged}
    named |= {f"parameter {i}": tensor for i, tensor in enumerate(state.parameters)}
    return named | {f"optimizer {i}": tensor for i, tensor in enumerate(state.optimizer)}
