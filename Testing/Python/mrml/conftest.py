"""Fixtures for tests on the real scene of slicer-core."""

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install slicer-core==5.13.31053.0")

from slicer_scene import a_scene


@pytest.fixture
def booted():
    """A fresh scene with its module logics (see ``slicer_scene.SlicerScene``)."""
    with a_scene() as opened:
        yield opened
