# Finds a Python and makes virtual environments with it. Sourced by deploy/start and tests/run.
# A second call is quick: nothing is installed again until pyproject.toml or the Python changes.

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# Sets PYTHON to an interpreter that is new enough; the PYTHON of the caller is taken as it is.
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not a Python of version 3.11 or newer."
        return
    fi
    for PYTHON in python3 python3.14 python3.13 python3.12 python3.11; do
        if new_enough "$PYTHON"; then return; fi
    done
    fail "This needs Python 3.11 or newer, and there is none on the PATH." \
        "Install one, or name it: PYTHON=/path/to/python3.13 $0"
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

# apt_install PACKAGE...: false if this is not ours to do or it failed.
apt_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    say "Installing $* with apt-get ..."
    # A fresh container has no package lists yet.
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y "$@" </dev/null >/dev/null 2>&1 ||
        { apt-get update -qq </dev/null >/dev/null 2>&1 &&
            DEBIAN_FRONTEND=noninteractive apt-get install -qq -y "$@" </dev/null >/dev/null 2>&1; }
}

# Debian and Ubuntu keep the part of `venv` that brings pip in a package of its own.
ensure_venv_module() {
    if "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then return; fi
    package="python$(version_of "$PYTHON")-venv"
    if ! apt_install "$package"; then
        fail "Python's venv module is missing. Install it first: sudo apt-get install $package"
    fi
}

# make_venv DIRECTORY WHAT: an environment with WHAT ("." or ".[extra]") installed as editable.
make_venv() {
    stamp="$(cksum <pyproject.toml) $2 $("$PYTHON" -c 'import sys; print(sys.version, sys.base_prefix)')"
    if [ -x "$1/bin/python" ] && [ "$(cat "$1/installed" 2>/dev/null)" = "$stamp" ]; then return; fi
    ensure_venv_module
    say "Making $1 with Python $(version_of "$PYTHON") ..."
    "$PYTHON" -m venv --clear "$1"
    say "Installing what is needed, which takes a minute ..."
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check \
        --root-user-action=ignore --editable "$2" ||
        fail "The installation failed; see above. Run $0 again when the cause is gone."
    # Only now: an installation that was interrupted is done again.
    printf '%s\n' "$stamp" >"$1/installed"
}
