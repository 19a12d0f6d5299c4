"""Checkpoints of long trainings: outside DVC's outs, in <repository>/.dvc/tmp, deleted when the stage is done."""

import time
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from pipeline.system import repository
from pipeline.system.files import replacing
from pipeline.training.loop import State

SECONDS = 60.0  # between checkpoints; a shorter training writes none


class Checkpoints:
    """The states of a stage's stacks, saved so that a killed stage resumes with the same bits.

    A stack's key is a hash of everything that determines its result, and minibatch order follows from seed and epoch:
    parameters, curve, path, epoch and the optimizer's state are all there is to save.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or repository.root() / ".dvc/tmp/checkpoints"
        self.saved_at = time.monotonic()
        self.unsaved: dict[str, State] = {}  # this stage's, by key, changed since the last checkpoint
        self.keys: set[str] = set()

    def resume(self, key: str, state: State) -> None:
        """Set a new stack's state to its last checkpoint, if there is one."""
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
        """Note a stack's state; every SECONDS, save all that have changed."""
        self.unsaved[key] = state
        if time.monotonic() - self.saved_at > SECONDS:
            for changed, one in self.unsaved.items():
                saved = {name: tensor.detach().cpu() for name, tensor in tensors(one).items()}
                with replacing(self._path(changed)) as temporary:
                    # save_file would write a file of its own beside it, whose name a kill leaves unknown.
                    temporary.write_bytes(save(saved | {"epoch": torch.tensor(one.epoch)}))
            self.unsaved = {key: state}
            self.saved_at = time.monotonic()

    def clear(self) -> None:
        """Delete the stage's checkpoints."""
        for key in self.keys:
            self._path(key).unlink(missing_ok=True)
            for half in self.folder.glob(f".{key}.*"):  # which a killed stage was writing
                half.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def tensors(state: State) -> dict[str, Tensor]:
    """Name the tensors of a state."""
    named = {"curve": state.curve, "diverged": state.diverged, "path": state.path, "left": state.left}
    named |= {f"parameter {i}": tensor for i, tensor in enumerate(state.parameters)}
    return named | {f"optimizer {i}": tensor for i, tensor in enumerate(state.optimizer)}
