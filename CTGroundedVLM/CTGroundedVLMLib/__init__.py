"""CTGroundedVLM's core: no Qt and no Slicer, two adapter files aside. Research use only."""

__version__ = "0.1.0"
