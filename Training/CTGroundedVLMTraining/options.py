"""Options of a command line that mean nothing beside others: they are refused, never ignored in silence."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from CTGroundedVLMLib.errors import InputError


def given(arguments: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Those of ``names`` (as attributes of ``arguments``) that have another value than their default, as options.

    ``arguments.parser``: the command's parser, which it keeps with ``set_defaults(parser=...)``.
    """
    changed = (name for name in names if getattr(arguments, name) != arguments.parser.get_default(name))
    return [f"--{name.replace('_', '-')}" for name in changed]


def refuse(arguments: argparse.Namespace, names: Iterable[str], why: str) -> None:
    """Raise InputError with the first of these options that was given: "--option WHY"."""
    for option in given(arguments, names):
        raise InputError(f"{option} {why}.")
