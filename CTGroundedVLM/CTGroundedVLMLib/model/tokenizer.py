"""The WordPiece tokenizer: loading, checking, and batches padded to their longest text only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertTokenizerFast, PreTrainedTokenizerBase

from ..errors import ModelError

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """A BERT tokenizer from ``tokenizer.json`` or ``vocab.txt`` in ``folder``; nothing is ever downloaded.

    Raises:
        ModelError: neither file is there, or it is no WordPiece tokenizer.
    """
    present = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not present:
        raise ModelError(
            f"No tokenizer in {folder}: expected {' or '.join(TOKENIZER_FILES)}. For fVLM's released checkpoint, these are "
            "the tokenizer files of microsoft/BiomedVLP-CXR-BERT-specialized."
        )
    try:
        if "tokenizer.json" in present:
            # plain fast tokenizer: no code from the folder is run
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, tokenizer_type="bert"
            )
        else:
            tokenizer = BertTokenizerFast.from_pretrained(folder, local_files_only=True, do_lower_case=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"The tokenizer in {folder} cannot be read: {error}. Copy its files again.") from error
    for special in ("cls_token_id", "sep_token_id", "pad_token_id"):
        if getattr(tokenizer, special) is None:
            raise ModelError(
                f"The tokenizer in {folder} has no {special[:3].upper()} token; expected a BERT tokenizer."
            )
    return tokenizer


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask (P, T), padded to the longest text: the release pads to 384, with the same result (tested)."""
    batch = tokenizer(
        list(texts), padding="longest", truncation=True, max_length=max_tokens, return_tensors="pt", verbose=False
    )
    return batch["input_ids"], batch["attention_mask"]
