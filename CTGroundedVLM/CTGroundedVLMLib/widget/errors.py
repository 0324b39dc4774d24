"""The one place where the panel shows errors."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import slicer.util
from slicer.i18n import tr as _

from ..errors import CTGroundedVLMError


@contextmanager
def shown_errors(what: str) -> Iterator[None]:
    """Show what goes wrong in this block and end it there: a slot must not raise, nobody would catch it.

    Errors that the user can do something about are shown as they are; others with their traceback.
    """
    try:
        yield
    except Exception as error:
        show_error(what, error)


def show_error(what: str, error: Exception) -> None:
    """A message box with what failed and why; the application's log gets it too."""
    if isinstance(error, CTGroundedVLMError):
        slicer.util.errorDisplay(f"{what}\n\n{error}")
        return
    details = "".join(traceback.format_exception(error))
    logging.error(details)
    text = _("This is an error of the module. Please report it with the details.")
    slicer.util.errorDisplay(f"{what}\n\n{error}\n\n{text}", detailedText=details)
