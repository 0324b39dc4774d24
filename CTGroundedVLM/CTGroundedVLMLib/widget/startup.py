"""What the module does when Slicer has started: offer the sample data, go on with an installation."""

from __future__ import annotations

import logging

import slicer
from slicer.i18n import tr as _

from ..dependencies import DependencyInstaller
from ..sample_data import PhantomSample
from .errors import shown_errors


def start_up() -> None:
    """Register the sample data; go on with an installation that Slicer was restarted for."""
    with shown_errors(_("The sample data of CTGroundedVLM was not registered.")):
        try:
            PhantomSample(slicer).register()
        except ImportError as error:  # SampleData is disabled; the panel's button works all the same
            logging.info("The sample data of CTGroundedVLM is offered by its panel only: %s", error)
    with shown_errors(_("The installation of CTGroundedVLM's Python packages did not end well.")):
        DependencyInstaller(slicer).resume()
