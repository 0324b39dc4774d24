"""Who may import whom: training imports the library, never back; its adapters aside, the library knows no Qt or Slicer."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LIBRARY = ROOT / "CTGroundedVLM" / "CTGroundedVLMLib"
TRAINING = ROOT / "Training" / "CTGroundedVLMTraining"
ADAPTERS = ("mrml_io", "widget", "process_qt.py", "dependencies.py")  # folders and files of the library
SLICER = {"ctk", "qt", "slicer", "vtk", "PythonQt"}


def imported(path: Path) -> set[str]:
    """Top names of all absolute imports of a file, those inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


def files(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.py"))
    assert len(found) > 10, f"{folder} is not where this test looks for it"
    return found


def test_the_library_does_not_import_the_training_package():
    assert [path.name for path in files(LIBRARY) if "CTGroundedVLMTraining" in imported(path)] == []


def test_only_the_adapters_import_qt_or_slicer():
    within = {path.relative_to(LIBRARY): imported(path) & SLICER for path in files(LIBRARY)}
    assert {str(path): found for path, found in within.items() if found and path.parts[0] not in ADAPTERS} == {}


def test_the_training_package_imports_neither_qt_nor_slicer():
    assert {path.name: imported(path) & SLICER for path in files(TRAINING) if imported(path) & SLICER} == {}


def test_an_import_inside_a_function_is_seen(tmp_path):
    (tmp_path / "m.py").write_text("def f():\n    if True:\n        from slicer.util import x\n    from . import y\n")
    assert imported(tmp_path / "m.py") == {"slicer"}


@pytest.mark.parametrize("module", ["CTGroundedVLMTraining.cli", "CTGroundedVLMTraining.decompose.rules"])
def test_rules_need_no_torch(module, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"report_id": "a", "text": "The liver is normal."}\n')
    program = (
        f"import sys, {module}\n"
        "from CTGroundedVLMTraining import cli\n"
        f"code = cli.main(['decompose', r'{tmp_path / 'in.jsonl'}', r'{tmp_path / 'out.jsonl'}', '--quiet'])\n"
        "heavy = {'torch', 'transformers', 'monai', 'SimpleITK', 'matplotlib'} & set(sys.modules)\n"
        "assert code == 0 and not heavy, (code, heavy)\n"
    )
    path = f"import sys; sys.path[:0] = [r'{LIBRARY.parent}', r'{TRAINING.parent}']\n"
    result = subprocess.run([sys.executable, "-c", path + program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert '"status": "normal"' in (tmp_path / "out.jsonl").read_text()
