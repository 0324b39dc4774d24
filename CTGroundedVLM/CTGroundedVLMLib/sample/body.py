"""What differs from patient to patient and from scan to scan: the grid, the size and shape of organs, their HU.

The defaults are those of ``ctgvlm sample``; the training package's synthetic corpus draws others.
"""

from __future__ import annotations

from dataclasses import dataclass

AORTA_POINTS = 14  # of chest.AORTA


@dataclass(frozen=True)
class Grid:
    """Voxels of a scan that is stored LPS: ``shape_kji``, ``spacing_ijk`` in mm, ``origin_lps`` of voxel (0, 0, 0) in mm."""

    shape_kji: tuple[int, int, int]
    spacing_ijk: tuple[float, float, float]
    origin_lps: tuple[float, float, float]


@dataclass(frozen=True)
class Tissues:
    """HU of tissues. The defaults are those of a scan without contrast agent.

    ``arterial``: aorta and its branches; ``left_heart``, ``right_heart``: blood; ``venous``: systemic veins above the liver;
    ``renal``, ``medulla``: cortex and medulla of the kidney; ``wall``: of stomach and bowel; ``urine``: renal pelvis.
    """

    arterial: float = 41.0
    left_heart: float = 41.0
    right_heart: float = 41.0
    myocardium: float = 51.0
    venous: float = 41.0
    cava: float = 42.0
    pulmonary: float = 41.0
    lung_vessel: float = 35.0
    portal: float = 42.0
    hepatic_vein: float = 38.0
    liver: float = 60.0
    spleen: float = 50.0
    renal: float = 33.0
    medulla: float = 33.0
    adrenal: float = 30.0
    pancreas: float = 42.0
    wall: float = 42.0
    urine: float = 10.0
    muscle: float = 54.0
    fat: float = -105.0
    lung: float = -838.0
    marrow: float = 175.0


@dataclass(frozen=True)
class Organ:
    """Size of an organ (1 is average) and how far it is moved, x, y, z in mm (LPS)."""

    size: float = 1.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Body:
    """Shape of a patient.

    ``skin_mm``: by which the skin lies further out (obesity). ``diaphragm_mm``: by which the right and left domes are higher.
    ``liver_mm``, ``liver_left_mm``: by which the liver reaches lower, and further to the left. ``gallbladder``: size 0 is one
    that was removed. ``aorta``: factor on the radius at each point of ``chest.AORTA``. ``stomach_level_mm``: by which gas in the
    stomach reaches further back. ``fracture``: a vertebra and the share of its body's height that it lost in front.
    ``lung_vessels``: ends of the two vessel trees of each lung.
    """

    fat_mm: float = 14.0
    skin_mm: float = 0.0
    heart: float = 0.9
    diaphragm_mm: tuple[float, float] = (0.0, 0.0)
    liver_mm: float = 0.0
    liver_left_mm: float = 0.0
    spleen: Organ = Organ()
    kidney_left: Organ = Organ()
    kidney_right: Organ = Organ()
    gallbladder: Organ = Organ()
    pancreas: float = 1.0
    stomach: float = 1.0
    stomach_level_mm: float = 0.0
    aorta: tuple[float, ...] = (1.0,) * AORTA_POINTS
    fracture: tuple[str, float] | None = None
    lung_vessels: tuple[int, int] = (620, 420)


SAMPLE_GRID = Grid((150, 188, 248), (1.5, 1.5, 2.5), (-185.25, -135.0, 0.0))
UNENHANCED = Tissues()
AVERAGE = Body()
