"""Which organ a question in free words is about, and what it asks."""

import pytest

from CTGroundedVLMLib.anatomy import organ_group
from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.questions import question_finding, question_organ

ORGANS = {organ.name: organ.segments for organ in organ_group("anatomy36").organs}


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("Show me a cyst in the left kidney", "cyst in the left kidney"),
        ("Where is the  liver lesion?", "liver lesion"),
        ("Are there any gallstones?", "gallstones"),
        ("please find hiatal hernia.", "hiatal hernia"),
        ("showering emboli", "showering emboli"),
        ("結節", "結節"),
    ],
)
def test_a_question_is_stripped_to_the_finding(text, finding):
    assert question_finding(text) == finding


@pytest.mark.parametrize(
    ("text", "organ"),
    [
        ("cyst in the left kidney", "kidney"),
        ("consolidation in the left lower lobe", "lung"),
        ("cardiomegaly", "heart"),
        ("fracture of L3", "lumbar vertebrae"),
        ("hepatic steatosis", "liver"),
        ("adrenal gland mass", "adrenal gland"),
    ],
)
def test_the_organ_is_found_in_the_words(text, organ):
    assert question_organ(text, ORGANS) == organ


def test_an_organ_of_somebodys_own_model_is_found_by_its_name():
    assert (
        question_organ("rupture of the Left Ventricle", {"left ventricle": (), "heart": ("heart",)}) == "left ventricle"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("meniscal tear", "names no organ of the model. Choose one of: adrenal gland, aorta"),
        ("liver and spleen", "names several organs"),
    ],
)
def test_no_organ_or_several_is_an_error_that_lists_the_organs(text, message):
    with pytest.raises(InputError) as raised:
        question_organ(text, ORGANS)
    assert message in str(raised.value)
