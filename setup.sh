#!/usr/bin/env bash
# Sets the project up on a machine that has bash, git and a Python 3 with venv.
#   ./setup.sh        uv (into this folder if there is none), the locked packages, .env; says what to do next
#   ./setup.sh demo   the same, then one call from ring to transcript on the simulated phone network
#   ./setup.sh test   the same, then the whole test suite; further arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

say() { printf '%s\n' "$*" >&2; }
fail() { say "setup: $*"; exit 1; }

# A uv is one that runs here: a version manager's shim of that name can exist and still refuse in this folder.
find_uv() {
    if uv --version >/dev/null 2>&1; then
        UV=uv
        return
    fi
    UV=.uv-bootstrap/bin/uv
    "$UV" --version >/dev/null 2>&1 && return
    local python
    for python in python3.12 python3 python; do
        if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 8))' >/dev/null 2>&1; then
            say "setup: no uv here, installing it into .uv-bootstrap with $python"
            rm -rf .uv-bootstrap
            "$python" -m venv .uv-bootstrap || fail "$python -m venv failed; install your system's python3-venv package"
            .uv-bootstrap/bin/python -m pip install --quiet --disable-pip-version-check uv ||
                fail "pip could not install uv; see https://docs.astral.sh/uv/getting-started/installation/"
            return
        fi
    done
    fail "expected a Python 3.8 or newer with venv, found none; install python3 and python3-venv"
}

bootstrap() {
    find_uv
    # --inexact keeps the extras that were added with `uv sync --extra …`.
    "$UV" sync --locked --inexact --quiet ||
        fail "uv sync failed; on a closed network set UV_PYTHON to a Python 3.12 of your own"
    PYTHON=.venv/bin/python
    [ -x "$PYTHON" ] || PYTHON=.venv/Scripts/python.exe
}

demo() {
    local port key log status=0
    port=$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    key=$("$PYTHON" -c 'import secrets; print(secrets.token_urlsafe(24))')
    log=$(mktemp "${TMPDIR:-/tmp}/outbound-demo.XXXXXX")
    say "setup: starting the server with its simulated phone network on port $port"
    CARRIER=simulator HOST=127.0.0.1 PORT=$port API_KEYS=$key LLM_MODEL=scripted ALLOWED_COUNTRIES='*' \
        DATABASE_URL="sqlite:///$PWD/demo.db" SIMULATOR_SPEED="${SIMULATOR_SPEED:-1}" \
        "$PYTHON" main.py >"$log" 2>&1 &
    SERVER=$!
    trap 'kill "$SERVER" 2>/dev/null || true' EXIT
    # +12025550106 is the callee who interrupts.
    "$PYTHON" example_usage.py --server "http://127.0.0.1:$port" "--api-key=$key" --wait 60 \
        "${DEMO_NUMBER:-+12025550106}" &
    local client=$!
    while kill -0 "$client" 2>/dev/null; do
        kill -0 "$SERVER" 2>/dev/null || kill "$client" 2>/dev/null || true
        sleep 0.2
    done
    wait "$client" || status=$?
    kill -TERM "$SERVER" 2>/dev/null || status=1
    wait "$SERVER" || status=$?
    trap - EXIT
    if [ "$status" -ne 0 ]; then
        say "setup: the demo failed with $status; the server's log says:"
        tail -n 40 "$log" >&2
        exit "$status"
    fi
    rm -f "$log"
    say "setup: the demo is over, the server has stopped; the call is kept in demo.db"
}

case "${1:-}" in
"")
    bootstrap
    if [ ! -e .env ]; then
        cp .env.example .env
        chmod 600 .env
        say "setup: wrote .env from .env.example"
    fi
    say "setup: ready. Next:"
    say "  ./setup.sh demo                                       a call on the simulated phone network"
    say "  $UV run python main.py                                the server, on http://localhost:8000"
    say "  $UV run python example_usage.py +15005550006          a call through that server"
    say "  QUICKSTART.md                                         your own phone, in five minutes"
    ;;
demo)
    bootstrap
    demo
    ;;
test)
    shift
    bootstrap
    exec "$PYTHON" -m pytest "$@"
    ;;
*)
    fail "expected nothing, demo or test, got $1"
    ;;
esac
