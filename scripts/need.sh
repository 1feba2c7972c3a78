#!/usr/bin/env bash
# Makes sure that what is named is there; installs what can be installed without asking, and says in one line how to get
# the rest. Usage: need.sh cargo cc c++ node ui chromium snippets postgres clickhouse tools anchor
set -euo pipefail
cd "$(dirname "$0")/.."

apt_install() {
    local prefix=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || { echo "Missing: $*. Install it with: apt-get install $*" >&2; exit 1; }
        prefix=(sudo)
    fi
    command -v apt-get >/dev/null || { echo "Missing: $*. Install it with your system's package manager." >&2; exit 1; }
    echo "Installing $*"
    "${prefix[@]}" apt-get update -qq >/dev/null
    DEBIAN_FRONTEND=noninteractive "${prefix[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

have_postgres() {
    command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null
}

# The ClickHouse of the tests is a Python package.
need_python_tools() {
    local tools=tests/tools
    if [ ! -x $tools/.venv/bin/python ] || [ $tools/requirements.txt -nt $tools/.venv/stamp ]; then
        command -v python3 >/dev/null || apt_install python3 python3-venv
        echo "Installing the Python packages of the tests"
        python3 -m venv $tools/.venv 2>/dev/null || { apt_install python3-venv; python3 -m venv $tools/.venv; }
        $tools/.venv/bin/pip install --quiet --disable-pip-version-check -r $tools/requirements.txt
        touch $tools/.venv/stamp
    fi
}

need_tools() {
    need_python_tools
    local tools=tests/tools
    if [ ! -f $tools/node_modules/stamp ] || [ $tools/package-lock.json -nt $tools/node_modules/stamp ]; then
        echo "Installing the npm packages of the tests"
        (cd $tools && npm ci --silent --no-audit --no-fund --ignore-scripts)
        touch $tools/node_modules/stamp
    fi
}

need_ui() {
    if [ ! -f ui/node_modules/stamp ] || [ ui/package-lock.json -nt ui/node_modules/stamp ]; then
        echo "Installing the npm packages of the web interface"
        (cd ui && npm ci --silent --no-audit --no-fund --ignore-scripts)
        touch ui/node_modules/stamp
    fi
}

# The languages in which the pages show how to verify a delivery.
need_snippets() {
    local missing=()
    command -v ruby >/dev/null || missing+=(ruby)
    command -v php >/dev/null || missing+=(php-cli)
    command -v go >/dev/null || missing+=(golang-go)
    command -v python3 >/dev/null || missing+=(python3)
    [ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"
}

# A figure to compare with; without npm that one is left out.
need_anchor() {
    local anchor=scripts/anchor
    command -v npm >/dev/null || return 0
    if [ ! -f $anchor/node_modules/stamp ] || [ $anchor/package-lock.json -nt $anchor/node_modules/stamp ]; then
        echo "Installing the job queue that is measured beside ours"
        (cd $anchor && npm ci --silent --no-audit --no-fund --ignore-scripts && touch node_modules/stamp) ||
            echo "It could not be installed; the figure is left out." >&2
    fi
}

for what in "$@"; do
    case $what in
        cargo) command -v cargo >/dev/null || { echo "Rust is missing: get it from https://rustup.rs (1.95 or newer)." >&2; exit 1; } ;;
        cc) { command -v cc && command -v make; } >/dev/null || apt_install gcc libc6-dev make ;;
        c++) command -v c++ >/dev/null || apt_install g++ ;;
        node) command -v node >/dev/null && command -v npm >/dev/null || { echo "Node is missing: get version 20 or newer from https://nodejs.org." >&2; exit 1; } ;;
        ui) need_ui ;;
        chromium) [ -x "${PULSEHOOK_CHROMIUM:-/usr/bin/chromium}" ] || apt_install chromium fonts-dejavu-core ;;
        snippets) need_snippets ;;
        postgres) have_postgres || apt_install postgresql ;;
        clickhouse) need_python_tools ;;
        tools) need_tools ;;
        anchor) need_anchor ;;
        *) echo "need.sh does not know $what" >&2; exit 2 ;;
    esac
done
