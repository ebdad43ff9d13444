#!/usr/bin/env bash
# Stops exactly what up.sh has started. Models, cache, ledger and keys stay where they are.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
exec "$PYTHON" -m groupqwen.cli down "$@"
