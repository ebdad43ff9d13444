#!/usr/bin/env bash
# Joins this machine to a head, say a MacBook to the workstation: makes .venv, installs, fetches its models, and
# serves them while it is awake. `bash scripts/join.sh --head HOST --device macbook`; more: --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
exec "$PYTHON" -m groupqwen.cli join "$@"
