"""The colour tables of evidence and probability, as nodes of the scene.

Evidence looks as in the exported pictures: orange to yellow speaks for a finding, blue to cyan against it; the two are told
apart under every colour blindness. Slicer's slices know transparent and opaque colours only, so that an overlay ends where the
evidence does; on a surface the same colours fade to a neutral grey.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import slicer
import slicer.util

from ..errors import InputError

Evidence = Literal["for", "against", "both"]
TABLE_ATTRIBUTE = "CTGroundedVLM.Colours"
NEUTRAL = (0.70, 0.68, 0.65)  # a surface without evidence
NOT_SCORED = (0.45, 0.45, 0.48)
_COLOURS = 256
# Position, red, green, blue, share of the colour on a surface's grey; from no evidence to the strongest.
_FOR = (
    (0.0, 0.85, 0.15, 0.0, 0.0),
    (0.4, 0.97, 0.38, 0.05, 0.8),
    (0.7, 1.0, 0.65, 0.1, 1.0),
    (1.0, 1.0, 0.95, 0.45, 1.0),
)
_AGAINST = (
    (0.0, 0.10, 0.25, 0.9, 0.0),
    (0.4, 0.12, 0.45, 1.0, 0.8),
    (0.7, 0.2, 0.7, 1.0, 1.0),
    (1.0, 0.60, 1.0, 1.0, 1.0),
)
# Five colours of viridis: order and lightness agree, also in print and under every colour blindness.
_PROBABILITY = (
    (0.00, 0.267, 0.005, 0.329, 1.0),
    (0.25, 0.229, 0.322, 0.546, 1.0),
    (0.50, 0.128, 0.567, 0.551, 1.0),
    (0.75, 0.369, 0.789, 0.383, 1.0),
    (1.00, 0.993, 0.906, 0.144, 1.0),
)


def evidence_table(evidence: Evidence, *, opaque: bool = False) -> np.ndarray:
    """The colours (256, 4) as RGBA in 0..1, from the lowest to the highest value of ``evidence_range``.

    ``opaque``: fading to neutral grey, for surfaces; otherwise the colour of no evidence is transparent.

    Raises:
        InputError: another word than "for", "against" or "both".
    """
    check_evidence(evidence)
    if evidence == "for":
        table = _ramp(_FOR, _COLOURS)
    elif evidence == "against":
        table = _ramp(_AGAINST, _COLOURS)[::-1]
    else:
        half = _COLOURS // 2
        table = np.concatenate([_ramp(_AGAINST, half)[::-1], _ramp(_FOR, half)])
    if opaque:
        share = table[:, 3:]
        table[:, :3] = share * table[:, :3] + (1 - share) * np.array(NEUTRAL)
    table[:, 3] = 1.0 if opaque else table[:, 3] > 0
    return table


def evidence_range(evidence: Evidence, limit: float) -> tuple[float, float]:
    """The values that the ends of the table stand for."""
    return {"for": (0.0, limit), "against": (-limit, 0.0), "both": (-limit, limit)}[evidence]


def probability_colour(probability: float | None) -> tuple[float, float, float]:
    """The colour (RGB in 0..1) of a probability in 0..1; a flat grey where there is none."""
    if probability is None or not np.isfinite(probability):
        return NOT_SCORED
    index = int(np.clip(round(probability * (_COLOURS - 1)), 0, _COLOURS - 1))
    return tuple(float(x) for x in _ramp(_PROBABILITY, _COLOURS)[index, :3])


def evidence_colours(
    scene: slicer.vtkMRMLScene, evidence: Evidence, *, opaque: bool = False
) -> slicer.vtkMRMLColorNode:
    """The scene's colour node of ``evidence_table``, made where it is missing."""
    words = {"for": "evidence for", "against": "evidence against", "both": "evidence"}[check_evidence(evidence)]
    name = f"CTGroundedVLM {words}{' (surface)' if opaque else ''}"
    return _table_node(scene, name, lambda: evidence_table(evidence, opaque=opaque))


def probability_colours(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLColorNode:
    """The scene's colour node of probabilities, from 0 to 1."""
    return _table_node(scene, "CTGroundedVLM probability", lambda: _ramp(_PROBABILITY, _COLOURS))


def colour_node_called(scene: slicer.vtkMRMLScene, name: str) -> slicer.vtkMRMLColorNode:
    """A colour table of Slicer by its name, such as "Inferno".

    Raises:
        InputError: the scene has none of that name; the message lists what it has.
    """
    nodes = {node.GetName(): node for node in slicer.util.getNodesByClass("vtkMRMLColorNode", scene)}
    if name not in nodes:
        raise InputError(f"No colour table is called {name!r}; choose one of {', '.join(sorted(nodes))}.")
    return nodes[name]


def check_evidence(evidence: str) -> Evidence:
    """The word itself, if it is one of "for", "against", "both".

    Raises:
        InputError: it is another.
    """
    if evidence not in get_args(Evidence):
        raise InputError(f"Evidence {evidence!r} is not known; expected one of {', '.join(get_args(Evidence))}.")
    return evidence


def _ramp(stops: tuple[tuple[float, ...], ...], count: int) -> np.ndarray:
    """Linear interpolation between stops: (count, 4)."""
    places, *channels = np.array(stops).T
    return np.stack([np.interp(np.linspace(0, 1, count), places, channel) for channel in channels], axis=1)


def _table_node(scene, name: str, make_table) -> slicer.vtkMRMLColorNode:
    for node in slicer.util.getNodesByClass("vtkMRMLColorTableNode", scene):
        if node.GetAttribute(TABLE_ATTRIBUTE) == name:
            return node
    node = slicer.vtkMRMLColorTableNode()
    node.SetName(name)
    node.SetAttribute(TABLE_ATTRIBUTE, name)
    node.SetTypeToUser()
    table = make_table()
    node.SetNumberOfColors(len(table))
    for index, (red, green, blue, opacity) in enumerate(table):
        node.SetColor(index, f"{index}", red, green, blue, opacity)
    node.GetLookupTable().SetTableRange(0, len(table) - 1)
    return scene.AddNode(node)
