"""What a model is made of: frozen dataclasses, validated here, stored in the checkpoint's ``config.json``.

The defaults are fVLM's released CT-RATE model (Shui et al., ICLR 2025, arXiv 2501.14548; its public code).
Axis order of every triple is (D, H, W): feet to head, front to back, patient right to left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..anatomy import organ_group, segment_classes
from ..errors import ModelError

Triple = tuple[int, int, int]


def _require(condition: bool, field_name: str, value: object, expected: str) -> None:
    if not condition:
        raise ModelError(f"Model configuration: {field_name} is {value!r}, expected {expected}. Correct config.json.")


def _positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        items = value if isinstance(value, tuple) else (value,)
        _require(all(x > 0 for x in items), name, value, "only values above 0")


def _triples(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        _require(isinstance(value, tuple) and len(value) == 3, name, value, "three values (D, H, W)")


@dataclass(frozen=True)
class PreprocessingConfig:
    """How a CT becomes model input (fVLM's ``resize.py``, ``preprocess.py`` and ``eval.py``).

    ``spacing_mm``: voxel size of the model grid. ``hu_window``: clipped to it, scaled to [0, 1]. ``crop_margin``: voxels
    kept around the box of all organs. ``minimum_size``: the crop is padded with 0, symmetrically, to at least this size;
    also the training crop. ``window_size``: size of an organ-centred evaluation window.
    """

    spacing_mm: tuple[float, float, float] = (3.0, 1.0, 1.0)
    hu_window: tuple[float, float] = (-1150.0, 350.0)
    crop_margin: Triple = (5, 20, 20)
    minimum_size: Triple = (112, 256, 352)
    window_size: Triple = (112, 288, 352)

    def __post_init__(self) -> None:
        _triples(self, "spacing_mm", "crop_margin", "minimum_size", "window_size")
        _positive(self, "spacing_mm", "minimum_size", "window_size")
        _require(len(self.hu_window) == 2, "hu_window", self.hu_window, "(lower, upper)")
        _require(
            self.hu_window[0] < self.hu_window[1], "hu_window", self.hu_window, "(lower, upper) with lower < upper"
        )
        _require(all(m >= 0 for m in self.crop_margin), "crop_margin", self.crop_margin, "values of at least 0")


@dataclass(frozen=True)
class VisionConfig:
    """A ViT in MONAI's layout. ``levels``: the blocks (0-based) whose output is used beside the final norm's.

    ``background_tokens``: whether tokens that lie in no organ take part in attention, as in the release. Without them a pass
    costs about as much as the share of tokens inside organs (linear layers) and its square (attention).
    ``narrow_windows``: (lower, upper) as shares of the model's HU window; each gives the patch embedding one more channel, in
    which that part fills [0, 1], as a radiologist looks at lung and soft tissue in turn. None in the release.
    ``stem``: channels of convolutions (3 x 3 x 3, stride 2, ReLU) before the patches, which stay as large as ``patch_size`` says:
    with few cases they learn what a patch's linear layer does not (Xiao et al. 2021, arXiv 2106.14881). None in the release.
    """

    image_size: Triple = (112, 256, 352)
    patch_size: Triple = (16, 16, 32)
    hidden_size: int = 768
    mlp_size: int = 3072
    blocks: int = 12
    heads: int = 12
    levels: tuple[int, ...] = (3, 6, 9)
    dropout: float = 0.1
    background_tokens: bool = True
    narrow_windows: tuple[tuple[float, float], ...] = ()
    stem: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _triples(self, "image_size", "patch_size")
        _positive(self, "image_size", "patch_size", "hidden_size", "mlp_size", "blocks", "heads")
        fits = all(s % p == 0 for s, p in zip(self.image_size, self.patch_size, strict=True))
        _require(fits, "vision.image_size", self.image_size, f"multiples of the patch size {self.patch_size}")
        _require(self.hidden_size % self.heads == 0, "vision.hidden_size", self.hidden_size, "a multiple of heads")
        _require(all(0 <= x < self.blocks for x in self.levels), "vision.levels", self.levels, "block numbers")
        _require(0 <= self.dropout < 1, "vision.dropout", self.dropout, "0 <= dropout < 1")
        pairs = all(len(window) == 2 and 0 <= window[0] < window[1] <= 1 for window in self.narrow_windows)
        _require(
            pairs, "vision.narrow_windows", self.narrow_windows, "pairs (lower, upper) with 0 <= lower < upper <= 1"
        )

        _require(all(channels > 0 for channels in self.stem), "vision.stem", self.stem, "only values above 0")

    @property
    def stem_strides(self) -> tuple[Triple, ...]:
        """Of each convolution: it halves what is left of the patch along every axis where that is even, the longest first."""
        strides, left = [], self.patch_size
        for _ in self.stem:
            halved = tuple(n % 2 == 0 and 2 * n > max(left) for n in left)
            strides.append(tuple(2 if half else 1 for half in halved))
            left = tuple(n // stride for n, stride in zip(left, strides[-1], strict=True))
        return tuple(strides)

    @property
    def grid(self) -> Triple:
        """Tokens along each axis of the training crop."""
        return tuple(s // p for s, p in zip(self.image_size, self.patch_size, strict=True))


@dataclass(frozen=True)
class TextConfig:
    """A BERT encoder whose CLS token is projected. Token-type embeddings are not added (as in the release)."""

    vocabulary_size: int = 30522
    hidden_size: int = 768
    mlp_size: int = 3072
    blocks: int = 12
    heads: int = 12
    positions: int = 512
    max_tokens: int = 384
    dropout: float = 0.25
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        _positive(self, "vocabulary_size", "hidden_size", "mlp_size", "blocks", "heads", "positions", "max_tokens")
        _require(self.hidden_size % self.heads == 0, "text.hidden_size", self.hidden_size, "a multiple of heads")
        _require(self.max_tokens <= self.positions, "text.max_tokens", self.max_tokens, "at most text.positions")


@dataclass(frozen=True)
class ModelConfig:
    """A whole model. ``organs``: name -> TotalSegmentator v2 classes, in the order of the model's queries."""

    organs: Mapping[str, tuple[str, ...]]
    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)
    embedding_size: int = 256
    pooling_heads: int = 4
    pooling_dropout: float = 0.1
    temperature: float = 0.07

    def __post_init__(self) -> None:
        _positive(self, "embedding_size", "pooling_heads", "temperature")
        _require(0 < len(self.organs) < 255, "organs", list(self.organs), "1 to 254 organs")
        known = {segment_class.name for segment_class in segment_classes()}
        for organ, segments in self.organs.items():
            strange = sorted(set(segments) - known)
            _require(not strange, f"organs[{organ!r}]", strange, "class names of TotalSegmentator v2's total task")
        divides = self.vision.hidden_size % self.pooling_heads == 0
        _require(divides, "pooling_heads", self.pooling_heads, f"a divisor of {self.vision.hidden_size}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self) | {"organs": {k: list(v) for k, v in self.organs.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelConfig:
        """The inverse of :meth:`to_dict`; raises ModelError that names an unknown or missing field."""
        values = dict(data)
        try:
            for name, kind in (("vision", VisionConfig), ("text", TextConfig), ("preprocessing", PreprocessingConfig)):
                values[name] = kind(**{k: as_tuple(v) for k, v in values[name].items()})
            values["organs"] = {name: tuple(segments) for name, segments in values["organs"].items()}
            return cls(**values)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ModelError(
                f"Model configuration: {error}. Expected the fields of format version 1; "
                "the checkpoint may come from another version of this software."
            ) from error


def as_tuple(value: Any) -> Any:
    """JSON's lists, also those within lists, are tuples in a configuration."""
    return tuple(as_tuple(item) for item in value) if isinstance(value, list) else value


def fvlm_config(group: str = "fvlm4") -> ModelConfig:
    """The released architecture (about 0.2 B parameters) for an organ group of the registry."""
    return ModelConfig(organs={organ.name: organ.segments for organ in organ_group(group).organs})


def debug_config(group: str = "fvlm4") -> ModelConfig:
    """A small twin of :func:`fvlm_config` with the same parts, for tests: seconds on a CPU."""
    return ModelConfig(
        organs={organ.name: organ.segments for organ in organ_group(group).organs},
        vision=VisionConfig((48, 64, 96), (16, 16, 32), hidden_size=48, mlp_size=96, blocks=4, heads=4, levels=(1, 2)),
        text=TextConfig(vocabulary_size=4096, hidden_size=32, mlp_size=64, blocks=2, heads=4, max_tokens=128),
        preprocessing=PreprocessingConfig(minimum_size=(48, 64, 96), window_size=(48, 64, 96)),
        embedding_size=24,
    )
