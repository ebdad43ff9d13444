#!/usr/bin/env bash
# Asks the running group how it is, three times within a minute; where it never answers, starts again what is not
# there. Ray, Redis and PostgreSQL are restarted by supervisord anyway: this is for what supervisord itself dies of.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
for _ in 1 2 3; do
    .venv/bin/groupqwen status >/dev/null 2>&1 && exit 0
    sleep 20
done
echo "groupqwen: the endpoint does not answer; starting what is missing" >&2
# shellcheck disable=SC2086  # Several options in one variable.
exec bash scripts/up.sh --no-ask ${GROUPQWEN_UP:-}
