"""``--set field=value``: single fields of a recipe's configuration changed on the command line."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Sequence
from typing import Any

from CTGroundedVLMLib.errors import CTGroundedVLMError, InputError
from CTGroundedVLMLib.model.config import as_tuple

from .config import TrainingConfig

_WORDS = {"none": None, "null": None, "true": True, "false": False}


def with_changes(config: TrainingConfig, assignments: Sequence[str]) -> TrainingConfig:
    """The configuration with ``a.b=value`` applied, all at once, so that fields that go together can be changed together.

    A value is JSON ("[0.2, 0.2, 0.2]", "1e-4"), true, false or none; anything else is text. A field of text takes it as it is.

    Raises:
        InputError: there is no such field (close ones are named), or the value does not fit it.
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            raise InputError(f"--set {assignment}: expected FIELD=VALUE, such as optimizer.lr=1e-4.")
        node = changes
        *parents, last = path.strip().split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = (assignment, text.strip())
    return _changed(config, changes, "")


def _changed(config: Any, changes: dict[str, Any], prefix: str) -> Any:
    kinds = typing.get_type_hints(type(config))
    values = {}
    for name, change in changes.items():
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, 1)
            meant = f"; is {prefix}{near[0]} meant?" if near else f": it has {', '.join(kinds)}."
            raise InputError(f"--set {prefix}{name}: there is no such field{meant}")
        present = getattr(config, name)
        if isinstance(change, dict):
            if not dataclasses.is_dataclass(present):
                raise InputError(f"--set {prefix}{name}.{next(iter(change))}: {prefix}{name} has no fields of its own.")
            values[name] = _changed(present, change, f"{prefix}{name}.")
        else:
            values[name] = _value(kinds[name], present, *change)
    try:
        return dataclasses.replace(config, **values)
    except (TypeError, ValueError) as error:
        raise InputError(f"--set {prefix or ''}{', '.join(values)}: {error}.") from error
    except CTGroundedVLMError as error:
        raise InputError(f"--set: {error}") from error


def _value(kind: Any, present: Any, assignment: str, text: str) -> Any:
    if dataclasses.is_dataclass(present) or isinstance(present, dict):
        raise InputError(f"--set {assignment}: set its fields one by one.")
    allowed = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if str in allowed or any(typing.get_origin(a) is typing.Literal for a in allowed):
        return text
    if text.lower() in _WORDS:
        value = _WORDS[text.lower()]
    else:
        try:
            value = json.loads(text)
        except ValueError:
            value = text
    if float in allowed and type(value) is int:
        value = float(value)
    value = as_tuple(value)
    plain = tuple(a for a in (typing.get_origin(a) or a for a in allowed) if isinstance(a, type))
    if not isinstance(value, plain) or (isinstance(value, bool) and bool not in plain):
        raise InputError(
            f"--set {assignment}: expected {' or '.join('none' if a is types.NoneType else a.__name__ for a in plain)}."
        )
    return value
