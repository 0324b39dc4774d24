"""``ctgvlm-train compare``: paired differences by hand, what is drawn for the intervals, what is refused."""

import csv
import json

import numpy as np
import pytest

from CTGroundedVLMTraining import cli
from CTGroundedVLMTraining.evaluate.comparison import _Measured, _Seeds
from CTGroundedVLMTraining.evaluate.estimates import EvaluationSettings

roc_auc_score = pytest.importorskip("sklearn.metrics").roc_auc_score
KEYS = ("lung/Emphysema", "heart/Cardiomegaly")
VOLUMES = 60
PATIENTS = [f"p{n // 2}" for n in range(VOLUMES)]


@pytest.fixture(scope="module")
def labels():
    return np.random.default_rng(0).integers(2, size=(VOLUMES, len(KEYS)))


def scores_of(labels, strength, seed=1, own=0.0, own_seed=0):
    """Probabilities: ``strength`` times the label, noise that models of one ``seed`` share, and noise of their ``own``."""
    shared, alone = (np.random.default_rng(s).normal(size=labels.shape) for s in (seed, 100 + own_seed))
    return 1 / (1 + np.exp(-(strength * (labels - 0.5) + shared + own * alone)))


def write(path, header, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def evaluate(tmp_path, labels, capsys):
    """Scores -> a folder of results; ``model``: its hash."""

    def run(name, scores, *more, keys=KEYS, labels=labels, patients=PATIENTS, model=None, protocol="corpus"):
        folder = tmp_path / f"{name}-tables"
        folder.mkdir()
        volumes = [f"v{n:02}" for n in range(len(scores))]
        write(folder / "s.csv", ["case_id", "patient_id", *keys],
              [[v, p, *("" if np.isnan(x) else repr(float(x)) for x in row)]
               for v, p, row in zip(volumes, patients, scores, strict=False)])  # fmt: skip
        write(folder / "l.csv", ["case_id", *keys], [[v, *row] for v, row in zip(volumes, labels, strict=False)])
        if model:
            (folder / "s.json").write_text(json.dumps({"format": "ctgvlm-scores", "model_sha256": model}))
        tables = ["--scores", str(folder / "s.csv"), "--labels", str(folder / "l.csv")]
        arguments = ["--protocol", protocol, *tables, "--output", str(tmp_path / name), "--bootstrap", "20", *more]
        assert cli.main(["evaluate", *arguments]) == 0
        for path in folder.iterdir():  # a result is compared without the tables it came from
            path.unlink()
        capsys.readouterr()
        return tmp_path / name

    return run


def compare(a, b, output, *more):
    """The exit code, and comparison.json by metric and finding."""
    a, b = ([str(f) for f in (folders if isinstance(folders, list) else [folders])] for folders in (a, b))
    code = cli.main(["compare", "--a", *a, "--b", *b, "--output", str(output), "--bootstrap", "200", *more])
    if code:
        return code, {}
    record = json.loads((output / "comparison.json").read_text())
    return code, {(d["metric"], d["finding"]): d for d in record["differences"]}


def test_differences_are_those_of_the_metrics_and_all_files_agree(evaluate, labels, tmp_path, capsys):
    strong, weak = scores_of(labels, 3.0), scores_of(labels, 1.0)
    code, found = compare(evaluate("a", strong), evaluate("b", weak), tmp_path / "o", "--names", "strong", "weak")
    assert code == 0
    expected = [roc_auc_score(labels[:, n], strong[:, n]) - roc_auc_score(labels[:, n], weak[:, n]) for n in range(2)]
    for key, value in zip(KEYS, expected, strict=True):
        assert found["auc", key]["difference"]["value"] == pytest.approx(value)
    macro = found["auc", "macro"]
    assert macro["difference"]["value"] == pytest.approx(np.mean(expected))
    assert (macro["findings"], macro["count"]) == (2, 2 * VOLUMES)
    assert 0 < macro["difference"]["low"] < macro["difference"]["value"] < macro["difference"]["high"]
    own = {name: json.loads((tmp_path / name / "metrics.json").read_text())["macro"]["left_out"] for name in "ab"}
    for metric in ("auc", "accuracy", "ece"):
        for name in "ab":
            assert found[metric, "macro"][name]["value"] == pytest.approx(own[name][metric]["value"])
    with open(tmp_path / "o" / "comparison.csv", encoding="utf-8", newline="") as file:
        rows = {(row["metric"], row["finding"]): row for row in csv.DictReader(file)}
    assert rows.keys() == found.keys()
    assert float(rows["ece", "macro"]["difference_low"]) == found["ece", "macro"]["difference"]["low"]
    printed = capsys.readouterr().out
    assert "strong (A) against weak (B): 60 volumes of 30 patients" in printed
    assert f"{macro['difference']['value']:+.3f} [{macro['difference']['low']:+.3f}" in printed
    assert "A is one run: its interval is over patients, not over seeds" in printed


def test_what_both_methods_share_cancels(evaluate, labels, tmp_path):
    same = scores_of(labels, 1.0)
    _, found = compare(evaluate("a", same, model="x"), evaluate("b", same, model="y"), tmp_path / "same")
    for difference in found.values():
        assert {difference["difference"][name] for name in ("value", "low", "high")} == {0.0}
    alike = scores_of(labels, 1.0, own=0.2)
    other = scores_of(labels, 1.0, seed=2)
    _, paired = compare(tmp_path / "a", evaluate("c", alike), tmp_path / "paired")
    _, unpaired = compare(tmp_path / "a", evaluate("d", other), tmp_path / "unpaired")
    widths = [
        f["auc", "macro"]["difference"]["high"] - f["auc", "macro"]["difference"]["low"] for f in (paired, unpaired)
    ]
    assert widths[0] < 0.6 * widths[1]


def test_of_three_seeds_two_are_drawn_so_that_their_spread_is_not_understated():
    values = np.array([0.7, 0.8, 0.9, 0.5])  # three seeds of A, one of B; all patients alike
    measured = _Measured("macro", "auc", 10, values, np.repeat(values[:, None], 4000, 1))
    found = _Seeds(3, 1, EvaluationSettings(4000, 0, 0.5)).difference(measured, 1)
    # means of two of (0.7, 0.8, 0.9) with replacement: 0.75 or less in 3 of 9 draws, 0.7 in 1; of three it would be 0.767
    assert (found.difference.low, found.difference.high) == (pytest.approx(0.25), pytest.approx(0.35))
    assert found.difference.value == pytest.approx(0.3)
    assert (found.b.low, found.b.high) == (0.5, 0.5)
    drawn = values[_Seeds(3, 1, EvaluationSettings(4000))._drawn_KR[0]].mean(0)
    assert drawn.var() == pytest.approx(values[:3].var(ddof=1) / 3, rel=0.1)


def test_seeds_that_differ_widen_the_interval(evaluate, labels, tmp_path):
    other = evaluate("b", scores_of(labels, 1.0))
    alike = [evaluate(f"alike{n}", scores_of(labels, 2.0, own=0.01, own_seed=n)) for n in range(3)]
    apart = [evaluate(f"apart{n}", scores_of(labels, strength)) for n, strength in enumerate((0.3, 2.0, 4.5))]
    width = {}
    for name, method in (("alike", alike), ("apart", apart)):
        _, found = compare(method, other, tmp_path / name)
        macro = found["auc", "macro"]
        width[name] = macro["difference"]["high"] - macro["difference"]["low"]
        assert macro["a"]["value"] == pytest.approx(np.mean(macro["seeds_a"]))
        assert (len(macro["seeds_a"]), len(macro["seeds_b"])) == (3, 1)
    assert width["apart"] > 1.5 * width["alike"]


def test_a_volume_without_a_score_of_one_model_is_left_out_of_all(evaluate, labels, tmp_path, capsys):
    full, gaps = scores_of(labels, 2.0), scores_of(labels, 1.0)
    gaps[:5, 1] = np.nan
    _, found = compare(evaluate("a", full), evaluate("b", gaps), tmp_path / "o")
    row = found["auc", "heart/Cardiomegaly"]
    assert row["count"] == VOLUMES - 5
    assert row["a"]["value"] == pytest.approx(roc_auc_score(labels[5:, 1], full[5:, 1]))
    assert "volumes left out, for some model has no score: heart/Cardiomegaly 5" in capsys.readouterr().out


def test_thresholds_and_calibration_count_where_both_methods_have_them(evaluate, labels, tmp_path):
    a, b = (evaluate(n, scores_of(labels, s), "--hold-out", "0.5") for n, s in (("a", 3.0), ("b", 1.0)))
    _, found = compare(a, b, tmp_path / "o")
    record = json.loads((a / "metrics.json").read_text())
    assert found["calibrated_ece", "macro"]["a"]["value"] == pytest.approx(
        record["macro"]["left_out"]["calibrated_ece"]["value"]
    )
    assert found["youden_accuracy", "macro"]["a"]["value"] == pytest.approx(
        record["macro"]["youden"]["accuracy"]["value"]
    )
    record["findings"][0]["calibration"] = None
    (a / "metrics.json").write_text(json.dumps(record))
    _, found = compare(a, b, tmp_path / "o")
    assert found["calibrated_ece", "macro"]["findings"] == 1
    assert ("calibrated_ece", KEYS[0]) not in found


def with_hits(folder, hits, focal=True):
    """A result as ``--grounding`` leaves it: a planted nodule per value, None where there is no heatmap."""
    record = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(record | {"grounding": {"all": {}}}))
    lines = [{"format": "ctgvlm-evaluation-cases", "settings": {}}]
    for n, hit in enumerate(hits):
        about = {"key": "lung/Lung nodule", "focal": focal}
        planted = about | ({"reason": "the organ is cut off"} if hit is None else {"hit": hit, "near": 1.0})
        lines.append({"case_id": f"v{n:02}", "grounding": [planted, about | {"hit": 1.0, "near": 0.5}]})
    (folder / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_pointing_game_is_paired_by_planted_finding(evaluate, labels, tmp_path):
    a = with_hits(evaluate("a", scores_of(labels, 2.0)), [1.0, 0.5, None, 1.0])
    b = with_hits(evaluate("b", scores_of(labels, 1.0)), [0.0, 0.5, 1.0, 1.0])
    _, found = compare(a, b, tmp_path / "o")
    row = found["pointing", "lung/Lung nodule"]
    assert row["count"] == 7  # the third case's first nodule has no heatmap of A
    assert row["a"]["value"] - row["b"]["value"] == row["difference"]["value"] == pytest.approx(1 / 7)
    assert found["focal_pointing", "macro"]["difference"] == row["difference"]
    assert found["focal_pointing_near", "macro"]["a"]["value"] == pytest.approx((3 * 1.0 + 4 * 0.5) / 7)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 50}, "only {first} has v50, v51, v52 and 7 more. A paired comparison needs the same"),
        ({"flip": True}, "have other labels for 1 values, the first one lung/Emphysema of v03"),
        ({"keys": ("lung/Emphysema", "heart/Pericardial effusion")}, "the findings of the first: heart/Cardiomegaly"),
        ({"patients": [f"q{n}" for n in range(VOLUMES)]}, "tell patients apart in other ways"),
        ({"protocol": "fvlm16"}, "the protocol of the first: corpus, of the second: fvlm16"),
    ],
)
def test_results_that_are_not_of_the_same_cases_are_refused(evaluate, labels, tmp_path, capsys, change, words):
    first = evaluate("a", scores_of(labels, 2.0))
    change = dict(change)
    changed, count = labels.copy(), change.pop("count", VOLUMES)
    if change.pop("flip", False):
        changed[3, 0] = 1 - labels[3, 0]
    second = evaluate("b", scores_of(labels, 1.0)[:count], labels=changed[:count], **change)
    assert compare(first, second, tmp_path / "o")[0] == 3
    assert words.format(first=first) in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_result_counts_once_and_an_unusable_folder_is_named(evaluate, labels, tmp_path, capsys):
    a, b = (evaluate(name, scores_of(labels, 2.0), model="same") for name in "ab")
    for folders, words in (
        (([a], [a]), "is given twice"),
        (([a, b], [tmp_path / "c"]), "holds no result"),
    ):
        assert compare(*folders, tmp_path / "o")[0] == 3
        assert words in capsys.readouterr().err
    c = evaluate("c", scores_of(labels, 1.0))
    assert compare([a, b], [c], tmp_path / "o")[0] == 3
    assert "are results of the same model" in capsys.readouterr().err
    assert compare(a, c, tmp_path / "o", "--names", "x", "x")[0] == 3
    assert "Both methods are called 'x'" in capsys.readouterr().err
    (c / "measured.csv").unlink()
    assert compare(a, c, tmp_path / "o")[0] == 3
    assert "has no measured.csv: an older version made it" in capsys.readouterr().err
    (a / "metrics.json").write_text("{")
    assert compare(a, b, tmp_path / "o")[0] == 3
    assert "is damaged" in capsys.readouterr().err
