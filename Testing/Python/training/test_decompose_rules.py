"""Decomposition by rules: explicit statuses, and the release's rule as an option."""

import json

import pytest

from CTGroundedVLMLib.types import ReportFinding
from CTGroundedVLMTraining import cli
from CTGroundedVLMTraining.decompose.normality import is_surgery, legacy_caption, status_of, with_legacy_normality
from CTGroundedVLMTraining.decompose.organs import organ_finder
from CTGroundedVLMTraining.decompose.rules import decompose_by_rules

REPORT = (
    "TECHNIQUE: Chest CT from the liver to the lung apices.\n\nFINDINGS:\nThe heart is normal in size. Calcified plaques in the\n"
    "thoracic aorta. A 5 mm nodule in the right upper lobe.\n\nIMPRESSION:\nRight upper lobe nodule."
)


def decomposed(text, group="anatomy36"):
    return decompose_by_rules(text, organ_finder(group))


def status(text, organ):
    return decomposed(text)[organ].status


def test_each_organ_of_the_group_has_text_status_and_offsets():
    organs = decomposed(REPORT, "fvlm4")
    assert list(organs) == ["lung", "heart", "esophagus", "aorta"]
    lung = organs["lung"]
    assert (lung.findings, lung.impression) == ("A 5 mm nodule in the right upper lobe.", "Right upper lobe nodule.")
    assert [REPORT[a:b] for a, b in lung.sentences] == [lung.findings, lung.impression]
    assert organs["aorta"].findings == "Calcified plaques in the thoracic aorta."
    assert {organ: d.status for organ, d in organs.items()} == {
        "lung": "abnormal", "heart": "normal", "esophagus": "not mentioned", "aorta": "abnormal",
    }  # fmt: skip


def test_a_finding_outside_the_impression_stays_abnormal():
    aorta = decomposed(REPORT, "fvlm4")["aorta"]
    assert (aorta.impression, aorta.status) == ("", "abnormal")


def test_other_sections_do_not_mention_an_organ():
    assert status(REPORT, "liver") == "not mentioned"
    assert (
        status("TECHNIQUE: CT of the pulmonary arteries.\nFINDINGS: Liver cyst.", "pulmonary artery") == "not mentioned"
    )


def test_an_organ_that_the_report_leaves_out_is_not_normal():
    organs = decomposed("FINDINGS: The liver is normal.")
    assert organs["liver"].status == "normal"
    assert {d.status for organ, d in organs.items() if organ != "liver"} == {"not mentioned"}


@pytest.mark.parametrize(
    ("text", "organ", "expected"),
    [
        ("No focal liver lesion.", "liver", "normal"),
        ("Possible small cyst in the liver.", "liver", "uncertain"),
        ("Status post cholecystectomy.", "gallbladder", "abnormal"),
        ("The spleen measures 11 cm.", "spleen", "uncertain"),
        ("There is no pulmonary embolism.", "pulmonary artery", "normal"),
        ("The main pulmonary artery is dilated.", "pulmonary artery", "abnormal"),
    ],
)
def test_status_of_one_statement(text, organ, expected):
    assert status(text, organ) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The pancreas is atrophic, and the spleen is normal.", {"pancreas": "abnormal", "spleen": "normal"}),
        ("Splenomegaly; liver and pancreas are normal.", {"spleen": "abnormal", "liver": "normal", "pancreas": "normal"}),
        ("No renal calculus, but gallstones are present.", {"kidney": "normal", "gallbladder": "abnormal"}),
        ("No pericardial effusion, small left pleural effusion.", {"heart": "normal", "lung": "abnormal"}),
        ("No liver cyst, renal mass, or splenic infarct.", {"liver": "normal", "kidney": "normal", "spleen": "normal"}),
    ],
)  # fmt: skip
def test_a_finding_belongs_to_its_own_organ_of_a_sentence(text, expected):
    organs = decomposed(text)
    assert {organ: organs[organ].status for organ in expected} == expected


def findings(*pairs):
    return [ReportFinding(name, kind) for name, kind in pairs]


def test_the_strongest_statement_decides():
    assert status_of(findings(("cyst", "absent"), ("mass", "uncertain"), ("nodule", "present"))) == "abnormal"
    assert status_of(findings(("cyst", "absent"), ("mass", "uncertain"))) == "uncertain"
    assert status_of(findings(("abnormality", "absent"), ("nodule", "historical"))) == "normal"
    assert status_of(findings(("abnormality", "absent"), ("left nephrectomy", "historical"))) == "abnormal"
    assert status_of([]) == "uncertain"


def test_dissection_of_the_aorta_is_no_surgery():
    assert [is_surgery(name) for name in ("aortic dissection", "spinal fusion", "Hemicolectomy")] == [False, True, True]


def test_legacy_texts_and_flags_are_the_releases(parity_dir):
    fixture = json.loads((parity_dir / "caption_rules.json").read_text())
    compared = 0
    for session, organs in fixture["official"].items():
        for organ, official in organs.items():
            made = legacy_caption(
                organ,
                fixture["desc_info"].get(session, {}).get(organ),
                fixture["conc_info"].get(session, {}).get(organ),
            )
            assert vars(made) == official, (session, organ)
            compared += 1
    assert compared == 12


def test_the_legacy_rule_calls_a_finding_outside_the_impression_normal():
    organs = with_legacy_normality(decomposed(REPORT, "fvlm4"))
    assert (organs["aorta"].status, organs["aorta"].caption, organs["aorta"].encoded_text) == (
        "normal",
        "aorta shows no significant abnormalities.Calcified plaques in the thoracic aorta.",
        "Calcified plaques in the thoracic aorta.",
    )
    assert organs["lung"].caption == "Right upper lobe nodule.A 5 mm nodule in the right upper lobe."
    assert {organ: d.status for organ, d in organs.items() if organ != "aorta"} == {
        "lung": "abnormal", "heart": "normal", "esophagus": "normal",
    }  # fmt: skip


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_the_command_writes_one_object_per_report(tmp_path, capsys):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"report_id": i, "text": t}) + "\n" for i, t in [("a", REPORT), ("b", "  ")]))
    assert run("decompose", source, out, "--group", "fvlm4", "--quiet") == 8
    first, second = map(json.loads, out.read_text().splitlines())
    sentence = "The heart is normal in size."
    start = REPORT.index(sentence)
    assert first["organs"]["heart"] == {
        "findings": sentence, "impression": "", "status": "normal", "sentences": [[start, start + len(sentence)]],
    }  # fmt: skip
    assert (first["report_id"], first["method"], first["error"], first["text"]) == ("a", "rules", None, REPORT)
    assert (second["organs"], second["error"]) == ({}, "the report is empty")
    assert "1 reports failed" in capsys.readouterr().err


def test_legacy_output_carries_the_training_text(tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"report_id": "a", "text": REPORT}))
    assert run("decompose", source, out, "--group", "fvlm4", "--normality", "legacy", "--quiet") == 0
    organs = json.loads(out.read_text())["organs"]
    assert (
        organs["esophagus"]["caption"]
        == organs["esophagus"]["encoded_text"]
        == "esophagus shows no significant abnormalities."
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "llm"], "needs one of --server URL and --transformers-model DIR"),
        (["--method", "llm", "--server", "localhost:1"], "needs --llm-model NAME"),
        (["--server", "localhost:1"], "--server needs --method llm."),
        (["--cache", "answers"], "--cache needs --method llm."),
        (["--threads", "2"], "--threads needs --method llm."),
        (
            ["--method", "llm", "--transformers-model", "m", "--threads", "2"],
            "--threads needs --server: a local model gives one answer at a time.",
        ),
        (["--method", "llm", "--transformers-model", "m", "--llm-model", "x"], "--llm-model needs --server"),
        (
            ["--method", "llm", "--server", "localhost:1", "--llm-model", "x", "--device", "cpu"],
            "--device needs --transformers-model",
        ),
        (
            ["--method", "llm", "--server", "localhost:1", "--llm-model", "x", "--cache", "a", "--no-cache"],
            "--cache does not go with --no-cache.",
        ),
    ],
)
def test_options_that_do_not_fit_together_are_refused(tmp_path, capsys, options, message):
    source = tmp_path / "in.jsonl"
    source.write_text('{"report_id": "a", "text": "x"}')
    assert run("decompose", source, tmp_path / "out.jsonl", *options) == 3
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_the_input_is_never_taken_as_output(tmp_path, capsys):
    source = tmp_path / "in.jsonl"
    source.write_text('{"report_id": "a", "text": "x"}')
    assert run("decompose", source, source) == 3
    assert source.read_text() == '{"report_id": "a", "text": "x"}'
    assert "is the input, too" in capsys.readouterr().err
