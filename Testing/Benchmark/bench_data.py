"""Benchmark: reading training data, against preparing it anew and against a training step.

    python Testing/Benchmark/bench_data.py [--step] [--compression]

A CT-sized synthetic scan (512 x 512 x 250) is prepared for the released model's grid. Printed, on one core, least of five rounds:
what a case costs from NIfTI (what an epoch without preparation pays), from a shard, and what its view costs; the shard's size.
``--compression`` compares ways to compress its voxels (blosc2 where it is installed). ``--step`` adds a forward and backward pass of the full-size model (fp32, batch 1, all cores) and how many reading cores keep up.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "CTGroundedVLM"), str(ROOT / "Training")]


def least_ms(work: Callable[[], object], rounds: int = 5) -> float:
    """Processor time of one call, in ms."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def step_ms(config) -> float:
    """Wall time of one forward and backward pass at batch 1 with a text per organ (second of two)."""
    import torch

    from CTGroundedVLMLib.model.fvlm import FVLM

    torch.set_num_threads(os.cpu_count() or 1)
    model, organs = FVLM(config).train(), len(config.organs)
    tokens = int(np.prod(config.vision.grid))
    image = torch.rand(1, *config.vision.image_size)
    mask, ids = torch.rand(1, organs, tokens) > 0.8, torch.randint(5, 1000, (organs, 48))
    for _ in range(2):
        start = time.perf_counter()
        organs_BOE, texts_PE, temperature = model(image, mask, ids, torch.ones_like(ids))
        ((organs_BOE[0] @ texts_PE.T) / temperature).diagonal().sum().backward()
        seconds = time.perf_counter() - start
    return 1000 * seconds


def compression_lines(hu_DHW: np.ndarray) -> list[str]:
    """Share of the size, and time to decode, of a volume's voxels."""
    import zlib

    from numcodecs import Blosc, blosc

    blosc.use_threads = False
    raw = np.ascontiguousarray(hu_DHW)
    tried = {
        f"Blosc {name} 3, {how} shuffle": Blosc(cname=name, clevel=3, shuffle=shuffle)
        for name, how, shuffle in (
            ("zstd", "byte", Blosc.SHUFFLE),
            ("zstd", "bit", Blosc.BITSHUFFLE),
            ("lz4", "byte", Blosc.SHUFFLE),
        )
    }
    ways = {name: (codec.encode(raw), codec.decode) for name, codec in tried.items()}
    ways["zlib 1"] = zlib.compress(raw.tobytes(), 1), zlib.decompress
    try:
        import blosc2
    except ImportError:
        pass
    else:
        blosc2.set_nthreads(1)
        packed = blosc2.compress2(raw, codec=blosc2.Codec.ZSTD, clevel=3, filters=[blosc2.Filter.SHUFFLE], typesize=2)
        ways["blosc2 zstd 3, byte shuffle"] = packed, blosc2.decompress2
    lines = [f"| {raw.nbytes / 1e6:.0f} MB of voxels, one thread | size | decode |", "|---|---|---|"]
    for name, (packed, decode) in ways.items():
        assert np.array_equal(np.frombuffer(decode(packed), raw.dtype), raw.ravel()), name
        milliseconds = least_ms(lambda decode=decode, packed=packed: decode(packed))
        lines.append(f"| {name} | {len(packed) / raw.nbytes:.1%} | {milliseconds:.0f} ms |")
    return lines


def main() -> None:
    """Measure and print."""
    import torch

    from CTGroundedVLMLib.model.config import fvlm_config
    from CTGroundedVLMLib.volume_io import load_case
    from CTGroundedVLMTraining.data.crop import crop_case
    from CTGroundedVLMTraining.data.dataset import PreparedDataset
    from CTGroundedVLMTraining.data.manifest import ManifestRow, write_manifest
    from CTGroundedVLMTraining.data.prepare import prepare
    from CTGroundedVLMTraining.data.views import ViewConfig, take_view
    from scans import write_scan

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, does in (
        ("step", "time a training step of the full-size model"),
        ("compression", "compare ways to compress"),
    ):
        parser.add_argument(f"--{name}", action="store_true", help=f"also {does}")
    arguments, config = parser.parse_args(), fvlm_config()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ct, mask = write_scan(folder / "case")
        write_manifest(folder / "m.csv", [ManifestRow("a", "p", "train", ct, segmentation=mask, report_text="Normal.")])
        prepare(folder / "m.csv", folder / "out", config)
        cases = PreparedDataset(folder / "out")
        case, size = cases[0], (folder / "out/cases/a.case").stat().st_size
        nifti = least_ms(lambda: crop_case(load_case(ct, mask), config), rounds=2)
        shard = least_ms(lambda: cases[0])
        view = least_ms(lambda: take_view(case, config, ViewConfig(), np.random.default_rng(0)))
    raw = case.hu_DHW.nbytes + case.organ_map_DHW.nbytes
    print(
        f"\n| one case ({' x '.join(map(str, case.hu_DHW.shape))} voxels on the model's grid), one core | |\n|---|---|"
    )
    print(f"| from NIfTI: read, check, resample, crop | {nifti:.0f} ms |")
    print(f"| from a shard | {shard:.0f} ms ({nifti / shard:.0f} times less) |")
    print(f"| its view (crop, window, organ tokens) | {view:.0f} ms |")
    print(f"| the shard | {size / 1e6:.1f} MB of {raw / 1e6:.1f} MB |")
    if arguments.step:
        step = step_ms(config)
        print(f"| a training step (batch 1, fp32, {os.cpu_count()} cores) | {step:.0f} ms |")
        print(f"| reading and view, as a share of the step | {(shard + view) / step:.1%} |")
    if arguments.compression:
        print("\n" + "\n".join(compression_lines(case.hu_DHW)))


if __name__ == "__main__":
    main()
