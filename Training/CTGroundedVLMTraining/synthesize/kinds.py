"""The findings that can be drawn: what they are called in the registry, how often and where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    ``organ`` and ``finding``: its name in the registry (``anatomy.findings``). ``label``: its value in findings.nii.gz.
    ``prevalence``: share of the scans that show its organ. ``focal``: it lies in a part of its organ. ``implies``: other findings
    of the registry that are there with it ("organ/finding"). ``needs``: segments one of which the scan must show.
    ``drawn_by_anatomy``: it is a shape of the organ itself, so that it cannot be planted into a real CT.
    """

    name: str
    label: int
    organ: str
    finding: str
    prevalence: float
    needs: tuple[str, ...]
    focal: bool = True
    implies: tuple[str, ...] = ()
    drawn_by_anatomy: bool = False

    @property
    def key(self) -> str:
        """``organ/finding``: the column of labels.csv."""
        return f"{self.organ}/{self.finding}"


ASSESSABLE = 0.5  # share of an organ that a scan must show before a finding of it counts as absent
LOBES = (
    "lung_upper_lobe_left",
    "lung_lower_lobe_left",
    "lung_upper_lobe_right",
    "lung_middle_lobe_right",
    "lung_lower_lobe_right",
)
THORACIC = tuple(f"vertebrae_T{n}" for n in range(1, 13))
_KIDNEYS = ("kidney_left", "kidney_right")
_ADRENALS = ("adrenal_gland_left", "adrenal_gland_right")

# In the order in which they are drawn: shapes, then what is diffuse, then fluid, then what is focal.
KINDS: tuple[Kind, ...] = (
    Kind("cardiomegaly", 1, "heart", "Cardiomegaly", 0.18, ("heart",), False, drawn_by_anatomy=True),
    Kind("splenomegaly", 2, "spleen", "Splenomegaly", 0.15, ("spleen",), False, drawn_by_anatomy=True),
    Kind("aortic aneurysm", 3, "aorta", "Aortic aneurysm", 0.12, ("aorta",), drawn_by_anatomy=True),
    Kind("vertebral fracture", 4, "thoracic vertebrae", "Vertebral compression fracture", 0.14, THORACIC,
         drawn_by_anatomy=True),
    Kind("steatosis", 5, "liver", "Hepatic steatosis", 0.2, ("liver",), False),
    Kind("emphysema", 6, "lung", "Emphysema", 0.17, LOBES, False),
    Kind("pleural effusion", 7, "lung", "Pleural effusion", 0.2, LOBES),
    Kind("pneumothorax", 8, "lung", "Pneumothorax", 0.1, LOBES),
    Kind("pericardial effusion", 9, "heart", "Pericardial effusion", 0.15, ("heart",)),
    Kind("ground-glass opacity", 10, "lung", "Lung opacity", 0.15, LOBES),
    Kind("consolidation", 11, "lung", "Consolidation", 0.17, LOBES, implies=("lung/Lung opacity",)),
    Kind("atelectasis", 12, "lung", "Atelectasis", 0.18, LOBES),
    Kind("lung nodule", 13, "lung", "Lung nodule", 0.22, LOBES),
    Kind("hiatal hernia", 14, "esophagus", "Hiatal hernia", 0.15, ("esophagus",)),
    Kind("liver metastasis", 15, "liver", "Liver metastasis", 0.14, ("liver",),
         implies=("liver/Hypoattenuating liver lesion",)),
    Kind("hepatic cyst", 16, "liver", "Hepatic cyst", 0.18, ("liver",), implies=("liver/Hypoattenuating liver lesion",)),
    Kind("renal cyst", 17, "kidney", "Renal cyst", 0.2, _KIDNEYS, implies=("kidney/Hypoattenuating renal lesion",)),
    Kind("hydronephrosis", 18, "kidney", "Hydronephrosis", 0.14, _KIDNEYS, implies=("kidney/Renal pelvic dilatation",)),
    Kind("pancreatic cyst", 19, "pancreas", "Pancreatic cyst", 0.14, ("pancreas",),
         implies=("pancreas/Low-density pancreatic lesion",)),
    Kind("adrenal nodule", 20, "adrenal gland", "Adrenal nodule", 0.15, _ADRENALS),
    Kind("gallstone", 21, "gallbladder", "Cholelithiasis", 0.2, ("gallbladder",)),
    Kind("renal stone", 22, "kidney", "Nephrolithiasis", 0.16, _KIDNEYS),
    Kind("coronary calcification", 23, "heart", "Coronary artery wall calcification", 0.22, ("heart",)),
    Kind("aortic calcification", 24, "aorta", "Arterial wall calcification", 0.25, ("aorta",),
         implies=("aorta/Aortic calcification", "aorta/Atherosclerosis")),
)  # fmt: skip
KIND = {kind.name: kind for kind in KINDS}
# Given the first, the second is so many times as likely: findings come together.
TOGETHER: dict[tuple[str, str], float] = {
    ("cardiomegaly", "pleural effusion"): 1.8,
    ("pleural effusion", "atelectasis"): 2.2,
    ("emphysema", "coronary calcification"): 1.5,
    ("coronary calcification", "aortic calcification"): 1.8,
    ("aortic aneurysm", "aortic calcification"): 2.0,
    ("ground-glass opacity", "consolidation"): 1.6,
    ("hydronephrosis", "renal stone"): 1.8,
    ("splenomegaly", "pleural effusion"): 1.3,
    ("hepatic cyst", "renal cyst"): 1.5,
}


def with_implied(keys: Iterable[str]) -> set[str]:
    """These findings ("organ/finding") and all that is there with them."""
    known: set[str] = set()
    new = set(keys)
    while new:
        known |= new
        new = {key for kind in KINDS if kind.key in new for key in kind.implies} - known
    return known


def label_columns() -> tuple[str, ...]:
    """The "organ/finding" columns of labels.csv."""
    return tuple(dict.fromkeys(key for kind in KINDS for key in (kind.key, *kind.implies)))
