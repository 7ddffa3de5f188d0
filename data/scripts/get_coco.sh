#!/usr/bin/env bash
# Download the data set of data/coco.yaml (docs/data.md).
set -euo pipefail
cd "$(dirname "$0")/../.."
exec "${PYTHON:-python}" -m utils.datasets fetch --data coco.yaml
