#!/usr/bin/env bash
# Every test, from a fresh clone: makes .venv, installs, fetches the models into .test-home, checks style and
# types, runs unit and integration tests side by side (tests/lanes.py). `bash scripts/test.sh tests/deployments` runs
# a part of them.
set -euo pipefail
EXTRAS=dev
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
export GROUPQWEN_TEST_HOME=${GROUPQWEN_TEST_HOME:-$here/.test-home}
unset GROUPQWEN_HOME GROUPQWEN_REDIS_URL GROUPQWEN_DATABASE_URL

if [ $# -gt 0 ]; then
    exec "$PYTHON" -m pytest "$@"
fi
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
exec "$PYTHON" -m tests.lanes
