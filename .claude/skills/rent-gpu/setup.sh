#!/usr/bin/env bash
# Makes a freshly rented machine ready to train. In a checkout of this repository, on that machine:
#   bash .claude/skills/rent-gpu/setup.sh [PROFILE]       such as h100x8; without: what the machine has
set -euo pipefail
cd "$(dirname "$0")/../../.."
profile=${1:-auto}

if ! nvidia-smi -L; then
    echo "This machine has no NVIDIA GPU (nvidia-smi does not answer). Rent one with a GPU, or train with hw=cpu." >&2
    exit 3
fi

# Providers mount their large disk in one of these; the system's disk is often small, and gone when the machine is.
# NANOCHAT_PL_RUNS and NANOCHAT_PL_CACHE, where they are set, stay.
disk=$PWD
for folder in /workspace /mnt/data /data; do
    if [ -d "$folder" ] && [ -w "$folder" ]; then disk=$folder && break; fi
done
export NANOCHAT_PL_RUNS=${NANOCHAT_PL_RUNS:-$disk/runs} NANOCHAT_PL_CACHE=${NANOCHAT_PL_CACHE:-$disk/cache}
mkdir -p "$NANOCHAT_PL_RUNS" "$NANOCHAT_PL_CACHE"

# uv installs the build of torch for this machine's driver.
command -v uv >/dev/null || python3 -m pip install --quiet uv
make install
uv pip install --quiet --python .venv/bin/python -e '.[data]' -c constraints.txt

.venv/bin/python -m nanochat_pl doctor gpu || echo "Read what is said above before you train." >&2
.venv/bin/python -m nanochat_pl plan "hw=$profile"

cat <<EOF

Ready; $(df -h "$NANOCHAT_PL_RUNS" | awk 'NR == 2 {print $4}') are free for runs. In tmux:
  export NANOCHAT_PL_RUNS=$NANOCHAT_PL_RUNS NANOCHAT_PL_CACHE=$NANOCHAT_PL_CACHE
  source .venv/bin/activate
  python train.py hw=$profile
EOF
