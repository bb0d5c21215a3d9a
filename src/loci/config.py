"""Frozen configurations that round-trip through JSON and refuse what they do not know.

Source: ours; the pattern (nested dataclasses that build their owner) is torchtitan's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import types
import typing
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from loci.errors import LociError, did_you_mean

# Fields, at any depth, that say where a configuration belongs; training fills them in from its
# data. JSON has them, the hash does not: what is computed is the same without them.
DESCRIPTIONS = ("embodiment",)

# What is asked for, and what is found, in the words of someone who writes JSON.
KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
JSON_KINDS = {
    **KINDS, bool: "a truth value", type(None): "nothing", list: "a list", tuple: "a list",
    dict: "a map",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every configuration.

    A class declared with `family=True` is a family (of memory mechanisms, say), and a subclass
    declared with `name=` is one choice of it: it serialises as `{"type": name, ...}`, and
    `Family.from_dict` builds the class with that name. The family itself has no name: it is
    abstract. `elsewhere` is added to the message about an unknown choice.
    """

    type_name: ClassVar[str | None] = None
    choices: ClassVar[dict[str, type[Config]]] = {}
    elsewhere: ClassVar[str] = ""

    def __init_subclass__(cls, name: str | None = None, family: bool = False, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if family:
            cls.choices = {}
        # A choice's own subclass is another choice: it must not go by its parent's name.
        cls.type_name = None
        if name is not None:
            if cls.choices is Config.choices:
                raise LociError(f"{cls.__name__} has a name but no family; name its base a family")
            if _place(cls.choices.get(name, cls)) != _place(cls):
                raise LociError(f"two configurations are called '{name}'; rename one")
            cls.type_name = name
            cls.choices[name] = cls

    def to_dict(self) -> dict[str, Any]:
        """A plain tree of dicts, lists, numbers, strings, booleans and None."""
        if self.type_name is None and self.choices:
            raise LociError(
                f"{type(self).__name__} has no name in its family; declare it with name='...'"
            )
        head: dict[str, Any] = {} if self.type_name is None else {"type": self.type_name}
        hints = typing.get_type_hints(type(self))
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)
                 if not (f.metadata.get("added") and getattr(self, f.name) == f.default)}
        return head | {n: _plain(value, hints[n]) for n, value in found.items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The configuration that `data` describes.

        Raises LociError for an unknown key (naming the nearest), a missing one or a wrong type.
        """
        if not isinstance(data, dict):
            example = '{"type": ..., ...}' if cls.choices else "{...}"
            raise LociError(
                f"the settings of {cls.__name__} are {_named(data)}; give a map, {example}"
            )
        data = dict(data)
        target = cls
        if cls.choices:
            valid = {n: c for n, c in cls.choices.items() if issubclass(c, cls)}
            name = data.pop("type", cls.type_name)
            if name is None:
                raise LociError(f"{cls.__name__} lacks the key 'type'{did_you_mean('', valid)}")
            if name not in valid:
                near = did_you_mean(str(name), valid) + cls.elsewhere
                raise LociError(f"unknown {cls.__name__} '{name}'{near}")
            target = valid[name]
        hints = typing.get_type_hints(target)
        fields = {f.name: f for f in dataclasses.fields(target)}
        for key in data:
            if key not in fields:
                near = did_you_mean(key, fields)
                raise LociError(f"unknown key '{key}' in {target.__name__}{near}")
        for name, field in fields.items():
            required = (
                field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING
            )
            if required and name not in data:
                raise LociError(f"{target.__name__} lacks the key '{name}'; add it")
        values = {k: _typed(v, hints[k], f"{target.__name__}.{k}") for k, v in data.items()}
        return target(**values)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise LociError(f"not JSON at line {error.lineno}: {error.msg}; fix it") from error
        return cls.from_dict(data)

    def hash(self) -> str:
        """Twelve hexadecimal digits that change with any setting but those that only describe."""
        return settings_hash(self.to_dict())


def settings_hash(data: dict[str, Any]) -> str:
    """The hash of settings as JSON has them, in the form of today's `Config` or of an earlier
    version: what protocols of that time call them."""
    canonical = json.dumps(_hashed(data), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _hashed(value: Any) -> Any:
    """A tree without what only describes."""
    if isinstance(value, dict):
        return {key: _hashed(inner) for key, inner in value.items() if key not in DESCRIPTIONS}
    return [_hashed(inner) for inner in value] if isinstance(value, list) else value


def added_field(default: Any) -> Any:
    """A field that was added when results existed already. At its default it is left out of JSON,
    so that earlier configurations are written, and hashed, as before."""
    return dataclasses.field(default=default, metadata={"added": True})


def _place(cls: type) -> tuple[str, str | None]:
    """Where a class is written: a file may be run twice, as a script and as a module."""
    return cls.__qualname__, getattr(sys.modules.get(cls.__module__), "__file__", None)


def _plain(value: Any, hint: Any) -> Any:
    """`value` as JSON has it. An integer where a float is meant becomes one: equal configurations
    then have equal hashes however they were written."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, tuple | list):
        hints = arguments if origin is tuple else ()
        if len(hints) != len(value):
            hints = (hints[0] if hints else Any,) * len(value)
        return [_plain(v, h) for v, h in zip(value, hints, strict=True)]
    if isinstance(value, dict):
        hint = arguments[1] if len(arguments) == 2 else Any
        return {k: _plain(v, hint) for k, v in value.items()}
    options = arguments if origin in (typing.Union, types.UnionType) else (hint,)
    if type(value) is int and float in options and int not in options:
        return float(value)
    if value is not None and not isinstance(value, int | float | str):
        raise LociError(f"JSON cannot hold a setting of type {type(value).__name__}; convert it")
    return value


def _typed(value: Any, hint: Any, where: str) -> Any:
    """`value` read as `hint`: nested configs, tuples, optionals, unions, literals and scalars."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        options = [a for a in arguments if a is not type(None)]
        for option in options:
            try:
                return _typed(value, option, where)
            except LociError:
                if option is options[-1]:
                    raise
    if origin is typing.Literal:
        if value not in arguments:
            raise LociError(f"{where} is '{value}'{did_you_mean(str(value), map(str, arguments))}")
        return value
    if isinstance(hint, type) and issubclass(hint, Config):
        return hint.from_dict(value)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise LociError(f"{where} is {_named(value)}; give a list")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_typed(v, arguments[0], where) for v in value)
        if len(value) != len(arguments):
            raise LociError(f"{where} has {len(value)} values; give {len(arguments)}")
        return tuple(_typed(v, a, where) for v, a in zip(value, arguments, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise LociError(f"{where} is {_named(value)}; give a map")
        return {k: _typed(v, arguments[1], f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wrong = hint in (int, float, str, bool) and not isinstance(value, hint)
    if wrong or (hint is int and isinstance(value, bool)):
        raise LociError(f"{where} is {_named(value)}; give {KINDS[hint]}")
    return value


def _named(value: Any) -> str:
    """A value for a message: its type, and its JSON where that is short."""
    written = json.dumps(value, default=str)
    kind = JSON_KINDS.get(type(value), type(value).__name__)
    return f"{kind} ({written})" if len(written) <= 40 else kind
