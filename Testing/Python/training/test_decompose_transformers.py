"""Decomposition by a local model: a tiny one that this test trains to know its answers by heart."""

import json

import pytest

torch = pytest.importorskip("torch")
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402 -- only where torch is
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast  # noqa: E402

from CTGroundedVLMLib.errors import ModelError  # noqa: E402
from CTGroundedVLMTraining import cli  # noqa: E402
from CTGroundedVLMTraining.decompose.chat import ReportFailure  # noqa: E402
from CTGroundedVLMTraining.decompose.local_model import TransformersModel  # noqa: E402

SYSTEM = {"role": "system", "content": "Answer."}
KNOWN = {"is it ?": "yes", "was it ?": "no"}
END = "<end>"


def asked(question):
    return [SYSTEM, {"role": "user", "content": question}]


def prompt(question):
    return f"Answer.\n\n{question}\n\nAnswer:"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A one-layer GPT-2 over words that answers KNOWN."""
    split = pre_tokenizers.WhitespaceSplit()
    words = sorted({w for q, a in KNOWN.items() for w, _ in split.pre_tokenize_str(f"{prompt(q)} {a}")})
    vocabulary = {word: i for i, word in enumerate([END, "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, unk_token="<unk>")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(vocabulary), n_positions=16, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    batch = fast([f"{prompt(q)} {a} {END}" for q, a in KNOWN.items()], return_tensors="pt")["input_ids"]
    labels = torch.where(torch.arange(batch.shape[1]) < batch.shape[1] - 2, -100, batch)  # the answer and its end
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(input_ids=batch, labels=labels).loss
        loss.backward()
        optimizer.step()
    assert loss < 0.01, "the model has not learnt its answers: the tests below would mean nothing"
    path = tmp_path_factory.mktemp("language") / "model"
    model.save_pretrained(path)
    fast.save_pretrained(path)
    return path


def test_a_local_model_gives_its_answers(folder):
    model = TransformersModel(folder, device="cpu")
    assert {question: model.complete(asked(question)).strip() for question in KNOWN} == KNOWN
    assert model.identity.startswith("model:")


def test_a_chat_template_is_used_where_the_model_has_one(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    template = (
        "Answer.\n\n{% for m in messages if m.role == 'user' %}{{ m.content.replace('could', 'is') }}{% endfor %}"
        "\n\nAnswer:"
    )
    (tmp_path / "chat_template.jinja").write_text(template)
    assert TransformersModel(tmp_path, device="cpu").complete(asked("could it ?")).strip() == "yes"


def test_too_long_prompts_and_cut_answers_are_failures(folder):
    model = TransformersModel(folder, device="cpu", max_tokens=1)
    with pytest.raises(ReportFailure, match="cut off"):
        model.complete(asked("is it ?"))
    with pytest.raises(ReportFailure, match=r"the prompt has \d+ tokens, the model takes 16"):
        model.complete(asked("is it ? " * 10))


@pytest.mark.parametrize("content", [None, "{", '{"model_type": "unheard-of"}'])
def test_folders_without_a_model_are_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"no config.json|not a causal language model"):
        TransformersModel(tmp_path, device="cpu")


def test_the_command_marks_a_model_too_small_for_its_prompts(folder, tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"report_id": "a", "text": "Liver: normal."}))
    arguments = [
        "decompose",
        source,
        out,
        "--method",
        "llm",
        "--transformers-model",
        folder,
        "--device",
        "cpu",
        "--quiet",
    ]
    assert cli.main([str(a) for a in arguments]) == 8
    record = json.loads(out.read_text())
    assert record["organs"] == {}
    assert record["error"].startswith("adrenal gland, mention: the prompt has")
    assert record["settings"]["model"].startswith("model:")
