"""The panel in a copy of the software that holds the starter model: chosen, named as what it is, calibrated."""

import pytest

from bundled_models import NOTICE, a_starter
from panel_session import choose, items, open_panel
from qt_standin import a_session


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    """An open panel with the box case; the user has installed no model."""
    with pytest.MonkeyPatch.context() as patch, a_session(tmp_path_factory.mktemp("slicer")) as session:
        patch.setenv("CTGVLM_BUNDLED_MODELS_DIR", str(a_starter(tmp_path_factory.mktemp("bundled"))))
        patch.setenv("CTGVLM_MODELS_DIR", str(tmp_path_factory.mktemp("none")))
        patch.setenv("CTGVLM_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield open_panel(session)


def test_the_starter_model_is_chosen_first_and_named_as_bundled_with_licence_and_notice(panel):
    assert items(panel.ui.modelComboBox) == ["starter", "untrained"]
    assert panel.parameters.model == "starter"
    assert panel.ui.modelLicenseLabel.text == "Bundled with the software. Licence: Apache-2.0"
    assert panel.ui.modelNoticeLabel.text == NOTICE
    assert panel.ui.modelNoticeLabel.visible


def test_it_cannot_be_deleted_from_the_panel(panel):
    (delete,) = [a for a in panel.ui.modelMenuButton.menu().actions() if a.text.startswith("Delete")]
    choose(panel.ui.modelComboBox, "starter")
    assert not delete.enabled


def test_its_results_are_calibrated_and_say_what_it_was_trained_on(panel):
    panel.analyze()
    result = panel.results.result
    assert result.model.name == "starter"
    assert panel.ui.resultNoticeLabel.text == NOTICE
    assert panel.ui.resultNoticeLabel.visible
    shown = {row.finding: row.calibrated for row in panel.results.table.shown if row.probability is not None}
    assert shown
    assert shown == {name: name != "Pneumothorax" for name in shown}
