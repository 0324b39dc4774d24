"""Frozen dataclasses <-> values that JSON can hold, checked on the way in. Standard library only, arrays aside.

What a field holds is read from its type, so that a new field of ``types.py`` travels without a change here. An array becomes
what ``store`` makes of it (a file's name, say), and ``load`` gives it back.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .errors import InputError

Record = TypeVar("Record")
Store = Callable[[np.ndarray], Any]
Load = Callable[[Any], np.ndarray]
_TUPLE = "(tuple)"  # marks a tuple where the type does not say that there is one


def to_record(value: Any, store: Store | None = None) -> Any:
    """``value`` (a dataclass, tuple, mapping, path, number or text) as JSON can hold it.

    Raises:
        TypeError: it holds something else, or an array and there is no ``store``.
    """
    if isinstance(value, np.ndarray) and value.ndim and store is not None:
        return store(value)
    if dataclasses.is_dataclass(value):
        return {f.name: to_record(getattr(value, f.name), store) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _untyped(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_record(item, store) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _untyped(value: Any) -> Any:
    """As ``to_record``, but tuples keep their kind: the type of a mapping's values is mostly ``object``."""
    if isinstance(value, tuple):
        return {_TUPLE: [_untyped(item) for item in value]}
    if isinstance(value, list):
        return [_untyped(item) for item in value]
    return to_record(value)


def from_record(cls: type[Record], record: Any, what: str, load: Load | None = None) -> Record:
    """The dataclass ``cls`` from what ``to_record`` made of one. ``what`` names the input in messages.

    Raises:
        InputError: a field is unknown, missing, or of another type than the class says.
    """
    return _decode(cls, record, what, load)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, localns={"np": np})


def _decode(hint: Any, value: Any, what: str, load: Load | None) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(hint, value, what, load)
    if origin is typing.Literal:
        return _decode_choice(typing.get_args(hint), value, what)
    if origin in (typing.Union, types.UnionType):
        (inner,) = (kind for kind in typing.get_args(hint) if kind is not type(None))
        return None if value is None else _decode(inner, value, what, load)
    if origin is tuple:
        return _decode_tuple(typing.get_args(hint), value, what, load)
    if origin is not None and issubclass(origin, Mapping):
        key_hint, value_hint = typing.get_args(hint)
        _expect(value, dict, "an object", what)
        return {
            (int(key) if key_hint is int else key): _decode(value_hint, item, f'{what}, "{key}"', load)
            for key, item in value.items()
        }
    return _decode_plain(hint, value, what, load)


def _decode_plain(hint: Any, value: Any, what: str, load: Load | None) -> Any:
    if hint is np.ndarray:
        return load(value)
    if hint is Path:
        _expect(value, str, "a path", what)
        return Path(value)
    if hint in (object, Any):
        return _tuples_restored(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, bool):
        raise InputError(f"{what} is {value!r}, a whole number is expected.")
    _expect(value, hint, {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[hint], what)
    return value


def _decode_dataclass(cls: type, value: Any, what: str, load: Load | None) -> Any:
    _expect(value, dict, f"an object with the fields of {cls.__name__}", what)
    hints = _hints(cls)
    unknown = [name for name in value if name not in hints]
    if unknown:
        raise InputError(f'{what} has no field "{unknown[0]}". It has: {", ".join(hints)}.')
    missing = [
        field.name
        for field in dataclasses.fields(cls)
        if field.name not in value
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f'{what} lacks the field "{missing[0]}".')
    return cls(**{name: _decode(hints[name], item, f'{what}, "{name}"', load) for name, item in value.items()})


def _decode_choice(choices: tuple[Any, ...], value: Any, what: str) -> Any:
    if value not in choices:
        raise InputError(f"{what} is {value!r}; one of {', '.join(repr(choice) for choice in choices)} is expected.")
    return value


def _decode_tuple(hints: tuple[Any, ...], value: Any, what: str, load: Load | None) -> tuple[Any, ...]:
    _expect(value, (list, tuple), "a list", what)
    if len(hints) == 2 and hints[1] is Ellipsis:
        return tuple(_decode(hints[0], item, f"{what}, item {n}", load) for n, item in enumerate(value, 1))
    if len(hints) != len(value):
        raise InputError(f"{what} has {len(value)} items, {len(hints)} are expected.")
    return tuple(
        _decode(hint, item, f"{what}, item {n}", load)
        for n, (hint, item) in enumerate(zip(hints, value, strict=True), 1)
    )


def _tuples_restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_tuples_restored(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {_TUPLE}:
            return tuple(_tuples_restored(item) for item in value[_TUPLE])
        return {key: _tuples_restored(item) for key, item in value.items()}
    return value


def _expect(value: Any, kind: Any, expected: str, what: str) -> None:
    if not isinstance(value, kind):
        raise InputError(f"{what} is {value!r:.80}; {expected} is expected.")
