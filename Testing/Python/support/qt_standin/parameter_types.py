"""What a parameter of the stand-in's ``parameterNodeWrapper`` may be, and how it is kept in a parameter node.

Values are kept as Slicer keeps them, so a scene saved here is read there: text parameters of a
``vtkMRMLScriptedModuleNode``, node references for nodes. Types that Slicer knows and this stand-in does not are refused
by name.
"""

from __future__ import annotations

import enum
import pathlib
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import slicer


class Validator:
    """Base class of the annotations that limit a value."""

    def validate(self, value: Any) -> None:
        raise NotImplementedError


class NotNone(Validator):
    def validate(self, value: Any) -> None:
        if value is None:
            raise ValueError("Value must not be None")


class IsInstance(Validator):
    def __init__(self, classtype: Any) -> None:
        self.classtype = classtype

    def validate(self, value: Any) -> None:
        if value is not None and not isinstance(value, self.classtype):
            raise TypeError(f"Value must be of type '{self.classtype}', is '{type(value)}' value '{value}'")


class WithinRange(Validator):
    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], is {value}")


class Minimum(Validator):
    def __init__(self, minimum: float) -> None:
        self.minimum = minimum

    def validate(self, value: Any) -> None:
        if value < self.minimum:
            raise ValueError(f"Value must be at least {self.minimum}, is {value}")


class Maximum(Validator):
    def __init__(self, maximum: float) -> None:
        self.maximum = maximum

    def validate(self, value: Any) -> None:
        if value > self.maximum:
            raise ValueError(f"Value must be at most {self.maximum}, is {value}")


class Choice(Validator):
    def __init__(self, choices: Any) -> None:
        self.choices = choices

    def validate(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"Value is {value}, but must be one of {self.choices}")


class Exclude(Validator):
    def __init__(self, excludedValues: Any) -> None:
        self.excludedValues = excludedValues

    def validate(self, value: Any) -> None:
        if value in self.excludedValues:
            raise ValueError(f"Value is {value}, which is excluded")


@dataclass
class Default:
    """Annotation: the parameter's value in a new parameter node."""

    value: Any


@dataclass
class Decimals:
    """Annotation: decimals of the connected widget."""

    value: int


@dataclass
class SingleStep:
    """Annotation: step of the connected widget."""

    value: float


_NUMBERS_TAKEN = {int: int, float: (int, float)}


@dataclass(frozen=True)
class Kind:
    """How values of one type are kept."""

    default: Any
    to_text: Callable[[Any], str]
    from_text: Callable[[str], Any]
    validators: tuple[Validator, ...]
    is_node: bool = False


def kind_of(annotated: Any) -> Kind:
    """The kind for a type hint; a TypeError names what the stand-in does not know."""
    base, _annotations = split(annotated)
    if base in _NUMBERS_TAKEN:
        return Kind(0, str, base, (NotNone(), IsInstance(_NUMBERS_TAKEN[base])))
    if base is str:
        return Kind("", str, str, (NotNone(), IsInstance(str)))
    if base is bool:
        return Kind(False, lambda v: "True" if v else "False", lambda t: t == "True", (NotNone(), IsInstance(bool)))
    if isinstance(base, type) and issubclass(base, pathlib.PurePath):
        return Kind(base(), str, base, (NotNone(), IsInstance(base)))
    if isinstance(base, type) and issubclass(base, enum.Enum):
        return Kind(next(iter(base)), lambda v: v.name, lambda t: base[t], (NotNone(), IsInstance(base)))
    if isinstance(base, type) and issubclass(base, slicer.vtkMRMLNode):
        return Kind(None, lambda v: "", lambda t: None, (IsInstance(base),), is_node=True)
    raise TypeError(f"the stand-in's parameterNodeWrapper does not know {annotated!r}; extend parameter_types.py")


def split(annotated: Any) -> tuple[Any, list[Any]]:
    """A type hint without its annotations, and these; ``X | None`` of a node is X."""
    annotations: list[Any] = []
    if typing.get_origin(annotated) is typing.Annotated:
        annotated, *annotations = typing.get_args(annotated)
    return annotated, annotations


class Parameter:
    """One parameter: its name, type, default and validators, read from and written to a parameter node."""

    def __init__(self, name: str, annotated: Any, default: Any = None) -> None:
        self.name, self.annotated = name, annotated
        self.kind = kind_of(annotated)
        _base, self.annotations = split(annotated)
        self.validators = (*self.kind.validators, *(a for a in self.annotations if isinstance(a, Validator)))
        annotated_default = self.annotation(Default)
        self.default = default or annotated_default or Default(self.kind.default)

    def annotation(self, kind: type) -> Any:
        """The first annotation of a class, or None."""
        return next((a for a in self.annotations if isinstance(a, kind)), None)

    def is_in(self, node: Any) -> bool:
        """Whether the node has a value for this parameter."""
        return bool(node.HasParameter(self.name))

    def read(self, node: Any) -> Any:
        """The value; the default is written first if the node has none."""
        if not self.is_in(node):
            self.write(node, self.default.value)
        return (
            node.GetNodeReference(self.name) if self.kind.is_node else self.kind.from_text(node.GetParameter(self.name))
        )

    def write(self, node: Any, value: Any) -> None:
        """Validate and keep a value."""
        for validator in self.validators:
            validator.validate(value)
        node.SetParameter(self.name, self.kind.to_text(value))
        if self.kind.is_node:
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
