"""One analysis from end to end in a real Slicer: run by ctest, or by the module's Reload and Test.

It needs the Python packages to be installed beforehand (Slicer installs nothing while it tests); without them it is skipped.
"""

import tempfile
import unittest
from pathlib import Path

import slicer

from CTGroundedVLM import CTGroundedVLMLogic
from CTGroundedVLMLib.dependencies import DependencyInstaller
from CTGroundedVLMLib.sample_data import PhantomSample


class AnalysisInSlicer(unittest.TestCase):
    """The tutorial's steps, with the model of random weights: what is shown is checked, not what it means."""

    def setUp(self):
        slicer.mrmlScene.Clear()
        plan = DependencyInstaller(slicer).plan()
        if not plan.complete:
            self.skipTest(f"Python packages are missing: {plan.names}")

    def test_the_results_are_nodes_that_survive_saving_and_loading(self):
        nodes = PhantomSample(slicer).load()
        logic = CTGroundedVLMLogic()
        try:
            result = logic.analyze(nodes.volume, nodes.segmentation, report=nodes.report, model="untrained")
            assert any(finding.probability is not None for finding in result.findings)
            assert "lung_middle_lobe_right" in {name for link in result.links for name in link.segments}
            assert logic.heatmap(result, "lung", "lung nodule").organ == "lung"
        finally:
            logic.close()
        before = self._names_of_nodes()
        assert slicer.util.getNodesByClass("vtkMRMLTableNode")
        with tempfile.TemporaryDirectory() as folder:
            assert slicer.util.saveScene(str(Path(folder) / "scene.mrb"))
            slicer.mrmlScene.Clear()
            slicer.util.loadScene(str(Path(folder) / "scene.mrb"))
        assert self._names_of_nodes() == before

    def _names_of_nodes(self):
        classes = ("vtkMRMLTableNode", "vtkMRMLTextNode", "vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode")
        return {name: sorted(node.GetName() for node in slicer.util.getNodesByClass(name)) for name in classes}


if __name__ == "__main__":
    unittest.main()
