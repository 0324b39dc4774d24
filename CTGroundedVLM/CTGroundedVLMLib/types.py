"""One frozen dataclass per stage of the analysis. No torch, no Qt, no Slicer here.

Axis order: every array is ``kji`` (slowest axis first, as ``SimpleITK.GetArrayFromImage`` and Slicer's
``arrayFromVolume`` give it). Indices in ``ijk`` order are ``(i, j, k)``: reversed. World coordinates are RAS, in mm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Status = Literal["present", "absent", "uncertain", "historical"]
Section = Literal["indication", "technique", "comparison", "findings", "impression", "other"]


@dataclass(frozen=True)
class Volume:
    """A scalar image. ``array_kji``: (K, J, I) in HU; ``ijk_to_ras``: (4, 4) in mm, voxel centres."""

    array_kji: np.ndarray
    ijk_to_ras: np.ndarray
    name: str
    source: str = ""
    sha256: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def spacing_ijk(self) -> tuple[float, float, float]:
        """Voxel size along i, j, k in mm (column norms of the affine)."""
        import numpy as np  # here, so that the report parser starts without it

        return tuple(float(x) for x in np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0))


@dataclass(frozen=True)
class Segmentation:
    """A label map on the grid of its CT. ``names``: label value -> TotalSegmentator v2 class name."""

    labels_kji: np.ndarray
    names: Mapping[int, str]
    source: str = ""
    sha256: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CTCase:
    """The input of one analysis: a CT, its segmentation on the same grid, and the report (may be empty)."""

    ct: Volume
    segmentation: Segmentation
    report_text: str = ""
    report_source: str = ""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Everything that the readers noticed."""
        return self.ct.warnings + self.segmentation.warnings


@dataclass(frozen=True)
class ReportFinding:
    """What a sentence asserts: a short singular noun phrase in lower case, and its status."""

    name: str
    status: Status


@dataclass(frozen=True)
class Measurement:
    """A measurement in a sentence: ``values`` in mm (one per axis), ``start``/``end`` offsets into the report."""

    values_mm: tuple[float, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Citation:
    """A reference to an image ("series 4, image 112"); ``series`` is None where only the image is named."""

    series: int | None
    image: int
    start: int
    end: int


@dataclass(frozen=True)
class Sentence:
    """One statement. ``start``/``end`` slice the report text; ``segments``: sorted TotalSegmentator v2 class names."""

    start: int
    end: int
    section: Section
    segments: tuple[str, ...] = ()
    findings: tuple[ReportFinding, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    citations: tuple[Citation, ...] = ()
    comparison_only: bool = False


@dataclass(frozen=True)
class Report:
    """A parsed report; sentences in order, without overlap."""

    text: str
    sentences: tuple[Sentence, ...] = ()


@dataclass(frozen=True)
class FindingScore:
    """Zero-shot score of one finding in one organ.

    ``probability`` (0..1) and ``margin`` (the positive minus the negative logit) are None, with ``reason`` in words,
    where the organ cannot be scored: an organ that cannot be scored is never 0. ``source`` is "registry" or "prompt".
    """

    organ: str
    finding: str
    probability: float | None
    margin: float | None
    calibrated: bool
    reason: str | None
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    source: Literal["registry", "prompt"] = "registry"


@dataclass(frozen=True)
class SentenceLink:
    """A sentence and the segments of this CT that it speaks of.

    ``segments``: class names with voxels in the mask. ``missing_segments``: named by the sentence, not in the mask.
    ``organs``: the model's organs that hold one of ``segments``. ``centre_ijk``: the CT voxel where to look, or None.
    ``source``: "words" that the sentence holds, or "embedding": a guess of the text tower where no word names a segment.
    """

    sentence: int
    segments: tuple[str, ...]
    missing_segments: tuple[str, ...]
    organs: tuple[str, ...]
    centre_ijk: tuple[int, int, int] | None
    source: Literal["words", "embedding"] = "words"


@dataclass(frozen=True)
class ReportComparison:
    """What the report says of a scored finding, against the image.

    ``report``: "not mentioned" is never read as normal. ``sentences``: indices of the sentences that say it. ``image``:
    whether the probability reaches ``threshold``, None where the organ is not scored. ``threshold_source``: "calibration",
    or "default" (0.5 on a raw probability: a weak ground). ``severity`` ranks discrepancies (see ``discrepancies``);
    0 where there is none. ``reason``: all this in words.
    """

    organ: str
    finding: str
    report: Literal["present", "absent", "uncertain", "historical", "not mentioned"]
    sentences: tuple[int, ...]
    probability: float | None
    threshold: float
    threshold_source: Literal["calibration", "default"]
    image: Literal["positive", "negative"] | None
    discrepancy: bool
    severity: float
    reason: str
    source: Literal["registry", "prompt"] = "registry"


@dataclass(frozen=True)
class OrganInfo:
    """How much of an organ the model saw.

    ``voxels``: in the CT's mask. ``visible_fraction``: the part of them inside the model's window.
    ``touches_border``: the mask reaches the first or last voxel of the scan, so that the organ may be cut off there.
    ``reason``: why it is not scored, None when it is.
    """

    organ: str
    segments: tuple[str, ...]
    voxels: int
    tokens: int
    visible_fraction: float
    touches_border: bool
    reason: str | None


@dataclass(frozen=True)
class Heatmap:
    """Signed evidence for a finding on the CT grid, zero outside the organ.

    Stored as the box that holds the organ: ``values_kji`` begins at voxel ``start_kji`` of a volume of ``shape_kji``.
    """

    organ: str
    finding: str
    method: str
    values_kji: np.ndarray
    start_kji: tuple[int, int, int]
    shape_kji: tuple[int, int, int]
    source: Literal["registry", "prompt"] = "registry"
    unit: str = "contribution of one image token to the logit (positive minus negative)"

    def to_volume(self) -> np.ndarray:
        """The whole grid as float32 (K, J, I)."""
        import numpy as np  # here, so that the report parser starts without it

        full = np.zeros(self.shape_kji, np.float32)
        box = tuple(slice(a, a + n) for a, n in zip(self.start_kji, self.values_kji.shape, strict=True))
        full[box] = self.values_kji
        return full


@dataclass(frozen=True)
class ModelIdentity:
    """Which model made the numbers. ``trained`` is False for random weights: such numbers mean nothing."""

    name: str
    sha256: str
    trained: bool
    notice: str = ""
    license: str = ""


@dataclass(frozen=True)
class AnalysisResult:
    """Everything one analysis found; ``export`` writes it, the Slicer module shows it."""

    case: CTCase
    report: Report
    model: ModelIdentity
    findings: tuple[FindingScore, ...]
    organs: tuple[OrganInfo, ...]
    links: tuple[SentenceLink, ...]
    heatmaps: tuple[Heatmap, ...]
    settings: Mapping[str, object]
    timings_s: Mapping[str, float]
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    comparisons: tuple[ReportComparison, ...] = ()
