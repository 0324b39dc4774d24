"""Radiology reports: sentences, the segments they speak of, and what they assert.

``parse_report`` is the way in; ``to_record`` and ``parse_jsonl`` write the JSON form of an annotated report.
"""

from .parser import parse_report
from .records import parse_jsonl, to_record

__all__ = ["parse_jsonl", "parse_report", "to_record"]
