# Shared by the preparation scripts: making a Debian tree once, whole or not at all.
# shellcheck shell=bash

setup=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
name=$(basename "$0")

die() {
    printf '%s: %s\n' "$name" "$@" >&2
    exit 1
}

# The part of a folder's name that changes when anything does that decides its contents.
key_of() {
    printf '%s\n' "$@" | sha256sum | cut -c1-10
}

# The mirror of this machine, so that a local or a frozen one is used here too. On a machine that is
# not Debian nothing is printed, and mmdebstrap takes its own default.
debian_mirror() {
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        sed -n 's/^Debian|Debian|//p' | head -n 1
}

# Only one process makes a thing; the others wait here and then find it made. The lock goes with the
# processes that inherit it: mmdebstrap too, which works on for a while when only its caller is killed.
lock() {
    exec {lock_fd}>"$1"
    flock "$lock_fd"
}

# mmdebstrap with what every tree here needs: frozen mirrors have Release files past their date
# (signatures are still checked), and a mirror that fails a request deserves a second one. Its talk
# is shown only when it fails.
debootstrap() {
    local log mirror
    log=$(mktemp)
    mirror=$(debian_mirror)
    if ! mmdebstrap --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Retries "3"' \
        "$@" ${mirror:+"$mirror"} >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}
