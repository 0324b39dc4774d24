"""The launch lines in Training/runs, run with stand-ins for the launchers: what they start is a command line that parses."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from CTGroundedVLMTraining import cli

RUNS = Path(__file__).resolve().parents[3] / "Training" / "runs"
ARGUMENTS = ["fvlm", "/data/with space", "/runs/a", "--set", "parallel=fsdp2"]
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


@pytest.fixture
def launched(tmp_path):
    """Run a script with stand-ins for the named programs; returns (exit code, what was called, with the ranks' variables)."""
    log = tmp_path / "calls"

    def program(name, body):
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)

    def run(script, code=0, **environment):
        report = f'printf "%s\\n" "$(basename "$0") ${{RANK:-}} ${{WORLD_SIZE:-}} $(printf "%q " "$@")" >> {log}'
        program("ctgvlm-train", f"{report}\nexit {code}")
        program("torchrun", report)
        program("scontrol", f'{report}\n[ "$1" = show ] && echo node1')
        program("srun", "shift\nSLURM_PROCID=3 SLURM_LOCALID=1 SLURM_NTASKS=8 " + '"$@"')
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", RUNS / script, *ARGUMENTS], env=os.environ | {"PATH": path} | environment, check=False
        )
        return done.returncode, [shlex.split(line) for line in log.read_text().splitlines()]

    return run


def torchrun_arguments(words):
    """As torchrun itself reads them: it looks for its own options, and abbreviations of them, among ours, too."""
    from torch.distributed.run import get_args_parser

    found = get_args_parser().parse_args(words)
    assert (found.module, found.training_script) == (True, "CTGroundedVLMTraining.cli")
    return found


def parsed(words, monkeypatch):
    monkeypatch.setattr(cli, "_COMMANDS", ("CTGroundedVLMTraining.train_commands",))
    return cli.build_parser().parse_args(words)


def assert_ours(words, monkeypatch):
    arguments = parsed(words, monkeypatch)
    assert (arguments.recipe, arguments.data, str(arguments.folder)) == ("fvlm", "/data/with space", "/runs/a")
    assert arguments.changes == ["parallel=fsdp2"]


def test_one_gpu(launched, monkeypatch):
    code, [call] = launched("one_gpu.sh")
    assert (code, call[0]) == (0, "ctgvlm-train")
    assert_ours(call[1:], monkeypatch)


def test_one_node_starts_the_command_by_torchrun(launched, monkeypatch):
    code, [call] = launched("one_node.sh", GPUS="4")
    assert (code, call[0]) == (0, "torchrun")
    launcher = torchrun_arguments(call[1:])
    assert (launcher.standalone, launcher.nproc_per_node) == (True, "4")
    assert_ours(launcher.training_script_args, monkeypatch)


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (10, True), (9, False)])
def test_slurm_gives_ranks_and_goes_back_into_the_queue_after_exit_code_10_only(launched, monkeypatch, code, requeued):
    found, calls = launched("slurm.sbatch", code, SLURM_JOB_ID="77", SLURM_JOB_NODELIST="n[1-2]")
    assert found == code
    [train] = [call for call in calls if call[0] == "ctgvlm-train"]
    assert train[1:3] == ["3", "8"]  # rank and number of processes
    assert_ours(train[3:], monkeypatch)
    assert (["scontrol", "requeue", "77"] in calls) == requeued


def test_kubernetes_starts_the_command_on_as_many_nodes_as_it_asks_for(monkeypatch):
    service, job = yaml.safe_load_all((RUNS / "kubernetes.yaml").read_text())
    spec = job["spec"]
    container = spec["template"]["spec"]["containers"][0]
    words = shlex.split(container["args"][0])
    assert words[:2] == ["exec", "torchrun"]
    launcher = torchrun_arguments([word.replace("$JOB_COMPLETION_INDEX", "1") for word in words[2:]])
    assert int(launcher.nnodes) == spec["completions"] == spec["parallelism"]
    assert int(launcher.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert service["metadata"]["name"] == spec["template"]["spec"]["subdomain"]
    arguments = parsed(launcher.training_script_args, monkeypatch)
    assert (arguments.recipe, str(arguments.folder)) == ("fvlm", "/data/runs/fvlm")
