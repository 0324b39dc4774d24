"""Stand-in for PythonQt, ctk, Slicer's widgets and Slicer's application, on PySide6 and slicer-core's real scene.

This is test code. Slicer itself can not run here, so the panel is tested against these classes, which were written from
Slicer's, CTK's and PythonQt's public sources and behave as those do where the panel touches them. They are strict: what
PythonQt refuses fails here too as far as that can be done on PySide6 (``members``, ``signals``), and what it only
prints is collected (``errors``) and fails the test. What can not be refused at run time is held by the lint test
``test_pythonqt_rules.py``. The scene, the module logics and ``slicer.util`` are the real ones.

Start at ``session.a_session``.
"""

from qt_standin.session import Session, a_session, install

__all__ = ["Session", "a_session", "install"]
