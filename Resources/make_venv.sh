#!/usr/bin/env bash
# Makes .venv and installs this package with the named extras: make_venv.sh [EXTRAS], e.g. make_venv.sh test,lint
# Where no NVIDIA GPU is found, the CPU build of PyTorch is taken: the default build brings gigabytes of CUDA.
set -euo pipefail
cd "$(dirname "$0")/.."

extras="${1:-}"
torch_version="2.13.0"
cpu_index="https://download.pytorch.org/whl/cpu"
python="${PYTHON:-python3}"
stamp=".venv/.installed-$(printf '%s' "$extras" | tr ',' '-')"

if [ -e "$stamp" ] && [ "$stamp" -nt pyproject.toml ] && [ "$stamp" -nt Resources/make_venv.sh ]; then
  exit 0
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "Python 3.11 or later is needed; $python is $("$python" --version). Set PYTHON to another one." >&2
  exit 1
fi
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check --quiet "$@"; }

if ! .venv/bin/python -c 'import torch' 2>/dev/null; then
  if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
    echo "Installing PyTorch for the GPU ..."
    pip install "torch==$torch_version"
  else
    echo "Installing PyTorch for the CPU ..."
    offered=$(.venv/bin/python -m pip --disable-pip-version-check install --dry-run --no-deps "torch==$torch_version" 2>/dev/null || true)
    case "$offered" in
      *"+cpu"*) pip install "torch==$torch_version" ;;
      *) pip install "torch==$torch_version" --index-url "$cpu_index" || pip install "torch==$torch_version" ;;
    esac
  fi
fi
echo "Installing ct-grounded-vlm${extras:+ [$extras]} ..."
pip install --editable ".${extras:+[$extras]}"
case ",$extras," in
  # its call is tested against its real signature; its own dependencies (nnU-Net, torchvision) are not needed for that
  *,test,*) pip install --no-deps "TotalSegmentator==2.18.0" ;;
esac
touch "$stamp"
