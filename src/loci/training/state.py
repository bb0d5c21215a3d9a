"""The state of a run on the disk: everything that is needed to go on as if nothing had happened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from loci.errors import LociError
from loci.io.checkpoint import load_checkpoint, load_into, save_checkpoint
from loci.io.user_code import describe_sources
from loci.training.ema import Ema
from loci.training.folder import RunFolder, same_run
from loci.training.meter import Meter

KIND = "training-state"


class TrainingState:
    """Saves and restores the weights, their average, the optimizer, the step and the open line of
    the log, in the folder's state file."""

    def __init__(
        self, folder: RunFolder[Any], module: nn.Module, ema: Ema, optimizer: torch.optim.Optimizer
    ):
        self.folder, self.module, self.ema, self.optimizer = folder, module, ema, optimizer

    def save(self, step: int, seconds: float, meter: Meter) -> None:
        """Write it whole or not at all. The log reaches the disk first."""
        self.folder.sync()
        tensors = {f"module.{k}": v for k, v in self.module.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.tensors.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
        save_checkpoint(
            self.folder.state_path, KIND, self.folder.settings, tensors, dtype=None,
            step=step, seconds=seconds, window=meter.state(),
        )

    def restore(self, protocol: Mapping[str, Any]) -> tuple[int, float, Meter]:
        """Take up the saved state, if there is one: the step, the seconds so far, the open line.

        Forgets what the log says beyond it. Raises LociError for a state of another run, or of the
        same run with another version of the user's own files.
        """
        path = self.folder.state_path
        if not path.exists():
            self.folder.rewind(-1)
            return 0, 0.0, Meter()
        config, tensors, metadata = load_checkpoint(path, KIND)
        if not same_run(config, json.loads(self.folder.settings.to_json())):
            raise LociError(f"{path} is from other settings; choose another folder")
        start = next(iter(self.folder.lines()), {})
        if start.get("files") != protocol.get("files"):
            raise LociError(
                f"{self.folder.path} holds a run that began with {describe_sources(start)}, now it "
                f"is {describe_sources(protocol)}; bring that file back or choose another folder"
            )
        parts: dict[str, dict[str, Tensor]] = {"module": {}, "ema": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        load_into(self.module, parts["module"], path)
        if parts["ema"].keys() != self.ema.tensors.keys():
            raise LociError(f"{path} averages other weights; choose another folder")
        self.ema.load(parts["ema"])
        self._restore_optimizer(parts["optimizer"])
        notes = metadata["training"]
        self.folder.rewind(notes["step"])
        return notes["step"], notes["seconds"], Meter(*notes["window"])

    def _restore_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        order = [p for group in self.optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            index, _, key = name.partition(".")
            parameter = order[int(index)]
            if tensor.shape == parameter.shape:
                # The fused kernel walks through memory: its averages must lie as the weights do
                # (channels last, for instance), and a file knows only one order.
                tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
            state.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
