# shellcheck shell=bash disable=SC2016
# Sourced by deps.sh and fast_tls.sh: reads packages of another suite without touching the system.
# The mirror is the one that this machine's own apt uses; signatures are checked against the distribution's archive keyring.
# Lists and caches live in a private folder, so that the system's apt never learns of the other suite.

say() { printf 'deps: %s\n' "$*"; }
fail() { printf 'deps: error: %s\n' "$*" >&2; exit 1; }

distribution() { ( . /etc/os-release; echo "${ID:-unknown}" ); }

# The address of the main archive in this machine's apt configuration; RINGPOST_MIRROR overrides.
mirror_address() {
    local origin
    if [ -n "${RINGPOST_MIRROR:-}" ]; then
        echo "$RINGPOST_MIRROR"
        return
    fi
    case $(distribution) in ubuntu) origin=Ubuntu ;; *) origin=Debian ;; esac
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' \
        "Origin: $origin" "Label: $origin" 'Component: main' 2>/dev/null | head -n 1
}

keyring() {
    local file
    for file in "/usr/share/keyrings/$(distribution)-archive-keyring.gpg" \
        "/usr/share/keyrings/$(distribution)-archive-keyring.pgp" \
        /usr/share/keyrings/debian-archive-keyring.gpg; do
        if [ -e "$file" ]; then
            echo "$file"
            return
        fi
    done
    fail "no archive keyring found: install the package debian-archive-keyring"
}

# private_apt_open FOLDER TYPE SUITE: after it, "${PRIVATE_APT[@]}" goes behind apt-get and apt-cache.
# TYPE is deb or deb-src. Status 1: the archive does not answer for that suite.
private_apt_open() {
    local folder=$1 type=$2 suite=$3 mirror
    mirror=$(mirror_address)
    [ -n "$mirror" ] || fail "this machine's apt knows no main archive of its distribution (has 'apt-get" \
        "update' ever run?); set RINGPOST_MIRROR to one's address"
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
    cat >"$folder/private.sources" <<EOF
Types: $type
URIs: $mirror
Suites: $suite
Components: main$([ "$(distribution)" = ubuntu ] && echo ' universe')
Signed-By: $(keyring)
EOF
    # The sandbox user could not read a folder below a home directory: everything here stays with the caller.
    PRIVATE_APT=(-q -o "Dir::Etc::sourcelist=$folder/private.sources" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$folder/lists" -o "Dir::Cache=$folder/cache" -o APT::Sandbox::User=root
        -o Acquire::Languages=none -o APT::Get::List-Cleanup=false -o Acquire::Retries=3 -o APT::Update::Error-Mode=any)
    apt-get "${PRIVATE_APT[@]}" update >"$folder/update.log" 2>&1 ||
        { cat "$folder/update.log" >&2; say "the archive's index of suite $suite could not be read"; return 1; }
}
