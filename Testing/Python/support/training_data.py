"""Small corpora on disk with known answers: boxes for organs, one sentence for a report."""

import json

import numpy as np
import SimpleITK as sitk

from cases import CHEST, a_case
from CTGroundedVLMLib.image_file import set_affine
from CTGroundedVLMTraining.data.manifest import ManifestRow, write_manifest

REPORT = "FINDINGS: There is a nodule in the right lower lobe. The heart is normal.\nIMPRESSION: Lung nodule."


def write_image(path, array_kji, ijk_to_ras):
    """A volume in the format of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array_kji)
    set_affine(image, ijk_to_ras)
    sitk.WriteImage(image, str(path))


def write_case(folder, seed=0, report=REPORT, shape=(30, 60, 70), boxes=None):
    """ct.nii.gz, segmentation.nii.gz and report.txt of a case of lung, heart and aorta; returns the case."""
    scale = np.array(shape) / (40, 120, 140)
    boxes = boxes or {
        name: tuple(tuple(int(v) for v in np.multiply(corner, scale)) for corner in box) for name, box in CHEST.items()
    }
    case = a_case(boxes, shape, (2.0, 2.0, 4.0), seed=seed)
    write_image(folder / "ct.nii.gz", case.ct.array_kji, case.ct.ijk_to_ras)
    write_image(folder / "segmentation.nii.gz", case.segmentation.labels_kji, case.ct.ijk_to_ras)
    if report is not None:
        (folder / "report.txt").write_text(report, encoding="utf-8")
    return case


def a_corpus(root, cases=4):
    """The plain folder layout with a manifest and labels; every second case is normal, the last one is of the test split."""
    rows, labels = [], []
    for number in range(cases):
        name = f"case{number}"
        folder = root / "cases" / name
        report = REPORT if number % 2 == 0 else "FINDINGS: The lungs are clear."
        write_case(folder, seed=number, report=report)
        split = "test" if number == cases - 1 else "train"
        rows.append(
            ManifestRow(name, f"patient{number}", split, folder / "ct.nii.gz", f"study{number}",
                        folder / "segmentation.nii.gz", folder / "report.txt", labels=root / "labels.csv",
                        label_kind="truth", source="folder")
        )  # fmt: skip
        labels.append(f"{name},{1 - number % 2},\n")
    (root / "labels.csv").write_text("case_id,lung/Lung nodule,heart/Cardiomegaly\n" + "".join(labels))
    write_manifest(root / "manifest.csv", rows)
    return root / "manifest.csv"


def index_lines(folder):
    """The index of a prepared folder, line by line."""
    return [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]


# --- A look-alike of CT-RATE: published layout and column names, synthetic volumes and sentences

LABELS_18 = (
    "Medical material,Arterial wall calcification,Cardiomegaly,Pericardial effusion,Coronary artery wall calcification,"
    "Hiatal hernia,Lymphadenopathy,Emphysema,Atelectasis,Lung nodule,Lung opacity,Pulmonary fibrotic sequela,Pleural effusion,"
    "Mosaic attenuation pattern,Peribronchial thickening,Consolidation,Bronchiectasis,Interlobular septal thickening"
)
CT_RATE_AFFINE = np.diag([-2.0, -2.0, 4.0, 1.0])


def hu_volume(seed=0, shape=(12, 24, 28)):
    """Air around soft tissue, as int16 HU."""
    hu = np.full(shape, -1000, np.int16)
    hu[2:-2, 4:-4, 4:-4] = 40
    return hu + np.random.default_rng(seed).integers(-20, 20, shape).astype(np.int16)


def ct_rate_like(root, volumes, version=2):
    """A folder with CT-RATE's layout; ``volumes``: names. Version 1 stores HU + 1024 under an identity geometry."""
    data = root / "dataset"
    for name in volumes:
        half, patient, scan, _ = name.split("_")
        folder = data / (f"{half}_fixed" if version == 2 else half) / f"{half}_{patient}" / f"{half}_{patient}_{scan}"
        stored = hu_volume() if version == 2 else hu_volume() + 1024
        write_image(
            folder / f"{name}.nii.gz", stored, CT_RATE_AFFINE if version == 2 else np.diag([-1.0, -1.0, 1.0, 1.0])
        )
    for half, table in (("train", "train"), ("valid", "validation")):
        own = [name for name in volumes if name.startswith(half)]
        write_lines(
            data / f"radiology_text_reports/{table}_reports.csv",
            "VolumeName,ClinicalInformation_EN,Technique_EN,Findings_EN,Impressions_EN",
            [f'{n}.nii.gz,Cough.,CT.,"Nodule in the right lung, {n}.",Lung nodule.' for n in own],
        )
        write_lines(
            data / f"metadata/{table}_metadata.csv",
            "VolumeName,Manufacturer,RescaleSlope,RescaleIntercept,XYSpacing,ZSpacing,ImagePositionPatient,ImageOrientationPatient",
            [f'{n}.nii.gz,X,1,-1024,"[0.7, 0.7]",1.5,"[-160.0, -150.5, 30]","[1, 0, 0, 0, 1, 0]"' for n in own],
        )
        write_lines(
            data / f"multi_abnormality_labels/{half}_predicted_labels.csv",
            f"VolumeName,{LABELS_18}",
            [f"{n}.nii.gz,1,0,1,{','.join('0' * 15)}" for n in own],
        )
    (data / "metadata/no_chest_train.txt").write_text("dataset/train/train_3/train_3_a/train_3_a_1.nii.gz\n")
    (data / "metadata/no_chest_valid.txt").write_text("")
    return root


def write_lines(path, header, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


CT_RATE_VOLUMES = (
    "train_1_a_1",
    "train_1_a_2",
    "train_2_a_2",
    "train_2_b_1",
    "train_3_a_1",
    "train_11755_a_3",
    "valid_1_a_1",
)
