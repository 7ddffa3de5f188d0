#!/usr/bin/env bash
# The place of this script in releases up to 5.0; the same arguments.
exec "$(dirname "$0")/../data/scripts/download_weights.sh" "$@"
