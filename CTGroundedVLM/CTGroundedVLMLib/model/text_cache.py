"""Text embeddings, cached in memory and on disk, keyed by model and text.

Only embeddings are stored, under hashed names: a report or prompt cannot be read back from the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..files import atomic_path
from .checkpoint import LoadedModel
from .tokenizer import tokenize

BATCH = 64


class TextEncoder:
    """Texts -> features (P, E), L2-normalised fp32. Each text is encoded once per model, ever."""

    def __init__(self, loaded: LoadedModel, cache_folder: Path | None = None) -> None:
        self._loaded = loaded
        self._memory: dict[str, torch.Tensor] = {}
        # random weights have no identity worth keeping
        self._folder = (
            cache_folder / "text" / loaded.identity.sha256[:16] if cache_folder and loaded.identity.trained else None
        )

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Features (P, E) in the order of ``texts``, on the model's device."""
        new = [text for text in dict.fromkeys(texts) if text not in self._memory and not self._read(text)]
        new.sort(key=len)  # texts of like length share a batch, so that little padding is computed
        for i in range(0, len(new), BATCH):
            self._encode(new[i : i + BATCH])
        return torch.stack([self._memory[text] for text in texts])

    @torch.no_grad()
    def _encode(self, texts: list[str]) -> None:
        model = self._loaded.model
        ids, mask = tokenize(self._loaded.tokenizer, texts, model.config.text.max_tokens)
        features = model.encode_tokens(ids.to(model.device), mask.to(model.device))
        for text, feature in zip(texts, features, strict=True):
            self._memory[text] = feature
            self._write(text, feature)

    def _path(self, text: str) -> Path:
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.npy"

    def _read(self, text: str) -> bool:
        """Take a text from the disk; a damaged file is as good as none."""
        if self._folder is None:
            return False
        try:
            value = np.load(self._path(text), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return False
        if (
            value.shape != (self._loaded.config.embedding_size,)
            or value.dtype != np.float32
            or not np.isfinite(value).all()
        ):
            return False
        self._memory[text] = torch.from_numpy(value).to(self._loaded.model.device)
        return True

    def _write(self, text: str, feature: torch.Tensor) -> None:
        if self._folder is None:
            return
        with contextlib.suppress(OSError):  # a full or read-only disk must not stop an analysis
            self._folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(self._path(text)) as path, open(path, "wb") as file:
                np.save(file, feature.cpu().numpy())
