"""Shared fixtures. Real data are found through CTGVLM_TEST_DATA and never copied into the repository."""

import ast
import importlib.util
import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# in a background job of a shell SIGINT is ignored, and programs under test would inherit that
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# where these say that a build server runs, pytest prints whole differences: for the bytes of a volume that takes it hours
for name in ("CI", "BUILD_NUMBER"):
    os.environ.pop(name, None)

# tests say themselves which models come with the software: they must hold for a copy with the weights and for one without
os.environ["CTGVLM_BUNDLED_MODELS_DIR"] = os.devnull


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with real CTs and annotated reports; the test is skipped, visibly, where it is absent."""
    folder = Path(os.environ.get("CTGVLM_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}: set CTGVLM_TEST_DATA to the folder that holds ct/ and report_gold/")
    return folder


@pytest.fixture(scope="session")
def parity_dir(test_data: Path) -> Path:
    """The released model's outputs on known input (reference/fvlm_parity beside the test data)."""
    folder = test_data.parent / "reference" / "fvlm_parity"
    if not folder.is_dir():
        pytest.skip(f"no parity fixtures at {folder}")
    return folder


@pytest.fixture(scope="session")
def source():
    """The syntax tree of a file of the installed TotalSegmentator; it is not imported, for it needs nnU-Net."""
    spec = importlib.util.find_spec("totalsegmentator")
    if spec is None:
        pytest.skip("TotalSegmentator is not installed: pip install ct-grounded-vlm[segmentation]")
    folder = Path(spec.submodule_search_locations[0])
    return lambda name: ast.parse((folder / name).read_text(encoding="utf-8"))
