# Sourced by the other scripts: makes .venv beside the project's files and installs the package into it.
#   prepare_environment [EXTRAS]   EXTRAS as in pip, such as "[dev]"
# Safe to call from several scripts at once (a lock) and again and again (a stamp for each set of extras).
# PYTHON names the interpreter of a new .venv (default python3).

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

prepare_environment() {
    local extras="${1:-}" venv="$root/.venv" wanted stamp
    # the lock belongs to this shell's descriptor 9, so it lives on after the small program that takes it
    exec 9>"$root/.venv.lock"
    "${PYTHON:-python3}" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
    [ -x "$venv/bin/pip" ] || "${PYTHON:-python3}" -m venv "$venv"
    wanted="$(cat "$root/setup.cfg" "$root/pyproject.toml" | cksum)"
    stamp="$venv/installed${extras//[^a-z]/_}"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "Installing capaboost_vit$extras into $venv (torch alone takes a few minutes)"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root$extras"
        echo "$wanted" >"$stamp"
    fi
    exec 9>&-
}
