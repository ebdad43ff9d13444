#!/usr/bin/env bash
# Asks the running group how it is, three times within a minute; where no question would be answered, has systemd start
# it again. Ray, Redis and PostgreSQL are restarted by supervisord anyway: this is for what supervisord itself dies of.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
for _ in 1 2 3; do
    .venv/bin/groupqwen status >/dev/null 2>&1 && exit 0
    sleep 20
done
echo "groupqwen: no question would be answered; starting it again" >&2
# (Not from here: what a unit starts ends with it.)
exec systemctl --user restart groupqwen.service
