"""The error family. Raise these inside the library; show them once, at the edge (the CLI, the Slicer widget).

Every message names the input, what was expected and the remedy. ``exit_code`` is what ``ctgvlm`` exits with.
"""


class CTGroundedVLMError(Exception):
    """Base of all errors that a user can do something about."""

    exit_code = 1


class InputError(CTGroundedVLMError):
    """A CT, segmentation, report or other input file cannot be used."""

    exit_code = 3


class VolumeError(InputError):
    """The CT cannot be read, or is not a CT in Hounsfield units that can be analysed."""


class SegmentationError(InputError):
    """The segmentation cannot be read, or does not belong to the CT."""


class ReportError(InputError):
    """The report text cannot be read."""


class ModelError(CTGroundedVLMError):
    """A checkpoint is missing, incomplete or of the wrong shape."""

    exit_code = 4


class DependencyError(CTGroundedVLMError):
    """An optional component (TotalSegmentator, its weights, a GPU) is not there."""

    exit_code = 5


class ResourceError(CTGroundedVLMError):
    """Memory does not suffice."""

    exit_code = 6


class OutputError(CTGroundedVLMError):
    """The output cannot be written where it was asked for."""

    exit_code = 7
