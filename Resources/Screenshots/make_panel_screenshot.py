"""Draw the module's picture for the README: ``python Resources/Screenshots/make_panel_screenshot.py [FOLDER]``.

The panel is the real one (the module's own code and .ui file) on the tests' stand-in for Slicer's Qt widgets, so that its style
is not quite Slicer's; the views are drawn by Slicer's own displayable managers from the same scene. The patient is the
synthetic sample, analysed by the model that the panel offers first.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "CTGroundedVLM"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "Testing" / "Python" / "support"))

import numpy as np
from PIL import Image

from offscreen_views import FourUp, missing_egl
from panel_session import add_case, open_empty_panel
from qt_standin import a_session
from slicer_scene import the_phantom_case

PANEL_SIZE = (420, 1000)
VIEWS_SIZE = (1040, 1000)
FINDING = ("lung", "Lung nodule")


def draw(path: Path) -> Path:
    """Analyse the sample in the panel, click a finding, and write panel and views side by side."""
    with tempfile.TemporaryDirectory() as folder, a_session(Path(folder)) as session:
        case = the_phantom_case()
        panel = add_case(open_empty_panel(session), case, case.report_text)
        views = FourUp(session.booted, VIEWS_SIZE)
        views.show(panel.volume)
        panel.volume.GetDisplayNode().SetAutoWindowLevel(False)
        panel.volume.GetDisplayNode().SetWindowLevel(400, 50)
        panel.analyze()
        ui = panel.ui
        for box in (ui.inputsCollapsibleButton, ui.modelCollapsibleButton):
            box.collapsed = True
        ui.findingsTable.setCurrentCell(panel.row_of(*FINDING), 0)
        panel.finish()
        end = time.monotonic() + 5  # surfaces come one by one
        while time.monotonic() < end:
            session.process_events()
        views.three_d.look(30, 15)
        panel.representation.resize(*PANEL_SIZE)
        session.process_events()
        grabbed = Path(folder) / "panel.png"
        panel.representation.grab().save(str(grabbed))
        left = np.asarray(Image.open(grabbed).convert("RGB").resize(PANEL_SIZE, Image.Resampling.LANCZOS))
        Image.fromarray(np.hstack([left, views.picture()])).save(path, optimize=True)
        views.close()
    return path


if __name__ == "__main__":
    if problem := missing_egl():
        raise SystemExit(problem)
    print(draw(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent) / "slicer_module.png"))
