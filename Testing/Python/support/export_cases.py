"""Results as an analysis would give them, made by hand: every number in them is known."""

import dataclasses
import math

import numpy as np

from cases import LPS, a_case
from CTGroundedVLMLib.types import (
    AnalysisResult,
    Citation,
    CTCase,
    FindingScore,
    Heatmap,
    Measurement,
    ModelIdentity,
    OrganInfo,
    Report,
    ReportComparison,
    ReportFinding,
    Segmentation,
    Sentence,
    SentenceLink,
)

SHAPE = (20, 40, 50)
BOXES = {
    "liver": ((2, 10, 5), (12, 30, 25)),
    "spleen": ((4, 20, 35), (10, 30, 45)),
    "lung_lower_lobe_right": ((13, 8, 6), (19, 28, 22)),
    "gallbladder": ((3, 11, 26), (6, 14, 29)),
}
REPORT = """FINDINGS:
Liver  is of low attenuation, 14 x 11 mm cyst (series 3, image 21).
- No pleural effusion; kidneys normal.
The spleen is normal.

IMPRESSION: 1. Steatosis 肝臓 <b>?</b>
"""

HOSTILE = (
    "</script><img src=x onerror=alert(1)><script>alert(2)</script>{{ 7*7 }}\" autofocus onfocus='alert(3)' <!-- &amp;"
)


def a_result(
    *, trained: bool = True, directions: np.ndarray = LPS, spacing=(2.0, 2.5, 4.0), case: CTCase | None = None
) -> AnalysisResult:
    """Four organs in a box of 20 x 40 x 50 voxels, a report with four sentences, five scores and two heat maps."""
    case = case or a_case(BOXES, SHAPE, spacing, directions, REPORT)
    case = dataclasses.replace(case, report_source="report.txt")
    return AnalysisResult(
        case=case,
        report=Report(REPORT, _sentences()),
        model=ModelIdentity("fVLM test", "9f" * 32, trained, "A test's notice.", "Apache-2.0"),
        findings=_scores(),
        organs=(
            OrganInfo("liver", ("liver",), 4000, 12, 0.75, True, None),
            OrganInfo("lung", ("lung_lower_lobe_right",), 1920, 8, 1.0, False, None),
            OrganInfo("esophagus", ("esophagus",), 0, 0, 0.0, False, "not in the segmentation"),
        ),
        links=(
            SentenceLink(0, ("liver",), (), ("liver",), (10, 20, 5)),
            SentenceLink(1, ("lung_lower_lobe_right",), ("kidney_left", "kidney_right"), ("lung",), None),
            SentenceLink(2, ("spleen",), (), (), None),
            SentenceLink(3, ("liver",), (), ("liver",), (10, 20, 5)),
        ),
        heatmaps=(
            a_heatmap("liver", "hepatic steatosis", BOXES["liver"], peak=0.5),
            a_heatmap("lung", "Lung nodule", BOXES["lung_lower_lobe_right"], peak=-0.25),
        ),
        settings={"mode": "shared", "heatmaps": 4, "calibration": None, "windows": [[112, 256, 352]]},
        timings_s={"preprocess": 0.5, "score": math.nan},
        warnings=("the liver may be cut off",),
        versions={"ctgvlm": "0.1.0"},
        comparisons=_comparisons(),
    )


def a_heatmap(organ: str, finding: str, box, peak: float, at=(1, 2, 3)) -> Heatmap:
    """Zero but for one voxel, ``at`` from the box's start (k, j, i), with half of minus ``peak`` beside it."""
    low, high = np.array(box)
    values = np.zeros(high - low, np.float32)
    values[at] = peak
    values[at[0], at[1], at[2] + 1] = -peak / 2
    return Heatmap(organ, finding, "contribution", values, tuple(int(x) for x in low), SHAPE)


def _sentences() -> tuple[Sentence, ...]:
    def find(text: str) -> tuple[int, int]:
        start = REPORT.index(text)
        return start, start + len(text)

    first = find("Liver  is of low attenuation, 14 x 11 mm cyst (series 3, image 21).")
    return (
        Sentence(
            *first,
            "findings",
            ("liver",),
            (ReportFinding("hepatic steatosis", "present"), ReportFinding("liver cyst", "uncertain")),
            (Measurement((14.0, 11.0), *find("14 x 11 mm")),),
            (Citation(3, 21, *find("series 3, image 21")),),
        ),
        Sentence(
            *find("- No pleural effusion; kidneys normal."),
            "findings",
            ("kidney_left", "kidney_right", "lung_lower_lobe_right"),
            (ReportFinding("pleural effusion", "absent"),),
        ),
        Sentence(
            *find("The spleen is normal."), "findings", ("spleen",), (ReportFinding("splenomegaly", "historical"),)
        ),
        Sentence(*find("Steatosis 肝臓 <b>?</b>"), "impression", ("liver",), (ReportFinding("steatosis", "present"),)),
    )


def _comparisons() -> tuple[ReportComparison, ...]:
    """Of the first three scores; the nodule is the one disagreement."""
    return (
        ReportComparison(
            "lung", "Lung nodule", "present", (1,), 0.25, 0.5, "default", "negative", True, 1.1, "States it."
        ),
        ReportComparison(
            "liver",
            "hepatic steatosis",
            "present",
            (0, 3),
            0.8125,
            0.3,
            "calibration",
            "positive",
            False,
            0.0,
            "Agree.",
        ),
        ReportComparison(
            "lung", "=1+1", "not mentioned", (), 0.5, 0.6, "default", "negative", False, 0.0, "Silent.", "prompt"
        ),
        ReportComparison(
            "esophagus", "Hiatal hernia", "absent", (2,), None, 0.5, "default", None, False, 0.0, "Not scored."
        ),
        ReportComparison(
            "lung", "Emphysema", "not mentioned", (), math.nan, 0.5, "default", None, False, 0.0, "Silent."
        ),
    )


def _scores() -> tuple[FindingScore, ...]:
    return (
        FindingScore(
            "liver", "hepatic steatosis", 0.8125, 1.46, True, None, ("Steatosis.",), ("No steatosis.", "None.")
        ),
        FindingScore("lung", "Lung nodule", 0.25, -1.1, False, None, ("Nodule.",), ("Not nodule.",)),
        FindingScore("lung", "=1+1", 0.5, 0.0, False, None, ("=1+1",), ("-2",), "prompt"),
        FindingScore("esophagus", "Hiatal hernia", None, None, False, "not in the segmentation", ("H.",), ("N.",)),
        FindingScore("lung", "Emphysema", math.nan, math.nan, False, None, ("E.",), ("N.",)),
    )


def a_hostile_result() -> AnalysisResult:
    """An untrained model's result with :data:`HOSTILE` for every text that a stranger could have written."""
    result = a_result(trained=False)
    case = dataclasses.replace(
        result.case,
        ct=dataclasses.replace(result.case.ct, name=HOSTILE, source=HOSTILE),
        segmentation=Segmentation(result.case.segmentation.labels_kji, {5: HOSTILE}, HOSTILE),
    )
    sentence = Sentence(0, len(HOSTILE), "findings", (HOSTILE,), (ReportFinding(HOSTILE, "present"),))
    return dataclasses.replace(
        result,
        case=case,
        report=Report(HOSTILE, (sentence,)),
        model=dataclasses.replace(result.model, name=HOSTILE, notice=HOSTILE, license=HOSTILE),
        findings=(FindingScore(HOSTILE, HOSTILE, 0.5, 0.0, False, None, (HOSTILE,), (HOSTILE,), "prompt"),),
        organs=(dataclasses.replace(result.organs[0], organ=HOSTILE, reason=HOSTILE),),
        links=(SentenceLink(0, (HOSTILE,), (HOSTILE,), (HOSTILE,), None),),
        heatmaps=(dataclasses.replace(result.heatmaps[0], organ=HOSTILE, finding=HOSTILE),),
        settings={HOSTILE: HOSTILE},
        warnings=(HOSTILE,),
        versions={HOSTILE: HOSTILE},
        comparisons=(
            ReportComparison(
                HOSTILE, HOSTILE, "absent", (0,), 0.5, 0.5, "default", "positive", True, 0.1, HOSTILE, "prompt"
            ),
        ),
    )
