#!/usr/bin/env bash
# From a ChatGPT export to an adapter that is served beside its base, on a household that does not exist: starts the
# group (profile cpu) where it does not run, and takes some fifteen minutes of two cores. Options: those of
# `groupqwen train demo --help`.
set -euo pipefail
export GROUPQWEN_EXTRAS=${GROUPQWEN_EXTRAS:+$GROUPQWEN_EXTRAS,}train
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
"$PYTHON" -m groupqwen.cli up --no-ask
exec "$PYTHON" -m groupqwen.cli train demo "$@"
