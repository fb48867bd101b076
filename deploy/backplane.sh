# What a backplane, ECHO_BACKPLANE, takes: a line in echo.env, where it is remembered, and a drop-in
# that lets the service through its sandbox. Sourced by deploy/install and deploy/upgrade.

# backplane_of FILE: ECHO_BACKPLANE in this file of settings, or nothing.
backplane_of() {
    if [ -r "$1" ]; then sed -n 's/^ECHO_BACKPLANE="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' "$1" | tail -n 1; fi
}

# with_backplane FILE: its text, with ECHO_BACKPLANE as we want it. It may hold a password, so it is
# no argument of a command.
with_backplane() {
    backplane=$backplane awk '
        BEGIN { url = ENVIRON["backplane"]; line = (url == "" ? "#" : "") "ECHO_BACKPLANE=" url }
        !/^#?ECHO_BACKPLANE=/ { print; next }
        !said { print line; said = 1 }
        END { if (!said && url != "") print line }' "$1"
}

check_the_backplane() {
    case $backplane in
    *[!!-~]* | *[\"\'\\]*) fail "--backplane is a URL without blanks, quotes and backslashes" ;;
    "" | redis://?* | rediss://?* | valkey://?* | valkeys://?* | unix://?*) ;;
    *) fail "--backplane is a URL, such as redis://192.0.2.5 or unix:///run/redis/redis-server.sock" ;;
    esac
}

look_at_the_backplane() {
    engine_group=""
    case $backplane in
    "")
        [ "$processes" = 1 ] ||
            note "${bold}Without a backplane each of the $processes processes sends only to its own" \
                "clients: --backplane URL, see deploy/README.md$plain"
        ;;
    unix://*)
        socket=${backplane#unix://}
        socket=/${socket#*/}
        socket=${socket%%\?*}
        [ -S "$socket" ] || fail "There is no socket $socket: start the engine first; see deploy/README.md"
        case $(stat --format=%a "$socket") in
        *[2367]) ;; # everybody may open it
        *[2367]?) engine_group=$(stat --format=%G "$socket") ;;
        *) fail "Only its owner may open $socket: unixsocketperm 770 in the engine's configuration" ;;
        esac
        ;;
    esac
}

# make_backplane_conf FILE: the drop-in, if one is needed.
make_backplane_conf() {
    case $backplane in
    "") ;;
    unix://*)
        # The sandbox is not in the way of a unix socket; its rights are.
        if [ -n "$engine_group" ]; then
            printf '[Service]\nSupplementaryGroups=%s\n' "$engine_group" >"$1"
        fi
        ;;
    *) cp "$here/systemd/backplane.conf" "$1" ;;
    esac
}
