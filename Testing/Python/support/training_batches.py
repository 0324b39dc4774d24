"""Synthetic training batches: one in two forms, for the trainer and for the plain re-statement of the release's step; and four
cases that ranks or passes share, with a model that tells them apart."""

import numpy as np
import torch

from CTGroundedVLMLib.model.config import ModelConfig, debug_config
from CTGroundedVLMLib.model.fvlm import FVLM, organ_token_mask
from CTGroundedVLMTraining.types import ABNORMAL, NORMAL, Batch, text_key
from plain_fvlm_training import PlainBatch

CLS, SEP = 2, 3
NORMAL_LENGTH, LENGTHS = 9, (24, 68)  # tokens of "... shows no significant abnormalities.", and range of descriptions


def a_batch(config: ModelConfig, cases: int, seed: int = 0, device: str = "cpu") -> tuple[Batch, PlainBatch]:
    """Random intensities, organs as boxes in a row along H, texts of random tokens as long as descriptions are.

    Every third text is normal; the first case is abnormal everywhere, so that every organ counts.
    """
    random = np.random.default_rng(seed)
    size, organs = config.vision.image_size, list(config.organs)
    images = torch.from_numpy(random.random((cases, *size), dtype=np.float32))
    organ_maps = torch.zeros((cases, *size), dtype=torch.uint8)
    edges = np.linspace(2, size[1] - 2, len(organs) + 1).astype(int)
    for case in range(cases):
        for o in range(len(organs)):
            width = int(random.integers(size[2] // 4, size[2] // 2))
            organ_maps[case, 2:-2, edges[o] : edges[o + 1], 4 : 4 + width] = o + 1
    normal = [[c > 0 and (c + o) % 3 == 0 for c in range(cases)] for o in range(len(organs))]
    longest = config.text.max_tokens
    ids, texts = [], []
    for o, organ in enumerate(organs):
        lengths = [NORMAL_LENGTH if normal[o][c] else int(random.integers(*LENGTHS)) for c in range(cases)]
        row = [[CLS, *random.integers(5, 700, min(n, longest) - 2).tolist(), SEP] for n in lengths]
        row = [[CLS, *range(5, 5 + NORMAL_LENGTH - 2), SEP] if normal[o][c] else row[c] for c in range(cases)]
        ids.append(row)
        texts.append([f"{organ} normal" if normal[o][c] else f"{organ} {c}" for c in range(cases)])
    plain = PlainBatch(images.to(device), organ_maps.to(device), ids, normal, texts)
    return _for_the_trainer(config, images, organ_maps, plain).to(device), plain


def _for_the_trainer(config: ModelConfig, images, organ_maps, plain: PlainBatch) -> Batch:
    """Every different text once, padded to the longest, as the collator does."""
    cases, organs = len(images), len(config.organs)
    different: dict[str, list[int]] = {}
    for row, names in zip(plain.ids, plain.texts, strict=True):
        different |= dict(zip(names, row, strict=True))
    number = {name: i for i, name in enumerate(different)}
    longest = max(len(row) for row in different.values())
    text_ids = torch.tensor([row + [0] * (longest - len(row)) for row in different.values()])
    names_BO = [[plain.texts[o][c] for o in range(organs)] for c in range(cases)]
    status_BO = [[NORMAL if plain.normal[o][c] else ABNORMAL for o in range(organs)] for c in range(cases)]
    patch = config.vision.patch_size
    return Batch(
        case_ids=tuple(f"case{c}" for c in range(cases)),
        image_BDHW=images,
        token_mask_BON=torch.stack([organ_token_mask(organ_map, range(organs), patch) for organ_map in organ_maps]),
        valid_BO=torch.ones(cases, organs, dtype=torch.bool),
        status_BO=torch.tensor(status_BO, dtype=torch.int8),
        text_ids_PT=text_ids,
        text_mask_PT=(text_ids > 0).long(),
        text_of_BO=torch.tensor([[number[name] for name in row] for row in names_BO]),
        text_key_BO=torch.tensor([[text_key(name) for name in row] for row in names_BO]),
        report_of_B=torch.full((cases,), -1),
        labels_BF=torch.empty(cases, 0),
    )


def a_model(config: ModelConfig | None = None) -> FVLM:
    """Without dropout, for two runs draw different random numbers; its organs attend to different tokens."""
    torch.manual_seed(0)
    model = FVLM(config or debug_config()).eval()
    torch.nn.init.normal_(model.pooling.queries)
    return model


def of_four(first: int, last: int) -> Batch:
    """Cases first..last of four, as a rank or a pass has them: four organs (the debug model's), each with a text of its own.

    An organ is cut off in the second case, another one has no status in the fourth.
    """
    generator = torch.Generator().manual_seed(2)
    images, ids = torch.rand(4, 48, 64, 96, generator=generator), torch.randint(5, 99, (4, 4, 6), generator=generator)
    masks = torch.rand(4, 4, 36, generator=generator) > 0.6
    status = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [1, 0, -1, 0]], dtype=torch.int8)
    valid = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]], dtype=torch.bool)
    nan = float("nan")
    part, n = slice(first, last), last - first
    return Batch(
        case_ids=tuple("abcd"[part]),
        image_BDHW=images[part],
        token_mask_BON=masks[part],
        valid_BO=valid[part],
        status_BO=status[part],
        text_ids_PT=ids[part].reshape(-1, 6),
        text_mask_PT=torch.ones(n * 4, 6, dtype=torch.long),
        text_of_BO=torch.arange(n * 4).view(n, 4),
        text_key_BO=torch.arange(16).view(4, 4)[part],
        report_of_B=torch.full((n,), -1),
        labels_BF=torch.tensor([[1.0, nan], [0.0, 1.0], [nan, nan], [1.0, 0.0]])[part],
    )
