"""Misspelt commands, options and choices: one line with the nearest one, before tyro parses."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal

from tyro.extras import SubcommandApp

from loci.errors import LociError, did_you_mean

HELP = ("--help", "-h")
GENERAL = ("--help", "--version")


class CommandGroup(SubcommandApp):
    """Commands by name, each a function or another group."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: dict[str, Callable[..., Any] | CommandGroup] = {}

    def command(self, func: Any = None, *, name: str | None = None, **options: Any) -> Any:
        def register(target: Any) -> Any:
            self.targets[name or target.__name__] = target
            return SubcommandApp.command(self, target, name=name, **options)

        return register if func is None else register(func)


def check_spelling(group: CommandGroup, arguments: Sequence[str], name: str) -> None:
    """LociError for an unknown command, option or choice among `arguments` of the command `name`.

    What is missing, and what is no number, is left to the parser.
    """
    if not arguments or any(word in HELP or word.startswith("--tyro-") for word in arguments):
        return
    first, *rest = arguments
    if first.startswith("-"):
        raise LociError(f"unknown option '{first}' of {name}{did_you_mean(first, GENERAL)}")
    if first not in group.targets:
        raise LociError(f"unknown command '{first}' of {name}{did_you_mean(first, group.targets)}")
    target = group.targets[first]
    if isinstance(target, CommandGroup):
        check_spelling(target, rest, f"{name} {first}")
    else:
        _check_options(target, rest, f"{name} {first}")


def _check_options(function: Callable[..., Any], arguments: list[str], name: str) -> None:
    options, positional = _options(function)
    if positional and arguments and not arguments[0].startswith("-"):
        _check_choice(arguments[0], positional[0], "value", name)
    for number, word in enumerate(arguments):
        if not word.startswith("--"):
            continue
        written, equals, value = word.partition("=")
        option = written.replace("_", "-")
        if option not in options:
            raise LociError(f"unknown option '{written}' of {name}{did_you_mean(option, options)}")
        if not equals and number + 1 < len(arguments):
            value = arguments[number + 1]
        if value:
            _check_choice(value, options[option], f"{option}", name)


def _check_choice(value: str, choices: tuple[str, ...], option: str, name: str) -> None:
    if choices and value not in choices:
        near = did_you_mean(value, choices)
        raise LociError(f"unknown {option} '{value}' of {name}{near}")


def _options(
    function: Callable[..., Any],
) -> tuple[dict[str, tuple[str, ...]], list[tuple[str, ...]]]:
    """The choices of each option, () for any value; and those of each positional argument."""
    hints = typing.get_type_hints(function, include_extras=True)
    options: dict[str, tuple[str, ...]] = {}
    positional: list[tuple[str, ...]] = []
    for parameter in inspect.signature(function).parameters.values():
        hint = hints[parameter.name]
        choices = tuple(_literals(hint))
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            positional.append(choices)
            continue
        named = [getattr(note, "name", None) for note in getattr(hint, "__metadata__", ())]
        name = next(filter(None, named), parameter.name)
        options[f"--{name.replace('_', '-')}"] = choices
    return options, positional


def _literals(hint: Any) -> list[str]:
    """The texts of a Literal, alone or in a union or an annotation."""
    if typing.get_origin(hint) is Literal:
        return [str(choice) for choice in typing.get_args(hint)]
    parts = typing.get_args(hint)
    if hasattr(hint, "__metadata__"):
        parts = (hint.__origin__,)
    return [text for part in parts for text in _literals(part)]
