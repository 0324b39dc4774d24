"""A stand-in for the bundled starter model: the same folder format, the debug architecture, and a calibration."""

import json
from pathlib import Path

from cases import a_small_model
from CTGroundedVLMLib.model.checkpoint import model_sha256, save_checkpoint

NOTICE = "Trained on synthetic patients only: it has never seen a scan of a person."
CARD = f"**{NOTICE}**\n\n# Model card: starter\n"
SETTINGS = {"mode": "shared", "grid": "physical", "templates": False}
NAME = "calibration-shared-physical.json"
PLATT = {"a": 0.5, "b": -1.0, "threshold": 0.3}
CALIBRATED, UNCALIBRATED = ("lung/Emphysema", "heart/Cardiomegaly"), ("lung/Pneumothorax",)


def a_starter(folder: Path, *, card: str = CARD) -> Path:
    """``folder``/starter: trained by its own word, evaluated on three findings, two of them calibrated; returns ``folder``."""
    small, model = a_small_model(), folder / "starter"
    details = {"notice": NOTICE, "license": "Apache-2.0"}
    save_checkpoint(
        model, small.model, small.tokenizer, name="starter", trained=True, files={"MODEL_CARD.md": card}, **details
    )
    header = json.loads((model / "config.json").read_text()) | {"findings": [*CALIBRATED, *UNCALIBRATED]}
    (model / "config.json").write_text(json.dumps(header))
    write_calibration(model)
    return folder


def write_calibration(model: Path, **changes) -> Path:
    """The calibration of a model folder, in the format of ``ctgvlm-train evaluate``."""
    record = {
        "format": "ctgvlm-calibration",
        "model_sha256": model_sha256(model),
        "settings": SETTINGS,
        "findings": dict.fromkeys(CALIBRATED, PLATT),
        "about": {"not_calibrated": dict.fromkeys(UNCALIBRATED, "too few")},
    }
    (model / NAME).write_text(json.dumps(record | changes))
    return model / NAME
