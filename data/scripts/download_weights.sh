#!/usr/bin/env bash
# Download official checkpoints (AGPL-3.0) to the working directory: the given ones, by default yolov5n.pt to yolov5x.pt.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || set -- yolov5n.pt yolov5s.pt yolov5m.pt yolov5l.pt yolov5x.pt
for name in "$@"; do
  [ -e "$here/$name" ] || "${PYTHON:-python}" -c 'import sys; from utils.core.downloads import download_weights; download_weights(sys.argv[1])' "$here/$name"
done
