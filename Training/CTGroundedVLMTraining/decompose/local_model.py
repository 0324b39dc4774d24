"""A language model of Hugging Face's ``transformers`` in this process, from local files only."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

from CTGroundedVLMLib.errors import ModelError

from .chat import Messages, ReportFailure


class TransformersModel:
    """A causal language model with its tokenizer, greedy; one answer at a time (threads wait for each other)."""

    def __init__(self, folder: Path, *, device: str = "auto", max_tokens: int = 1024) -> None:
        """Load ``folder`` as ``save_pretrained`` writes it. No code of the folder is run.

        Raises:
            ModelError: no such model in the folder.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from CTGroundedVLMLib.precision import choose_device

        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder}: no config.json; give the folder of a causal language model with its tokenizer")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, dtype="auto"
            )
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{folder}: not a causal language model that can be loaded ({error})") from error
        self._model = model.eval().to(choose_device(device))
        self._max_tokens, self._lock = max_tokens, threading.Lock()
        self.identity = f"{folder.resolve().name}:{_fingerprint(folder)}"

    def complete(self, messages: Messages) -> str:
        """See ``ChatModel``."""
        import torch

        with self._lock, torch.no_grad():
            inputs = self._inputs(messages).to(self._model.device)
            length = inputs["input_ids"].shape[1]
            longest = getattr(self._model.config, "max_position_embeddings", None)
            if longest is not None and length >= longest:
                raise ReportFailure(f"the prompt has {length} tokens, the model takes {longest}")
            room = self._max_tokens if longest is None else min(self._max_tokens, longest - length)
            pad = (
                self._tokenizer.pad_token_id
                if self._tokenizer.pad_token_id is not None
                else self._tokenizer.eos_token_id
            )
            output = self._model.generate(**inputs, max_new_tokens=room, do_sample=False, pad_token_id=pad)[0, length:]
        if len(output) == room and not self._ended(output):
            raise ReportFailure("the answer was cut off at its longest; raise --max-tokens")
        return self._tokenizer.decode(output, skip_special_tokens=True)

    def _inputs(self, messages: Messages):
        if self._tokenizer.chat_template:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
            return self._tokenizer(text, return_tensors="pt", add_special_tokens=False, return_token_type_ids=False)
        text = "\n\n".join(m["content"] for m in messages) + "\n\nAnswer:"
        return self._tokenizer(text, return_tensors="pt", return_token_type_ids=False)

    def _ended(self, output) -> bool:
        ends = self._model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        return bool(len(output)) and int(output[-1]) in ends


def _fingerprint(folder: Path) -> str:
    """Of the configuration, and the names, sizes and times of the other files: weights are too large to hash each time."""
    files = sorted(p for p in folder.iterdir() if p.is_file())
    stats = [f"{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files]
    return hashlib.sha256("\n".join(stats).encode() + (folder / "config.json").read_bytes()).hexdigest()[:12]
