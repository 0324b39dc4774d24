"""Slice and 3D views as Slicer draws them, by its own displayable managers, into arrays and without an X server.

What Slicer's Qt widgets do around the displayable managers (``qMRMLSliceView``, ``qMRMLThreeDView``) is done here: a render
window, the slice logic's image, the interactor that knows the view's size. EGL gives the OpenGL context.
"""

from __future__ import annotations

import ctypes.util
import os
import sys
from pathlib import Path

if sys.platform == "linux":  # elsewhere a window without a screen needs no setting
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")  # before the first window is made

import numpy as np
import slicer
import slicer.util
import vtk
from PIL import Image
from vtk.util.numpy_support import vtk_to_numpy

# As qSlicerCoreApplication and the loadable modules register them.
SLICE_MANAGERS = (
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLScalarBarDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLColorLegendDisplayableManager",
)
THREE_D_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager3D",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLColorLegendDisplayableManager",
)
LAYOUT_COLOURS = {"Red": (0.953, 0.290, 0.200), "Green": (0.431, 0.690, 0.294), "Yellow": (0.929, 0.835, 0.298)}
ORIENTATIONS = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}


def missing_egl() -> str | None:
    """Why nothing can be rendered here, or None: for ``pytest.mark.skipif``, which shows it."""
    if sys.platform == "linux" and ctypes.util.find_library("EGL") is None:
        return "no EGL library, so that no view can be rendered: apt install libegl1 libgl1-mesa-dri"
    return None


class _View:
    """A render window without a screen, its renderer and the displayable managers of its view node."""

    def __init__(self, booted, factory, manager_names: tuple[str, ...], size: tuple[int, int]) -> None:
        factory.SetMRMLApplicationLogic(booted.application)
        for name in manager_names:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        for class_name in ("vtkMRMLSelectionNode", "vtkMRMLInteractionNode"):  # singletons: there is one of each
            booted.scene.AddNewNodeByClass(class_name)
        self.scene = booted.scene
        self.size = size
        self._factory = factory
        self.renderer = vtk.vtkRenderer()
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)  # with it, translucent segments vanish under depth peeling
        self.window.SetSize(*size)
        self.window.AddRenderer(self.renderer)
        self._interactor = vtk.vtkRenderWindowInteractor()
        self._interactor.SetRenderWindow(self.window)
        self._group = None

    def _attach(self, view_node) -> None:
        self.node = view_node
        self._group = self._factory.InstantiateDisplayableManagers(self.renderer)
        self._group.SetMRMLDisplayableNode(view_node)

    def picture(self) -> np.ndarray:
        """Render and return (H, W, 3) uint8, the first row on top."""
        self.window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.ReadFrontBufferOff()
        grab.ShouldRerenderOff()
        grab.Update()
        width, height, _ = grab.GetOutput().GetDimensions()
        pixels = vtk_to_numpy(grab.GetOutput().GetPointData().GetScalars()).reshape(height, width, -1)
        return pixels[::-1, :, :3].copy()

    def close(self) -> None:
        """Let go of the scene and the graphics memory."""
        if self._group is not None:
            self._group.SetMRMLDisplayableNode(None)
            self._group = None
        self.window.Finalize()


class SliceView(_View):
    """A slice view of Slicer; ``name`` is "Red" (axial), "Green" (coronal) or "Yellow" (sagittal)."""

    def __init__(self, booted, name: str = "Red", size: tuple[int, int] = (400, 300)) -> None:
        super().__init__(booted, slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance(), SLICE_MANAGERS, size)
        if booted.application.GetSliceLogics() is None:
            booted.application.SetSliceLogics(vtk.vtkCollection())
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(booted.scene)
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(booted.application)
        booted.application.GetSliceLogics().AddItem(self.logic)
        self._application = booted.application
        self.logic.SetMRMLScene(booted.scene)
        node = booted.scene.GetSingletonNode(name, "vtkMRMLSliceNode")
        if node is None:
            node = self.logic.AddSliceNode(name)
        else:  # of a layout that is there already: a second node of this name would only reset it
            self.logic.SetSliceNode(node)
        node.SetOrientation(ORIENTATIONS[name])
        node.SetLayoutColor(*LAYOUT_COLOURS[name])
        self.composite = self.logic.GetSliceCompositeNode()
        self._mapper = vtk.vtkImageMapper()  # window and level that leave the logic's colours as they are
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        image = vtk.vtkActor2D()
        image.SetMapper(self._mapper)
        image.GetProperty().SetDisplayLocationToBackground()
        self.renderer.AddViewProp(image)
        node.SetDimensions(*size, 1)
        self.logic.ResizeSliceNode(*size)
        self._attach(node)

    def show(self, volume_node) -> None:
        """The volume in the background, the whole of it in view."""
        self.composite.SetBackgroundVolumeID(volume_node.GetID())
        self.logic.FitSliceToBackground()

    def picture(self) -> np.ndarray:
        """Render and return (H, W, 3) uint8, the first row on top."""
        self.node.Modified()  # as Slicer's slice widget does: segments of a scene just loaded wait for it
        self.logic.UpdatePipeline()
        self._mapper.SetInputConnection(self.logic.GetImageDataConnection())  # a new one after a change of layers
        return super().picture()

    def ras(self) -> np.ndarray:
        """(H, W, 3): the place of each pixel's centre in mm."""
        width, height = self.size
        matrix = slicer.util.arrayFromVTKMatrix(self.node.GetXYToRAS())
        row, column = np.mgrid[:height, :width]
        xy = np.stack([column, height - 1 - row, np.zeros_like(row), np.ones_like(row)], axis=-1)
        return (xy @ matrix.T)[..., :3]

    def close(self) -> None:
        """Let go of the scene and the graphics memory."""
        super().close()
        self._application.GetSliceLogics().RemoveItem(self.logic)
        self.logic.SetMRMLScene(None)


class ThreeDView(_View):
    """A 3D view of Slicer. ``background``: lower and upper colour, by default Slicer's."""

    def __init__(self, booted, size: tuple[int, int] = (400, 300), background=None) -> None:
        super().__init__(
            booted, slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance(), THREE_D_MANAGERS, size
        )
        self._logic = slicer.vtkMRMLViewLogic()
        self._logic.SetMRMLScene(booted.scene)
        node = self._logic.AddViewNode("1")
        if background:
            node.SetBackgroundColor(background[0])
            node.SetBackgroundColor2(background[1])
        node.SetBoxVisible(False)
        node.SetAxisLabelsVisible(False)
        self._attach(node)

    def look(self, azimuth: float = 0.0, elevation: float = 0.0, zoom: float = 1.0) -> None:
        """Look at what is shown, from the front, turned by angles in degrees."""
        self.renderer.ResetCamera()
        camera = self.renderer.GetActiveCamera()
        focus, distance = np.array(camera.GetFocalPoint()), camera.GetDistance()
        camera.SetPosition(*(focus + np.array([0, distance, 0])))
        camera.SetViewUp(0, 0, 1)
        camera.Azimuth(azimuth)
        camera.Elevation(elevation)
        self.renderer.ResetCamera()
        camera.Zoom(zoom)
        self.renderer.ResetCameraClippingRange()


class FourUp:
    """Slicer's default layout: axial and 3D above, coronal and sagittal below. ``size``: of all four together."""

    def __init__(self, booted, size: tuple[int, int] = (960, 720), gap: int = 4) -> None:
        each = ((size[0] - gap) // 2, (size[1] - gap) // 2)
        self.slices = {name: SliceView(booted, name, each) for name in ORIENTATIONS}
        self.three_d = ThreeDView(booted, each)
        self._gap = gap

    def show(self, volume_node) -> None:
        """The volume in the background of the slice views."""
        for view in self.slices.values():
            view.show(volume_node)

    def picture(self) -> np.ndarray:
        """Render all (H, W, 3) uint8, each slice view with its bar of colour as Slicer's."""
        red, green, yellow = (_with_bar(view) for view in self.slices.values())
        return _grid([[red, self.three_d.picture()], [green, yellow]], self._gap)

    def close(self) -> None:
        """Let go of the scene and the graphics memory."""
        for view in (*self.slices.values(), self.three_d):
            view.close()


def _with_bar(view: SliceView) -> np.ndarray:
    pixels = view.picture()
    pixels[:6] = np.round(np.array(view.node.GetLayoutColor()) * 255)
    return pixels


def _grid(rows: list[list[np.ndarray]], gap: int) -> np.ndarray:
    height, width, _ = rows[0][0].shape
    sheet = np.full((2 * height + gap, 2 * width + gap, 3), 60, np.uint8)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            top, left = row * (height + gap), column * (width + gap)
            sheet[top : top + height, left : left + width] = picture
    return sheet


def save_picture(pixels: np.ndarray, path: Path) -> None:
    """Write (H, W, 3) uint8 as PNG."""
    Image.fromarray(pixels).save(path, optimize=True)


def load_picture(path: Path) -> np.ndarray:
    """Read a PNG as (H, W, 3) uint8."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
