"""``ctgvlm-train evaluate`` on tables: exact numbers on committed tables, files, messages."""

import argparse
import csv
import json
from pathlib import Path

import pytest

from CTGroundedVLMLib.command_line import run_command
from CTGroundedVLMTraining.evaluate.commands import add_commands

pytest.importorskip("sklearn")
DATA = Path(__file__).resolve().parents[2] / "Data" / "evaluation"

# Computed once by a transcription of the release's calc_metrics.py (scikit-learn, one volume after another):
# finding -> threshold * 99, AUC, ACC, sensitivity, specificity, precision, weighted F1
RELEASE = {
    "lung/Emphysema": (58, 0.801339, 0.766667, 0.6875, 0.857143, 0.846154, 0.765888),
    "lung/Lung nodule": (59, 0.900452, 0.9, 0.882353, 0.923077, 0.9375, 0.900337),
    "lung/Pleural effusion": (41, 0.875, 0.9, 0.75, 0.954545, 0.857143, 0.897778),
    "heart/Cardiomegaly": (62, 0.764, 0.9, 0.8, 0.92, 0.666667, 0.903525),
    "esophagus/Hiatal hernia": (36, 0.716, 0.733333, 0.8, 0.72, 0.363636, 0.765152),
    "aorta/Arterial wall calcification": (57, 0.824074, 0.9, 0.75, 1.0, 1.0, 0.896703),
}
RELEASE_MACRO = (0.81347764, 0.85, 0.77830882, 0.89579421, 0.77851662, 0.85489706)
NAMES = ("auc", "accuracy", "sensitivity", "specificity", "precision", "f1_weighted")


def run(*arguments) -> int:
    def parser():
        root = argparse.ArgumentParser(prog="ctgvlm-train")
        add_commands(root.add_subparsers(required=True))
        return root

    return run_command("ctgvlm-train", parser, ["evaluate", *map(str, arguments)], "run again")


def on_tables(output, *more) -> int:
    return run(
        "--protocol",
        "fvlm16",
        "--scores",
        DATA / "scores.csv",
        "--labels",
        DATA / "labels.csv",
        "--output",
        output,
        *more,
    )


def metrics_of(output) -> dict:
    return json.loads((output / "metrics.json").read_text(encoding="utf-8"))


def test_the_committed_tables_give_the_releases_numbers(tmp_path, capsys):
    assert on_tables(tmp_path / "o", "--bootstrap", "200") == 0
    result = metrics_of(tmp_path / "o")
    found = {f["key"]: f for f in result["findings"] if not f["reason"]}
    assert found.keys() == RELEASE.keys()
    for key, (threshold, *values) in RELEASE.items():
        section = found[key]["sections"]["release"]
        assert section["threshold"] == pytest.approx(threshold / 99, abs=1e-12)
        assert section["threshold_fitted_on"] == "test labels"
        assert [section["metrics"][name]["value"] for name in NAMES] == pytest.approx(values, abs=1e-6)
    macro = result["macro"]["release"]
    assert [macro[name]["value"] for name in NAMES] == pytest.approx(RELEASE_MACRO, abs=1e-8)
    assert macro["auc"]["findings"] == 6
    assert (result["volumes"], result["patients"]) == (30, 21)
    assert macro["auc"]["low"] < macro["auc"]["value"] < macro["auc"]["high"]
    printed = capsys.readouterr().out
    assert "Protocol fvlm16" in printed
    assert "'X.' against 'Not X.'" in printed
    assert "fitted on the TEST labels" in printed
    assert "macro (6 of 16)" in printed
    assert "valid_99_a_1" in printed  # a label without scores is named


def test_missing_scores_left_out_have_their_own_numbers(tmp_path):
    on_tables(tmp_path, "--bootstrap", "0")
    heart = next(f for f in metrics_of(tmp_path)["findings"] if f["key"] == "heart/Cardiomegaly")
    assert heart["missing"] == 2
    assert heart["sections"]["left_out"]["volumes"] == 28
    assert heart["sections"]["left_out"]["metrics"]["auc"] == {
        "value": pytest.approx(91 / 96),
        "low": None,
        "high": None,
        "reason": None,
    }


HEART_LEFT_OUT = (
    0.95  # two volumes with cardiomegaly have no score; see the assertion's message if the table is changed
)


def test_all_files_are_written_and_agree(tmp_path, capsys):
    output = tmp_path / "new" / "folder"
    assert on_tables(output, "--bootstrap", "50", "--hold-out", "0.5", "--json") == 0
    assert {p.name for p in output.iterdir()} == {
        "metrics.json",
        "metrics.csv",
        "metrics.md",
        "measured.csv",
        "roc.png",
        "reliability.png",
        "calibration.json",
    }
    assert json.loads(capsys.readouterr().out) == metrics_of(output)
    for picture in ("roc.png", "reliability.png"):
        assert (output / picture).read_bytes().startswith(b"\x89PNG")
    with open(output / "metrics.csv", encoding="utf-8", newline="") as file:
        rows = {(row["finding"], row["section"]): row for row in csv.DictReader(file)}
    result = metrics_of(output)
    assert float(rows["macro", "release"]["auc"]) == result["macro"]["release"]["auc"]["value"]
    youden = next(f for f in result["findings"] if f["key"] == "lung/Emphysema")["sections"]["youden"]
    assert youden["threshold_fitted_on"] == "validation split"
    assert float(rows["lung/Emphysema", "youden"]["threshold"]) == youden["threshold"]
    assert "## missing left out, threshold from the validation split (Youden)" in (output / "metrics.md").read_text(
        encoding="utf-8"
    )
    assert result["validation"]["patients"] == 10
    calibration = json.loads((output / "calibration.json").read_text())
    assert calibration["model_sha256"] is None
    assert calibration["about"]["fitted_on"] == result["validation"]
    assert len(result["validation"]["sha256"]) == 64


def test_a_calibration_of_an_earlier_evaluation_does_not_stay_beside_a_new_result(tmp_path):
    on_tables(tmp_path, "--bootstrap", "0", "--hold-out", "0.5")
    assert (tmp_path / "calibration.json").is_file()
    on_tables(tmp_path, "--bootstrap", "0")
    assert not (tmp_path / "calibration.json").exists()
    assert metrics_of(tmp_path)["validation"] is None


def test_each_mean_says_over_how_many_findings_it_is(tmp_path, capsys):
    rows = [(f"v{n}", 0.1 * n, n % 2) for n in range(8)]
    (tmp_path / "s.csv").write_text(
        "case_id,lung/Emphysema,heart/Cardiomegaly\n" + "".join(f"{name},{score},{score}\n" for name, score, _ in rows)
    )
    (tmp_path / "l.csv").write_text(
        "case_id,lung/Emphysema,heart/Cardiomegaly\n" + "".join(f"{name},{label},0\n" for name, _, label in rows)
    )
    arguments = ("--protocol", "corpus", "--scores", tmp_path / "s.csv", "--labels", tmp_path / "l.csv")
    assert run(*arguments, "--output", tmp_path / "o", "--bootstrap", "0") == 0
    lines = (tmp_path / "o/metrics.md").read_text(encoding="utf-8").splitlines()
    left_out = lines[next(n for n, line in enumerate(lines) if line.startswith("## missing left out")) :]
    header, mean, number = (
        next([cell.strip() for cell in line.split("|")] for line in left_out if line.startswith(f"| {name}"))
        for name in ("finding |", "macro", "findings in the mean")
    )
    assert mean[1] == "macro (1 to 2 of 2)"
    assert (number[header.index("AUC")], number[header.index("Brier")]) == ("1", "2")
    assert "macro (1 to 2 of 2)" in capsys.readouterr().out
    with open(tmp_path / "o/metrics.csv", encoding="utf-8", newline="") as file:
        macro = next(r for r in csv.DictReader(file) if (r["finding"], r["section"]) == ("macro", "left_out"))
    assert (macro["auc_findings"], macro["brier_findings"], macro["calibrated_ece_findings"]) == ("1", "2", "")


def test_the_same_seed_gives_the_same_result_and_another_one_other_intervals(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        on_tables(tmp_path / name, "--bootstrap", "50", "--seed", seed)
    first, again, other = ((tmp_path / name / "metrics.csv").read_text() for name in "abc")
    assert first == again != other
    macro = [metrics_of(tmp_path / name)["macro"]["release"]["auc"] for name in "ac"]
    assert macro[0]["value"] == macro[1]["value"]


def test_a_full_disk_leaves_the_former_result(tmp_path, monkeypatch, capsys):
    on_tables(tmp_path, "--bootstrap", "0")
    before = (tmp_path / "metrics.json").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("CTGroundedVLMTraining.evaluate.outputs.write_pictures", full)
    assert on_tables(tmp_path, "--bootstrap", "0", "--bins", "9") == 7
    assert "free some space" in capsys.readouterr().err
    assert (tmp_path / "metrics.json").read_bytes() == before
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_scores_of_different_models_are_not_mixed(tmp_path, capsys):
    for name, sha in (("test", "one"), ("validation", "other")):
        (tmp_path / f"{name}.csv").write_text(f"case_id,patient_id,lung/Emphysema\n{name},{name},0.5\n")
        (tmp_path / f"{name}.json").write_text(json.dumps({"format": "ctgvlm-scores", "model_sha256": sha}))
    (tmp_path / "labels.csv").write_text("case_id,lung/Emphysema\ntest,1\nvalidation,0\n")
    code = run(
        "--protocol",
        "corpus",
        "--scores",
        tmp_path / "test.csv",
        "--validation-scores",
        tmp_path / "validation.csv",
        "--labels",
        tmp_path / "labels.csv",
        "--output",
        tmp_path / "o",
    )
    assert code == 3
    assert "come from different models" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Give either --scores CSV --labels CSV, or --model M --manifest CSV."),
        (["--scores", "s.csv"], "--scores needs --labels too."),
        (["--model", "m"], "--model needs --manifest too."),
        (["--model", "m", "--scores", "s.csv"], "Give either"),
        *((["--scores", "s.csv", "--labels", "l.csv", *option], f"{option[0]} does not go with --scores: it needs --model M --manifest CSV.")
          for option in (["--grounding"], ["--templates"], ["--retry-failed"], ["--heatmap-shifts", "2"], ["--device", "cpu"], ["--calibrate"],
                         ["--mode", "reference"], ["--grid", "release"], ["--precision", "fp32"], ["--split", "train"],
                         ["--validation-split", "train"], ["--manifest", "m.csv"])),
        (["--model", "m", "--manifest", "m.csv", "--heatmap-shifts", "2"], "--heatmap-shifts needs --grounding too."),
        (["--scores", "s.csv", "--labels", "l.csv", "--target-sensitivity", "0.8"], "--target-sensitivity needs validation patients: --validation-scores, --validation-split or --hold-out."),
        (["--scores", "s.csv", "--labels", "l.csv", "--bootstrap", "0", "--seed", "1"], "--seed does not go with --bootstrap 0: nothing is drawn"),
        (["--scores", "s.csv", "--labels", "l.csv", "--bootstrap", "0", "--hold-out", "0.5", "--confidence", "0.9"], "--confidence does not go with --bootstrap 0"),
        (["--scores", "s.csv", "--labels", "l.csv", "--hold-out", "nan"], "--hold-out nan: expected a share of the patients above 0 and below 1"),
        (["--model", "m", "--manifest", "m.csv", "--hold-out", "1"], "--hold-out 1: expected a share"),
        (["--scores", "s.csv", "--labels", "l.csv", "--validation-labels", "v.csv"], "--validation-labels needs --validation-scores too."),
        (["--scores", "s.csv", "--labels", "l.csv", "--validation-scores", "v.csv", "--hold-out", "0.5"], "--hold-out makes a validation split"),
        (["--model", "m", "--manifest", "m.csv", "--validation-split", "test"], "are both test."),
        (["--scores", "s.csv", "--labels", "l.csv", "--bootstrap", "5"], "5 resamples, seed 0: expected 0 (no intervals) or at least 20"),
        (["--scores", "s.csv", "--labels", "l.csv", "--confidence", "95"], "Confidence 95.0"),
        (["--scores", "s.csv", "--labels", "l.csv", "--hold-out", "0.5", "--target-sensitivity", "0"], "target sensitivity is 0.0"),
        (["--scores", "none.csv", "--labels", str(DATA / "labels.csv")], "none.csv: cannot be read"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_told_in_words(arguments, words, tmp_path, capsys):
    assert run("--protocol", "fvlm16", "--output", tmp_path / "o", *arguments) == 3
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not (tmp_path / "o").exists()
