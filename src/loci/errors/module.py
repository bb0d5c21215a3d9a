"""The base of modules with properties: what a property raises is what its caller meets.

torch's own `nn.Module` answers an AttributeError inside a property with "no attribute NAME", and
the error's own message, which names the cause, is lost.
"""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import Any

from torch import nn


class Module(nn.Module):
    """`nn.Module` with properties that may fail. Blocks and layers, which have none, are plain
    modules: their weights are looked up at every step."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # Python asks here, too, after a property itself has raised an AttributeError.
            own = inspect.getattr_static(type(self), name, None)
            if not isinstance(own, property | cached_property):
                raise
        return own.__get__(self, type(self))
