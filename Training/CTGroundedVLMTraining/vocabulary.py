"""The tokenizer of a run: that of a folder, of the registry, or one with the corpus's words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from transformers import BertTokenizerFast, PreTrainedTokenizerBase

from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.model.tokenizer import load_tokenizer
from CTGroundedVLMLib.model.untrained import registry_tokenizer

from .config import InitialWeights
from .data.dataset import PreparedDataset
from .types import PreparedCase

_WORD = re.compile(r"[a-z]+")  # numbers stay digits: a size that no text had is spelled like one that many had


def tokenizer_of(initial: InitialWeights, cases: Sequence[PreparedCase], size: int) -> PreTrainedTokenizerBase:
    """The tokenizer that the configuration names, with at most ``size`` tokens; ``cases``: the training cases.

    Raises:
        InputError: it has more tokens than that.
        ModelError: the folder holds no tokenizer.
    """
    if initial.tokenizer == "registry":
        tokenizer = registry_tokenizer()
    elif initial.tokenizer == "corpus":
        tokenizer = corpus_tokenizer(texts_of(cases), size)
    else:
        tokenizer = load_tokenizer(Path(initial.tokenizer or initial.text_model))
    if len(tokenizer) > size:
        raise InputError(
            f"The tokenizer has {len(tokenizer)} tokens, the model {size} (model.text.vocabulary_size). "
            f"Set it with --set model.text.vocabulary_size={len(tokenizer)}, or choose another tokenizer."
        )
    return tokenizer


def texts_of(cases: Sequence[PreparedCase]) -> Iterator[str]:
    """Reports and organ texts of the cases; of prepared data on disk without reading the volumes."""
    if isinstance(cases, PreparedDataset):
        yield from cases.texts()
        return
    for case in cases:
        yield case.report
        yield from (said.text for said in case.organ_texts.values())


def corpus_tokenizer(texts: Iterable[str], size: int) -> BertTokenizerFast:
    """The registry's tokenizer and, up to ``size`` tokens, the commonest words of the texts; other words are spelled."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_WORD.findall(text.lower()))
    vocabulary = sorted(registry_tokenizer().get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in vocabulary]
    new = sorted((word for word in counts if word not in dict(vocabulary)), key=lambda word: (-counts[word], word))
    tokens += new[: max(size - len(tokens), 0)]
    return BertTokenizerFast(vocab={token: i for i, token in enumerate(tokens)}, do_lower_case=True)
