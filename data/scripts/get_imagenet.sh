#!/usr/bin/env bash
# Arrange the data set of data/ImageNet.yaml from archives that you downloaded (docs/data.md).
set -euo pipefail
cd "$(dirname "$0")/../.."
exec "${PYTHON:-python}" -m utils.datasets fetch --data ImageNet.yaml
