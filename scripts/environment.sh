# Sourced by the other scripts: makes .venv beside the project's files and installs the package into it.
#   prepare_environment [EXTRAS]   EXTRAS as in pip, such as "[dev]"
# Safe to call from several scripts at once (a lock) and again and again (a stamp for each set of extras).
#   PYTHON                  the interpreter of a new .venv (default python3)
#   CAPABOOST_REQUIREMENTS  a folder in which several clones keep what the package requires: an environment there that fits
#                           this clone and its interpreter is linked into .venv, and only made if there is none

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

prepare_environment() {
    local extras="${1:-}" venv="$root/.venv" python="${PYTHON:-python3}" wanted stamp
    # the lock belongs to this shell's descriptor 9, so it lives on after the small program that takes it
    exec 9>"$root/.venv.lock"
    "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
    wanted="$(cat "$root/setup.cfg" "$root/pyproject.toml" | cksum)"
    stamp="$venv/installed${extras//[^a-z]/_}"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || { [ -L "$venv/shared" ] && [ ! -e "$venv/shared/complete" ]; }; then
        if [ -n "${CAPABOOST_REQUIREMENTS:-}" ]; then
            link_requirements
        else
            [ -x "$venv/bin/pip" ] || "$python" -m venv "$venv"
            echo "Installing capaboost_vit$extras into $venv (torch alone takes a few minutes)"
            "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root$extras"
        fi
        echo "$wanted" >"$stamp"
    fi
    exec 9>&-
}

# Lets .venv see the shared requirements, and this clone; only prepare_environment calls it, and its variables are used.
link_requirements() {
    local required shared program site
    # by what is required alone: another option for packages or tests is no reason to install 7 GB again
    required="$("$python" -c 'import configparser, sys
setup = configparser.RawConfigParser()
setup.read(sys.argv[1])
print(setup["options"]["install_requires"], *setup["options.extras_require"].items())' "$root/setup.cfg")"
    shared="$CAPABOOST_REQUIREMENTS/$(cksum <<<"$required $extras $("$python" --version)" | tr ' ' -)"
    mkdir -p "$CAPABOOST_REQUIREMENTS"
    exec 8>"$shared.lock"
    "$python" -c 'import fcntl; fcntl.flock(8, fcntl.LOCK_EX)'
    if [ ! -e "$shared/complete" ]; then
        "$python" -m venv --clear "$shared"
        echo "Installing what capaboost_vit$extras requires into $shared (torch alone takes a few minutes)"
        "$shared/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root$extras"
        "$shared/bin/python" -m pip uninstall --quiet --yes capaboost_vit # it belongs to one clone, the others to all
        touch "$shared/complete"
    fi
    exec 8>&-
    [ -x "$venv/bin/python" ] || "$python" -m venv --without-pip "$venv"
    ln -sfn "$shared" "$venv/shared"
    for site in "$venv"/lib/python*/site-packages; do
        printf "%s\nimport site; site.addsitedir('%s')\n" "$root" "$shared${site#"$venv"}" >"$site/capaboost_vit.pth"
    done
    # programs that begin with the shared interpreter are run by that of .venv, which sees this clone
    for program in "$shared"/bin/*; do
        case "$(basename "$program")" in python* | activate* | Activate*) continue ;; esac
        local words=("$program")
        [ "$(head -c 2 "$program")" != '#!' ] || words=("$venv/bin/python" "$program")
        write_program "$(basename "$program")" "${words[@]}"
    done
    write_program capaboost "$venv/bin/python" -m capaboost_vit.cli
}

# write_program NAME WORD...  makes .venv/bin/NAME run the words
write_program() {
    printf '#!/usr/bin/env bash\nexec%s "$@"\n' "$(printf ' %q' "${@:2}")" >"$venv/bin/$1"
    chmod +x "$venv/bin/$1"
}
