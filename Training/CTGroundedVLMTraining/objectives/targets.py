"""Targets of the organ-wise contrast: which pairs of patients count as the same, in each false-negative mode.

Shapes: G cases (of all ranks) whose organ qualifies, E embedding size.
"""

from __future__ import annotations

from typing import Literal

import torch

FalseNegatives = Literal["none", "normal", "normal+momentum", "normal+coteach"]
FALSE_NEGATIVE_MODES: tuple[str, ...] = ("none", "normal", "normal+momentum", "normal+coteach")


def base_targets(normal_G: torch.Tensor, key_G: torch.Tensor, mode: FalseNegatives) -> torch.Tensor:
    """Y (G, G), rows sum to 1 (fVLM's released code, ``FNCN``).

    N_ik = both normal, E_ik = character-identical texts: Y = I + ((N or E) with zero diagonal), divided by its row sums.
    Mode "none": Y = I.
    """
    if mode == "none":
        return torch.eye(len(normal_G), device=normal_G.device)
    return _with_self(_same(normal_G, key_G).float())


def momentum_targets(
    normal_G: torch.Tensor, key_G: torch.Tensor, momentum_GE: torch.Tensor, temperature: torch.Tensor
) -> torch.Tensor:
    """Y (G, G) with soft targets for abnormal pairs from a momentum text encoder (RADAR's released code).

    (N or E)_ik, + softmax_k(t_i . t_k / tau) where i and k are abnormal, with zero diagonal; Y = I + that, divided by its row
    sums. The softmax runs over all k.
    """
    similar = (momentum_GE @ momentum_GE.T / temperature).softmax(-1)
    abnormal = ~normal_G[:, None] & ~normal_G[None]
    return _with_self(_same(normal_G, key_G) + abnormal * similar)


def with_peer(
    targets_GG: torch.Tensor, abnormal_G: torch.Tensor, peer_logits_GG: torch.Tensor, alpha: float
) -> torch.Tensor:
    """Co-teaching: rows of abnormal cases are mixed with the peer model's own distribution.

    Y'_i = alpha Y_i + (1 - alpha) softmax_k(S_peer,ik) for abnormal i, Y'_i = Y_i for normal i. The paper gives alpha = 0.5 and
    no equation: this one is a reconstruction [R].
    """
    mixed = alpha * targets_GG + (1 - alpha) * peer_logits_GG.softmax(-1)
    return torch.where(abnormal_G[:, None], mixed, targets_GG)


def soft_cross_entropy(logits_GG: torch.Tensor, targets_GG: torch.Tensor) -> torch.Tensor:
    """mean_i -sum_k Y_ik log softmax_k(S)_ik."""
    return -(targets_GG * logits_GG.log_softmax(-1)).sum(-1).mean()


def _same(normal_G: torch.Tensor, key_G: torch.Tensor) -> torch.Tensor:
    return (normal_G[:, None] & normal_G[None]) | (key_G[:, None] == key_G[None])


def _with_self(others_GG: torch.Tensor) -> torch.Tensor:
    own = others_GG.fill_diagonal_(1.0)
    return own / own.sum(-1, keepdim=True)
