"""The report of the synthetic CT: what was planted is described and measured, the other organs are called normal."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from .findings import PlantedFinding

# One template is chosen per finding; {size} is the measured size.
_PRESENT: dict[str, tuple[str, ...]] = {
    "pleural effusion": (
        "There is a {amount} {side} pleural effusion, up to {size} in thickness.",
        "{Amount} layering pleural effusion on the {side}, measuring {size} in maximal thickness.",
    ),
    "lung nodule": (
        "There is a solid nodule in the {lobe} measuring {size}.",
        "{A_size} solid pulmonary nodule is seen in the {lobe}.",
    ),
    "emphysema": (
        "Mild centrilobular emphysema is present in both upper lobes.",
        "There is upper lobe predominant emphysema.",
    ),
    "coronary calcification": (
        "There is {extent} coronary artery calcification in the left anterior descending artery.",
        "{Extent} calcified plaque is seen in the left anterior descending coronary artery.",
    ),
    "aortic calcification": (
        "There is {extent} calcified atherosclerotic plaque of the aorta.",
        "{Extent} aortic wall calcification is noted.",
    ),
    "pericardial effusion": (
        "There is a {amount} pericardial effusion measuring up to {size} in thickness.",
        "{Amount} pericardial effusion, {size} at its thickest.",
    ),
    "hiatal hernia": (
        "There is a hiatal hernia measuring {size} across.",
        "A sliding hiatal hernia measures {size} in transverse diameter.",
    ),
    "hepatic cyst": (
        "There is {a_size} simple cyst in the {lobe} hepatic lobe.",
        "A water-attenuation lesion in the {lobe} lobe of the liver measures {size}, consistent with a hepatic cyst.",
    ),
    "hepatic steatosis": (
        "The liver is diffusely low in attenuation relative to the spleen, consistent with hepatic steatosis.",
        "Diffuse hepatic steatosis is present.",
    ),
    "gallstone": (
        "The gallbladder contains a calcified stone measuring {size}.",
        "There is {a_size} calcified gallstone in the gallbladder.",
    ),
    "renal cyst": (
        "There is {a_size} simple cyst of the {side} kidney.",
        "A simple renal cyst on the {side} measures {size}.",
    ),
    "renal stone": (
        "There is {a_size} nonobstructing stone in the {pole} pole of the {side} kidney.",
        "{A_size} nonobstructing calculus is seen in the {side} kidney, {pole} pole.",
    ),
    "adrenal nodule": (
        "There is {a_size} low-attenuation nodule of the {side} adrenal gland.",
        "A low-attenuation {side} adrenal nodule measures {size}, consistent with an adenoma.",
    ),
}
_IMPRESSION: dict[str, str] = {
    "pleural effusion": "{Amount} {side} pleural effusion.",
    "lung nodule": "{size} solid nodule in the {lobe}.",
    "emphysema": "Emphysema.",
    "coronary calcification": "{Extent} coronary artery calcification.",
    "aortic calcification": "{Extent} aortic wall calcification.",
    "pericardial effusion": "{Amount} pericardial effusion.",
    "hiatal hernia": "Hiatal hernia.",
    "hepatic cyst": "Hepatic cyst, {size}.",
    "hepatic steatosis": "Hepatic steatosis.",
    "gallstone": "Cholelithiasis.",
    "renal cyst": "Simple cyst of the {side} kidney.",
    "renal stone": "Nonobstructing stone of the {side} kidney.",
    "adrenal nodule": "{Side} adrenal nodule, {size}.",
}
# What is said where no finding of these kinds is there: (kinds, ways to say it).
_Normal = tuple[tuple[str, ...], tuple[str, ...]]
_CHEST: tuple[_Normal, ...] = (
    (("lung nodule",), ("No pulmonary nodule is seen.", "There is no lung nodule.")),
    (("emphysema",), ("There is no emphysema.", "No emphysema is seen.")),
    ((), ("No consolidation is seen.", "There is no consolidation or ground-glass opacity.")),
    (("pleural effusion",), ("There is no pleural effusion.", "No pleural effusion.")),
    ((), ("There is no pneumothorax.", "No pneumothorax is seen.")),
    ((), ("The trachea and main bronchi are patent.", "The central airways are clear.")),
)
_MEDIASTINUM: tuple[_Normal, ...] = (
    ((), ("The heart is normal in size.", "Heart size is normal.")),
    (("pericardial effusion",), ("There is no pericardial effusion.", "No pericardial effusion is seen.")),
    (
        ("coronary calcification",),
        ("No coronary artery calcification is seen.", "The coronary arteries are not calcified."),
    ),
    ((), ("The thoracic aorta is normal in caliber.", "There is no aortic aneurysm.")),
    (("aortic calcification",), ("There is no aortic wall calcification.", "No calcification of the aorta is seen.")),
    (("hiatal hernia",), ("There is no hiatal hernia.", "The esophagus is unremarkable, without hiatal hernia.")),
)
_UPPER_ABDOMEN: tuple[_Normal, ...] = (
    (("hepatic steatosis",), ("The liver is normal in attenuation.", "There is no hepatic steatosis.")),
    (("hepatic cyst",), ("No focal liver lesion is seen.", "There is no focal hepatic lesion.")),
    (("gallstone",), ("The gallbladder is unremarkable, without stones.", "There are no gallstones.")),
    ((), ("The spleen and pancreas are unremarkable.", "The pancreas and spleen are normal.")),
    (("adrenal nodule",), ("The adrenal glands are normal.", "No adrenal nodule is seen.")),
    (
        ("renal cyst", "renal stone"),
        ("The kidneys are unremarkable.", "The kidneys are normal, without hydronephrosis."),
    ),
)
_BONES: tuple[_Normal, ...] = (
    ((), ("No rib fracture is seen.", "The ribs are intact.")),
    ((), ("The thoracic vertebrae are normal in height.", "There is no vertebral compression fracture.")),
)
_PARAGRAPHS = (
    ("LUNGS AND PLEURA", _CHEST, ("pleural effusion", "lung nodule", "emphysema")),
    (
        "HEART AND MEDIASTINUM",
        _MEDIASTINUM,
        ("coronary calcification", "aortic calcification", "pericardial effusion", "hiatal hernia"),
    ),
    (
        "UPPER ABDOMEN",
        _UPPER_ABDOMEN,
        ("hepatic cyst", "hepatic steatosis", "gallstone", "renal cyst", "renal stone", "adrenal nodule"),
    ),
    ("BONES", _BONES, ()),
)
_INDICATIONS = (
    "Persistent cough and dyspnea.",
    "Chest discomfort and upper abdominal pain.",
    "Abnormal chest radiograph.",
    "Unintentional weight loss.",
)


def size_text(millimetres: int, in_cm: bool) -> str:
    """A measurement as a report writes it: "12 mm", or "1.2 cm"."""
    return f"{millimetres / 10:.1f} cm" if in_cm else f"{millimetres} mm"


def write_report(findings: Sequence[PlantedFinding], rng: np.random.Generator, seed: int) -> tuple[str, dict[str, str]]:
    """The report, and for each kind of planted finding the sentence of the findings section that describes it."""
    words = {f.kind: _words(f, bool(rng.random() < 0.4)) for f in findings}
    sentences = {f.kind: _choose(_PRESENT[f.kind], rng).format(**words[f.kind]) for f in findings}
    sentences = {kind: text[0].upper() + text[1:] for kind, text in sentences.items()}
    paragraphs = []
    for heading, normals, kinds in _PARAGRAPHS:
        lines = [sentences[kind] for kind in kinds if kind in sentences]
        lines += [_choose(ways, rng) for covers, ways in normals if not set(covers) & set(sentences)]
        paragraphs.append(f"{heading}: {' '.join(lines)}")
    impression = [_IMPRESSION[f.kind].format(**words[f.kind]) for f in findings]
    numbered = [f"{n}. {text[0].upper()}{text[1:]}" for n, text in enumerate(impression, start=1)]
    blocks = [
        "CT CHEST AND UPPER ABDOMEN WITHOUT CONTRAST",
        f"INDICATION: {_choose(_INDICATIONS, rng)}",
        "TECHNIQUE: Synthetic patient: this scan is a computer-generated phantom, not a human being "
        f"(sample {seed}). 2.5 mm axial slices from the thoracic inlet to the upper abdomen, no intravenous contrast.",
        "COMPARISON: None.",
        "FINDINGS:\n" + "\n".join(paragraphs),
        "IMPRESSION:\n" + "\n".join(numbered),
    ]
    return "\n\n".join(blocks) + "\n", sentences


def _choose(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _words(finding: PlantedFinding, in_cm: bool) -> dict[str, str]:
    words = dict(finding.words)
    if finding.kind == "lung nodule":
        _, position, _, side = words["lobe"].split("_")  # lung_upper_lobe_left
        words["lobe"] = f"{side} {position} lobe"
    if finding.sizes_mm:
        words["size"] = size_text(finding.sizes_mm[0], in_cm)
        # Spoken, 8, 11 and 18 begin with a vowel.
        words["a_size"] = ("an " if re.match(r"(8|11|18)\b|8\d", words["size"]) else "a ") + words["size"]
    return words | {key.capitalize(): value[:1].upper() + value[1:] for key, value in words.items()}
