#!/usr/bin/env bash
# From nothing to a running GroupQwen: makes .venv, installs, fetches the models, starts everything,
# asks one question. Safe to run again, and twice at once. Options: bash scripts/up.sh --help
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
exec "$PYTHON" -m groupqwen.cli up "$@"
