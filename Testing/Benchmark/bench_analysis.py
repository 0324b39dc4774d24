"""Benchmark: one whole analysis of a 512 x 512 x 250 CT against a plain re-statement of fVLM's released evaluation.

    python Testing/Benchmark/bench_analysis.py [--device auto|cpu|cuda] [--repeats N] [--json FILE]

Both sides run the full-size architecture with the same random weights, in this one run, on the same synthetic scan. The
baseline (``plain_fvlm.py``) is a re-statement in this project's words, not the release's own code: it resamples whole volumes and
writes every step as .nii.gz, runs the ViT once per organ with eager attention, and pads prompts to 384 tokens. Times
are the least of the repeats; memory is the peak of a process of its own for each side.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "CTGroundedVLM"), str(ROOT / "Testing" / "Python" / "support"), str(Path(__file__).parent)]


class Clock:
    """Least time of each stage over the repeats."""

    def __init__(self, device: str) -> None:
        self.device, self.seconds = device, {}

    def __call__(self, name, function):
        import torch

        start = time.perf_counter()
        result = function()
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.seconds[name] = min(time.perf_counter() - start, self.seconds.get(name, float("inf")))
        return result


def run_plain(ct, mask, device, repeats, pipe):
    """The baseline's stages."""
    import plain_fvlm
    from CTGroundedVLMLib.anatomy import label_names
    from CTGroundedVLMLib.model.config import fvlm_config
    from CTGroundedVLMLib.model.untrained import untrained_model
    from CTGroundedVLMLib.prompts import registry_prompts

    loaded = untrained_model(fvlm_config(), device)
    plain = plain_fvlm.PlainFVLM(loaded)
    config, organs, clock = loaded.config, list(loaded.config.organs), Clock(device)
    prompts = registry_prompts(organs, "fvlm16")
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as work:
            names = label_names()
            image, labels = clock(
                "preprocessing",
                lambda: plain_fvlm.preprocess_files(ct, mask, names, config.organs, config.preprocessing, Path(work)),  # noqa: B023
            )
        features = clock("image", lambda: plain.image_features(image.to(device), labels.to(device)))  # noqa: B023
        texts = clock("text", lambda: [plain.text_pair(p.negative[0], p.positive[0]) for p in prompts])
        scores = [plain.probability(features[organs.index(p.organ)], t) for p, t in zip(prompts, texts, strict=True)]
        clock("new prompt", lambda: plain.text_pair("Not hypodense lesion.", "hypodense lesion."))
    pipe.send(clock.seconds | {"memory": peak_memory(device), "scores": scores})


def run_ours(ct, mask, device, repeats, pipe):
    """This project's stages: the same scan through ``pipeline.Session``."""
    from CTGroundedVLMLib.model.config import fvlm_config
    from CTGroundedVLMLib.model.untrained import untrained_model
    from CTGroundedVLMLib.pipeline import AnalysisOptions, Session
    from CTGroundedVLMLib.prompts import registry_prompts
    from CTGroundedVLMLib.volume_io import load_case

    loaded = untrained_model(fvlm_config(), device)
    clock = Clock(device)
    prompts = registry_prompts(loaded.config.organs, "fvlm16")
    for _ in range(repeats):
        start = time.perf_counter()
        case = load_case(ct, mask)
        reading = time.perf_counter() - start
        session = Session(case, loaded, AnalysisOptions(min_visible=0.0))
        clock.seconds["preprocessing"] = min(
            reading + session.timings["preprocess"], clock.seconds.get("preprocessing", float("inf"))
        )
        clock.seconds["image"] = min(session.timings["encode image"], clock.seconds.get("image", float("inf")))
        clock("text", lambda: session.encode_text([t for p in prompts for t in p.texts]))  # noqa: B023
        scores = [s.probability for s in session.score(prompts)]
        asked = session.prompt("lung", "hypodense lesion")
        clock("new prompt", lambda: session.score([asked]))  # noqa: B023
        clock("heatmap", lambda: session.heatmap(asked))  # noqa: B023
        windows = [list(w.window.image_DHW.shape) for w in session.features.windows]
    clock.seconds |= {
        "memory": peak_memory(device),
        "scores": scores,
        "precision": session.precision,
        "windows": windows,
    }
    pipe.send(clock.seconds)


def peak_memory(device: str) -> float:
    """GiB: of the process, or of the GPU."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def in_own_process(function, *arguments):
    """Run in a fresh process, so that peak memory is the function's own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=function, args=(*arguments, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    import torch

    device = ("cuda" if torch.cuda.is_available() else "cpu") if arguments.device == "auto" else arguments.device
    from scans import write_scan

    with tempfile.TemporaryDirectory() as folder:
        scan = write_scan(Path(folder))
        plain = in_own_process(run_plain, *scan, device, arguments.repeats)
        ours = in_own_process(run_ours, *scan, device, arguments.repeats)
    result = summarize(plain, ours, device)
    print_table(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))


def summarize(plain: dict, ours: dict, device: str) -> dict:
    """Rows of (what, baseline, ours, ratio)."""
    for side in (plain, ours):
        side["scoring, cold (image + text)"] = side["image"] + side["text"]
        side["scoring, text ready"] = side["image"]
        side["total"] = side["preprocessing"] + side["image"] + side["text"]
    rows = (
        "preprocessing",
        "image",
        "text",
        "scoring, cold (image + text)",
        "scoring, text ready",
        "total",
        "new prompt",
        "memory",
    )
    difference = max(abs(a - b) for a, b in zip(plain["scores"], ours["scores"], strict=True))
    return {
        "device": device,
        "precision": ours["precision"],
        "windows": ours["windows"],
        "rows": {row: (plain[row], ours[row], plain[row] / ours[row]) for row in rows},
        "heatmap_s": ours["heatmap"],
        "largest_difference_of_a_probability": difference,
    }


def print_table(result: dict) -> None:
    """Markdown, as the README shows it."""
    print(f"\nDevice {result['device']}, precision {result['precision']}, our windows {result['windows']}\n")
    print("| one 512 x 512 x 250 CT, 4 organs, 16 findings | baseline | ours | baseline / ours |\n|---|---|---|---|")
    for row, (plain, ours, ratio) in result["rows"].items():
        unit = "GiB" if row == "memory" else "s"
        print(f"| {row if row != 'memory' else 'peak memory'} | {plain:.2f} {unit} | {ours:.2f} {unit} | {ratio:.1f} |")
    print(f"\nOne heatmap on the CT grid: {result['heatmap_s']:.2f} s.")
    difference = result["largest_difference_of_a_probability"]
    print(
        f"Largest difference of a probability, shared windows against one per organ (random weights): {difference:.4f}"
    )


if __name__ == "__main__":
    main()
