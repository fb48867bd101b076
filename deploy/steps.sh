# What deploy/install, deploy/upgrade and deploy/uninstall share. Sourced by them.
# What changes the machine goes through run(), put() and the like, which show it, and which do
# nothing else with --dry-run. What was written is recorded with its checksum: a file that somebody
# has changed since is theirs, and is not overwritten or removed.

OPT=/opt/echo
ETC=/etc/echo
UNITS=/etc/systemd/system
NGINX=/etc/nginx/nginx.conf
NGINX_BEFORE=$NGINX.before-echo
FILES=$OPT/files     # "CHECKSUM  PATH" for each file that is ours
OPTIONS=$OPT/options # what install was told, for the next time
UNFINISHED=$OPT/unfinished

dry=no
changed=""

bold="" dim="" red="" green="" plain=""
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
    escape=$(printf '\033')
    bold="${escape}[1m" dim="${escape}[2m" red="${escape}[31m" green="${escape}[32m" plain="${escape}[0m"
fi

# step TITLE: the next of $steps.
number=0
step() {
    number=$((number + 1))
    printf '%sStep %s of %s: %s%s\n' "$bold" "$number" "$steps" "$1" "$plain"
}

note() { printf '    %s\n' "$*"; }

fail() {
    printf '%s%s%s\n' "$red" "$*" "$plain" >&2
    exit 1
}

# run COMMAND...: shows a command that changes something, and runs it unless this is a dry run.
run() {
    printf '    %s$ %s%s\n' "$dim" "$*" "$plain"
    [ "$dry" = yes ] || "$@" 9<&-
}

begin() {
    # The service runs as another user, who has to read what we write.
    umask 022
    export LC_ALL=C.UTF-8
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    if [ "$dry" = yes ]; then
        note "A dry run: this is what would be done."
    else
        exec 9</etc
        flock --nonblock 9 || fail "Another installation is running."
    fi
}

must_be_root() {
    [ "$(id -u)" = 0 ] || fail "This changes the system and needs root: sudo $0"
    [ -d /run/systemd/system ] || fail "This machine does not run systemd, for which this is made."
}

# --- files that are ours ---

checksum() { sha256sum "$1" | cut -d' ' -f1; }

# recorded PATH: the checksum of what we wrote there, or nothing.
recorded() { if [ -f $FILES ]; then awk -v path="$1" '$2 == path { print $1 }' $FILES; fi; }

# untouched PATH: is it just as we wrote it?
untouched() { [ -f "$1" ] && [ "$(checksum "$1")" = "$(recorded "$1")" ]; }

forget() {
    if [ "$dry" = yes ] || [ ! -f $FILES ]; then return; fi
    awk -v path="$1" '$2 != path' $FILES >"$scratch/files"
    cat "$scratch/files" >$FILES
}

# record PATH [SOURCE]: as written from SOURCE, if it is not just that.
record() {
    if [ "$dry" = yes ] || untouched "$1"; then return; fi
    forget "$1"
    printf '%s  %s\n' "$(checksum "${2:-$1}")" "$1" >>$FILES
}

# put SOURCE TARGET MODE: writes a file, unless it is so already or somebody's own. (If it is
# $replace, it is written whosever it is.)
put() {
    if [ -f "$2" ] && cmp -s "$1" "$2"; then
        note "$2 is as it should be"
        record "$2"
        return
    fi
    if [ -e "$2" ] && [ "$2" != "${replace:-}" ] && ! untouched "$2"; then
        if [ "$(checksum "$1")" = "$(recorded "$2")" ] || cmp -s "$1" "$2.new"; then
            note "$2 has changes of yours and stays"
        else
            run install -m "$3" "$1" "$2.new"
            record "$2.new"
            note "${bold}$2 has changes of yours and stays; compare it with $2.new$plain"
        fi
        return
    fi
    will_change "$2"
    run install -D -m "$3" "$1" "$2"
    record "$2"
}

# put_or_not SOURCE TARGET MODE: the same if there is a SOURCE; else what we wrote there goes.
put_or_not() {
    if [ -f "$1" ]; then
        put "$@"
    elif untouched "$2"; then
        will_change "$2"
        run rm "$2"
        forget "$2"
    fi
}

# will_change PATH: so that restore() can take it back, and that what uses the file is told; by the
# next run if this one is interrupted.
will_change() {
    changed="$changed $1"
    if [ "$dry" = yes ]; then return; fi
    touch $UNFINISHED
    mkdir -p "$scratch/before$(dirname "$1")"
    recorded "$1" >"$scratch/before$1.recorded"
    if [ -e "$1" ] || [ -L "$1" ]; then cp -a "$1" "$scratch/before$1"; fi
}

# restore PATH...: as it was when this run began.
restore() {
    for each in "$@"; do
        forget "$each"
        if [ -s "$scratch/before$each.recorded" ]; then
            echo "$(cat "$scratch/before$each.recorded")  $each" >>$FILES
        fi
        if [ -e "$scratch/before$each" ] || [ -L "$scratch/before$each" ]; then
            run cp -a --remove-destination "$scratch/before$each" "$each"
        else
            run rm -f "$each"
        fi
    done
}

# remove PATH: if it is ours and as we wrote it, or if everything is to go.
remove() {
    if [ ! -e "$1" ]; then return; fi
    if [ "${purge:-no}" = yes ] || untouched "$1"; then
        run rm -f "$1"
    else
        note "${bold}$1 has changes of yours and stays$plain"
    fi
}

# option NAME: what it was at the last installation, or nothing.
option() { if [ -f $OPTIONS ]; then sed -n "s/^$1=//p" $OPTIONS; fi; }

# --- versions ---

# point_to VERSION: `current` in one move, so that there is never none.
point_to() {
    run ln -sfn "versions/$1" $OPT/current.new
    run mv -T $OPT/current.new $OPT/current
}

# version_at LINK: its name, or nothing.
version_at() { if [ -L "$1" ]; then basename "$(readlink "$1")"; fi; }

# --- units ---

# units_of N: the services of an installation with N processes.
units_of() {
    if [ "$1" = 1 ]; then
        echo echo.service
    else
        seq -f 'echo@%.0f.service' "$1"
    fi
}

# All services of ours that are switched on or run, in whatever number.
units_present() {
    {
        systemctl list-units --plain --no-legend --state=active,activating,failed \
            'echo.service' 'echo@*.service'
        find $UNITS/multi-user.target.wants -name 'echo*.service' -printf '%f\n' 2>/dev/null
    } | cut -d' ' -f1 | sort -u
}

# One at a time: each answers before the next one goes. Stops at the first that does not.
roll() {
    for unit in "$@"; do
        # A version that failed before may have used up its starts, and those of the socket.
        [ "$dry" = yes ] || systemctl reset-failed "$unit" echo.socket 2>/dev/null || true
        run systemctl restart "$unit" || return
    done
}

# --- nginx ---

# reload_nginx FILE...: with these files changed; takes them back if nginx does not like them.
reload_nginx() {
    run systemctl enable --quiet nginx
    if ! run nginx -t -q; then
        restore "$@"
        return 1
    fi
    # Never restart: that would cut every open WebSocket and refuse new ones.
    if ! systemctl is-active --quiet nginx; then
        run systemctl start nginx
        return
    fi
    master=$(systemctl show --property MainPID --value nginx)
    workers=$(cat "/proc/$master/task/$master/children" 2>/dev/null) || workers=""
    run systemctl reload nginx
    # For a moment the old workers still answer, as they were told before.
    for _ in $(seq 100); do
        if [ "$dry" = yes ] || ! still_work "$workers"; then return; fi
        sleep 0.1
    done
}

still_work() {
    for each in $1; do
        if [ -e "/proc/$each" ] && ! grep -qs 'shutting down' "/proc/$each/cmdline"; then return; fi
    done
    return 1
}
