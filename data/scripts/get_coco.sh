#!/usr/bin/env bash
# Put the data set of data/coco.yaml in place (docs/data.md).
set -euo pipefail
cd "$(dirname "$0")/../.."
exec "${PYTHON:-python}" -m utils.datasets fetch --data coco.yaml
