"""What a corpus is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from CTGroundedVLMLib.errors import InputError

from .kinds import KIND, KINDS

GENERATOR = "CTGroundedVLM synthetic corpus 1"  # a new number whenever the same settings give other cases
COVERAGES = ("chest and abdomen", "chest", "abdomen", "cut off")
PHASES = ("unenhanced", "portal venous", "arterial")


@dataclass(frozen=True)
class Settings:
    """The settings of a corpus; all but ``patients`` decide what a case looks like.

    ``spacing_ijk``: mm on average; a scan's differs by up to ``spacing_variation`` (a share).
    ``prevalence``: by name of the kind, where it is not the default.
    ``grades``: range of conspicuity, 0 (subtle) to 1 (obvious).
    ``unreported``: share of the findings that the report leaves out.
    ``two_studies``: share of the patients with a second study.
    ``splits``: shares of train and validation; the rest is test.
    ``coverages`` and ``phases``: weights, in the order of ``COVERAGES`` and ``PHASES``.
    """

    patients: int = 100
    seed: int = 0
    spacing_ijk: tuple[float, float, float] = (3.0, 3.0, 5.0)
    spacing_variation: float = 0.15
    prevalence: Mapping[str, float] = field(default_factory=dict)
    grades: tuple[float, float] = (0.1, 1.0)
    unreported: float = 0.03
    two_studies: float = 0.1
    splits: tuple[float, float] = (0.8, 0.1)
    coverages: tuple[float, ...] = (0.55, 0.25, 0.12, 0.08)
    phases: tuple[float, ...] = (0.6, 0.3, 0.1)

    def __post_init__(self) -> None:
        if self.patients < 1 or self.seed < 0:
            raise InputError(
                f"{self.patients} patients, seed {self.seed}: expected at least 1 patient and a seed from 0"
            )
        if len(self.spacing_ijk) != 3 or not all(0.4 <= s <= 12 for s in self.spacing_ijk):
            raise InputError(f"spacing {self.spacing_ijk}: expected three values from 0.4 to 12 mm")
        for name, share in self.prevalence.items():
            if name not in KIND:
                raise InputError(f"prevalence of {name!r}: no such finding; expected some of {', '.join(KIND)}")
            _check_share(f"prevalence of {name!r}", share)
        for name in ("unreported", "two_studies", "spacing_variation"):
            _check_share(name, getattr(self, name))
        low, high = self.grades
        if not 0 <= low <= high <= 1:
            raise InputError(f"grades {low} to {high}: expected an increasing range within 0 and 1")
        if sum(self.splits) > 1 or min(self.splits) < 0:
            raise InputError(f"splits {self.splits}: expected shares of train and validation whose sum is at most 1")

    def prevalence_of(self, name: str) -> float:
        """The share of scans (that show the organ) with a kind of finding, before others make it more likely."""
        return self.prevalence.get(name, KIND[name].prevalence)

    def to_record(self) -> dict[str, Any]:
        """JSON form, with every prevalence spelled out."""
        record = asdict(self) | {"prevalence": {kind.name: self.prevalence_of(kind.name) for kind in KINDS}}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in record.items()}


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"{name} is {value}; expected a share from 0 to 1")
