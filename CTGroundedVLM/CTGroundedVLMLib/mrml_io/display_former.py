"""What a display looked like before this extension changed it, kept on the changed node itself.

An attribute and node references are saved with the scene, so that a display can be restored after loading it, and vanish
with their node. The first state counts: changing a display twice and restoring it once gives the original.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import slicer

_PREFIX = "CTGroundedVLM.Former."


def remember(node: slicer.vtkMRMLNode, key: str, state: Mapping[str, object]) -> None:
    """Keep ``state`` (of what JSON holds) under ``key``; what is kept already stays."""
    if node.GetAttribute(_PREFIX + key) is None:
        node.SetAttribute(_PREFIX + key, json.dumps(state))


def remembered(node: slicer.vtkMRMLNode, key: str) -> dict | None:
    """What is kept, or None. Damaged text (edited by hand) counts as nothing."""
    text = node.GetAttribute(_PREFIX + key)
    try:
        state = json.loads(text) if text else None
    except json.JSONDecodeError:
        return None
    return state if isinstance(state, dict) else None


def forget(node: slicer.vtkMRMLNode, key: str) -> None:
    """Drop what is kept."""
    if node.GetAttribute(_PREFIX + key) is not None:
        node.RemoveAttribute(_PREFIX + key)
