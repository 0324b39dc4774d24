"""Write every planned file into a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .heatmaps import write_heatmap
from .html import page_html
from .pictures import Scene, draw_planned, encode
from .plan import FINDINGS, LINKS, PAGE, RESULTS, ExportPlan
from .tables import findings_csv, links_csv, results_document, results_json


def write_all(plan: ExportPlan, folder: Path, progress: Callable[[str, float], None]) -> None:
    """Heatmaps, pictures, tables and the page. Raises OSError where the disk is full."""
    for name in {f.rpartition("/")[0] for f in plan.files} - {""}:
        (folder / name).mkdir()
    steps = sum(f is not None for f in plan.heatmap_files) + len(plan.pictures) + 1
    done = 0
    for heatmap, file in zip(plan.result.heatmaps, plan.heatmap_files, strict=True):
        if file is not None:
            progress(f"Writing {file}", done / steps)
            write_heatmap(heatmap, plan.result.case.ct.ijk_to_ras, folder / file)
            done += 1
    embedded = []
    scene = Scene.of(plan)
    for picture in plan.pictures:
        progress(f"Drawing {picture.file}", done / steps)
        pixels = draw_planned(scene, plan, picture)
        (folder / picture.file).write_bytes(encode(pixels, "png"))
        embedded.append(encode(pixels, "webp"))
        done += 1
    progress("Writing the tables and the page", done / steps)
    document = results_document(plan)
    (folder / FINDINGS).write_bytes(findings_csv(plan))
    (folder / LINKS).write_bytes(links_csv(plan))
    (folder / PAGE).write_bytes(page_html(plan, document, embedded))
    (folder / RESULTS).write_bytes(results_json(document))
    progress("Done", 1.0)
