"""Write an analysis to a folder: ``results.json``, tables, heat maps, pictures and one page that shows it all.

The order: ``plan`` names every file; ``heatmaps``, ``pictures``, ``tables`` and
``html`` make them in a hidden folder; ``folder`` puts that folder in place at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..types import AnalysisResult
from .folder import check_output, install, output_error, staging
from .plan import FINDINGS, LINKS, PAGE, RESULTS, make_plan
from .tables import results_document

__all__ = ["check_output", "result_record", "write_result"]

Progress = Callable[[str, float], None]


def write_result(
    result: AnalysisResult,
    output: Path,
    *,
    heatmap_files: bool = True,
    pictures: bool = True,
    progress: Progress | None = None,
) -> dict[str, Path]:
    """Write everything that ``result`` holds into the folder ``output``, all or nothing.

    Args:
        output: absent, empty, or holding a former result, whose files are replaced while any others stay.
        heatmap_files: write each heat map as ``heatmaps/*.nii.gz`` on the CT's grid.
        pictures: draw ``pictures/*.png`` and show them on the page.
        progress: called with what is being done and the fraction done, 0..1.

    Returns:
        "results", "findings", "links" and "page", and the folders "heatmaps" and "pictures" where they were written.

    Raises:
        OutputError: the folder cannot be used, or the disk is full; what was there before is there still.
    """
    from .content import write_all  # matplotlib and SimpleITK: whoever wants a record only (Slicer) does without them

    check_output(output)
    plan = make_plan(result, heatmap_files=heatmap_files, pictures=pictures)
    with staging(output) as folder:
        try:
            write_all(plan, folder, progress or (lambda text, fraction: None))
            install(folder, output, plan.files)
        except OSError as error:
            raise output_error(output, error) from error
    written = {"results": RESULTS, "findings": FINDINGS, "links": LINKS, "page": PAGE}
    written |= {kind: kind for kind in ("heatmaps", "pictures") if any(f.startswith(f"{kind}/") for f in plan.files)}
    return {key: Path(output) / name for key, name in written.items()}


def result_record(result: AnalysisResult) -> dict[str, object]:
    """The content of ``results.json`` where nothing is written: without files, pictures and names of heat map files."""
    return results_document(make_plan(result, heatmap_files=False, pictures=False)) | {"files": []}
