#!/bin/sh
# Makes an environment for each peer under DIR: setup.sh DIR [PYTHON] [PEER...]
# Each sees the packages of PYTHON's own environment (torch, tokenizers, cloudai) behind its own,
# so that all serve the same model with the same torch.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=$1
python=${2:-python3}
[ $# -gt 2 ] && shift 2 && peers="$*" || peers="litserve bentoml ray flask"
base=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
for peer in $peers; do
    "$python" -m venv "$dir/$peer"
    own=$("$dir/$peer/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "$base" > "$own/base.pth"
    "$dir/$peer/bin/pip" install --quiet --disable-pip-version-check \
        --requirement "$here/$peer.txt"
done
