# The steps of deploy/install and deploy/upgrade, in their order. Sourced by them, after steps.sh and
# backplane.sh.
# Whatever can be wrong is looked at in the first step, before anything is changed.

wheel="" wheels="" name="" offline=no asked_nginx="" unfinished=""
python=/usr/bin/python3

parse() {
    processes=$(option processes)
    server_name=$(option server_name)
    tls=$(option tls)
    with_nginx=$(option nginx)
    backplane=$(backplane_of $ETC/echo.env)
    while [ "$#" -gt 0 ]; do
        case $1 in
        --dry-run) dry=yes ;;
        --offline) offline=yes ;;
        --with-nginx) with_nginx=yes asked_nginx=yes ;;
        --no-nginx) with_nginx=no ;;
        --no-tls) tls="" ;;
        --no-backplane) backplane="" ;;
        --help | -h)
            usage
            exit
            ;;
        --processes | --backplane | --server-name | --tls | --wheel | --wheels | --python | --name)
            [ -n "${2:-}" ] || fail "$1 needs a value; see $0 --help"
            case $1 in
            --processes) processes=$2 ;;
            --backplane) backplane=$2 ;;
            --server-name) server_name=$2 ;;
            --tls) tls=$2 ;;
            --wheel) wheel=$2 ;;
            --wheels) wheels=$2 ;;
            --python) python=$2 ;;
            --name) name=$2 ;;
            esac
            shift
            ;;
        *) fail "There is no option $1; see $0 --help" ;;
        esac
        shift
    done
    must_be_root
    : "${processes:=1}" "${server_name:=_}" "${with_nginx:=yes}"
    case $processes in
    [1-9] | [1-5][0-9] | 6[0-4]) ;;
    *) fail "--processes is a number from 1 to 64, not $processes" ;;
    esac
    check_the_backplane
    # It goes into nginx.conf.
    case $server_name in
    *[!A-Za-z0-9._-]* | -* | .*) fail "--server-name is one host name, not $server_name" ;;
    esac
    case $name in
    *[!A-Za-z0-9._+-]* | .*) fail "--name is of letters, digits and .-_+, not $name" ;;
    esac
    if [ -n "$tls" ]; then
        for each in fullchain.pem privkey.pem; do
            [ -r "$tls/$each" ] || fail "There is no $tls/$each; --tls names the directory it is in"
        done
        tls=$(cd "$tls" && pwd)
        [ "$server_name" != _ ] || fail "--tls needs the name that the certificate is for: --server-name"
    fi
    if [ -n "$wheels" ]; then
        [ -d "$wheels" ] || fail "--wheels $wheels is no directory"
        wheels=$(cd "$wheels" && pwd)
        if [ -z "$wheel" ]; then
            set -- "$wheels"/echo_trio-*.whl
            [ "$#" = 1 ] && [ -f "$1" ] ||
                fail "$wheels must hold one wheel of echo-trio; else name it: --wheel FILE"
            wheel=$1
        fi
    elif [ "$offline" = yes ]; then
        fail "--offline needs the packages: --wheels DIR (python3 -m pip wheel -w DIR $clone)"
    fi
    if [ -n "$wheel" ]; then
        [ -f "$wheel" ] || fail "There is no $wheel"
        wheel=$(cd "$(dirname "$wheel")" && pwd)/$(basename "$wheel")
    fi
}

look_at_the_machine() {
    step "Look at this machine"
    # shellcheck source=/dev/null
    system=$(. /etc/os-release 2>/dev/null && echo "$PRETTY_NAME") || system="an unknown system"
    systemd=$(systemctl --version | awk 'NR == 1 { print $2 }')
    [ "$systemd" -ge 248 ] || fail "This needs systemd 248 or newer; here is $systemd"

    command -v "$python" >/dev/null || fail "There is no $python: apt-get install python3"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "This needs Python 3.11 or newer, and $python is $("$python" -V 2>&1);" \
            "name another: --python /usr/bin/python3.12"
    case $(readlink -f "$python") in
    /usr/*) ;;
    *) fail "The service could not run $python: its sandbox has programs of /usr only" ;;
    esac
    note "$system, systemd $systemd, $("$python" -V)"

    getent group www-data >/dev/null ||
        fail "There is no group www-data, to which nginx belongs on Debian and Ubuntu"
    if [ -e $OPT ] && [ ! -f $FILES ]; then
        fail "$OPT is there and not from this program: move it away"
    fi
    if [ "$with_nginx" = yes ]; then look_at_nginx; fi
    look_at_the_backplane
    if [ -f $UNFINISHED ]; then
        note "the last run was interrupted: what it may have left undone is done again"
        unfinished=yes
    fi

    missing=""
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        missing="$missing $("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    if [ "$with_nginx" = yes ] && ! command -v nginx >/dev/null; then missing="$missing nginx"; fi
    if [ -n "$missing" ]; then
        [ "$offline" = no ] || fail "Missing, and --offline installs nothing:$missing"
        command -v apt-get >/dev/null || fail "Install these first, there is no apt-get here:$missing"
    fi

    if [ -z "$name" ]; then name=$(version_name); fi
    note "to install: version $name, in $processes process(es)"
}

look_at_nginx() {
    # Our nginx.conf includes no others, so their sites would be gone.
    others=$(find /etc/nginx/sites-enabled /etc/nginx/conf.d -mindepth 1 ! -name default \
        -exec basename {} \; 2>/dev/null | sort | tr '\n' ' ')
    if [ -n "$others" ] && [ -z "$(recorded $NGINX)" ] && [ -z "$asked_nginx" ]; then
        fail "nginx has other configurations here, which deploy/nginx.conf would switch off:" \
            "$others. --with-nginx does it all the same and keeps the old file;" \
            "--no-nginx leaves nginx to you: see deploy/README.md"
    fi
    for port in 80 ${tls:+443}; do
        holder=$(ss -Hltnp "sport = :$port" 2>/dev/null |
            sed -n 's/.*users:(("\([^"]*\)".*/\1/p' | grep -vx nginx | head -n 1)
        [ -z "$holder" ] || fail "Port $port is taken by $holder: stop it, or use --no-nginx"
    done
}

# VERSION-CHECKSUM: what is the same has the same name, and is not made again.
version_name() {
    if [ -n "$wheel" ]; then
        version=$(basename "$wheel" | cut -d- -f2)
        content=$(sha256sum <"$wheel" && if [ -n "$wheels" ]; then ls "$wheels"; fi)
    else
        version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$clone/pyproject.toml")
        content=$(cd "$clone" && find pyproject.toml echo -type f ! -name '*.py[co]' -print0 |
            sort -z | xargs -0 sha256sum)
    fi
    echo "$version-$(printf '%s %s' "$("$python" -V)" "$content" | sha256sum | cut -c1-8)"
}

install_what_is_missing() {
    step "Install what is missing"
    if [ -z "$missing" ]; then
        note "nothing is missing"
        return
    fi
    run apt-get update -qq || note "the package lists could not be renewed"
    # shellcheck disable=SC2086  # one argument for each package
    run env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y $missing ||
        fail "apt-get could not install:$missing"
}

make_the_version() {
    step "Make an environment for this version"
    folder=$OPT/versions/$name
    if [ -f "$folder/complete" ]; then
        note "$folder is there"
        return
    fi
    if [ ! -f $FILES ]; then
        run install -d $OPT $OPT/versions
        run touch $FILES
    fi
    # What is left of an installation that was interrupted is made anew.
    run "$python" -m venv --clear "$folder"
    set -- "${wheel:-$clone}"
    if [ -n "$wheels" ]; then set -- --no-index --find-links "$wheels" "$@"; fi
    run "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "$@" ||
        fail "The packages could not be installed; see above. Nothing that runs was changed."
    # Where it can't even be imported, it is not worth a restart.
    run "$folder/bin/python" -m echo --version ||
        fail "Version $name does not work; see above. Nothing that runs was changed."
    run touch "$folder/complete"
}

write_the_settings() {
    step "Write the settings"
    with_backplane "$here/echo.env" >"$scratch/echo.env"
    if [ -f $ETC/echo.env ] && ! untouched $ETC/echo.env &&
        [ "$(backplane_of $ETC/echo.env)" != "$backplane" ]; then
        # In a file with changes of yours, this one line.
        with_backplane $ETC/echo.env >"$scratch/edited.env"
        will_change $ETC/echo.env
        run install -m 640 "$scratch/edited.env" $ETC/echo.env
        record $ETC/echo.env "$scratch/echo.env"
    else
        put "$scratch/echo.env" $ETC/echo.env 640
    fi
    put "$here/hypercorn.toml" $ETC/hypercorn.toml 644
}

write_the_units() {
    step "Write the units"
    for each in echo.socket echo.service echo@.socket echo@.service; do
        put "$here/systemd/$each" "$UNITS/$each" 644
    done
    make_backplane_conf "$scratch/backplane.conf"
    for each in echo.service echo@.service; do
        # Its name puts it before other drop-ins, which can so change it.
        put "$here/systemd/sandbox.conf" "$UNITS/$each.d/10-sandbox.conf" 644
        put_or_not "$scratch/backplane.conf" "$UNITS/$each.d/backplane.conf" 644
    done
    # Who is started if nobody runs when a connection comes.
    if [ "$processes" != 1 ]; then
        printf '[Socket]\nService=echo@1.service\n' >"$scratch/processes.conf"
    fi
    put_or_not "$scratch/processes.conf" $UNITS/echo.socket.d/processes.conf 644
}

start_the_service() {
    step "Start the service"
    services=$(units_of "$processes")
    before=$(units_present)
    old=$(version_at $OPT/current)
    if [ "$old" = "$name" ] && [ -z "$changed$unfinished" ] && all_run; then
        note "it runs already"
        return
    fi
    began=$(date +%s)
    if [ "$old" != "$name" ]; then point_to "$name"; fi
    if [ -n "$changed$unfinished" ]; then run systemctl daemon-reload; fi
    # shellcheck disable=SC2086  # one argument for each
    run systemctl enable --quiet echo.socket $services
    # A socket can't change while it listens.
    for each in echo.socket 'echo@*.socket'; do
        if has_changed "$UNITS/$(echo "$each" | tr -d '*')" && systemctl is-active --quiet "$each"; then
            run systemctl stop "$each"
        fi
    done
    run systemctl start echo.socket
    # shellcheck disable=SC2086
    roll $services || go_back "$unit"
    # Only now, so that there was always one.
    for each in $before; do
        if ! is_in "$each" "$services"; then run systemctl disable --quiet --now "$each"; fi
    done
    if [ -n "$old" ] && [ "$old" != "$name" ]; then
        run ln -sfn "versions/$old" $OPT/previous
    fi
    remove_old_versions
}

finished() { [ "$dry" = yes ] || rm -f $UNFINISHED; }

has_changed() { case " $changed " in *" $1 "*) ;; *) return 1 ;; esac }

# is_in WORD LINES
is_in() { printf '%s\n' "$2" | grep -qxF "$1"; }

all_run() {
    for each in echo.socket $services; do
        systemctl is-active --quiet "$each" || return
        systemctl is-enabled --quiet "$each" || return
    done
    [ "$before" = "$(echo "$services" | sort -u)" ]
}

# go_back UNIT: it did not get ready; what was there before serves again, if there was something.
go_back() {
    printf '%s%s did not get ready. Its last words:%s\n' "$red" "$1" "$plain"
    journalctl --no-pager --output=cat --since "@$began" --unit "$1" | tail -n 12 | sed 's/^/    /'
    if [ -z "$before" ]; then
        # shellcheck disable=SC2086  # one argument for each
        run systemctl disable --quiet --now echo.socket $services
        run rm $OPT/current
        finished
        fail "Echo is installed, but it does not start; see above. It is switched off again."
    elif [ "$old" = "$name" ] && [ -z "$changed" ]; then
        fail "See above; the settings are in $ETC. Then run $0 again."
    fi
    # shellcheck disable=SC2086
    restore $changed
    if [ "$old" != "$name" ] && [ -n "$old" ]; then point_to "$old"; fi
    if [ -n "$changed" ]; then run systemctl daemon-reload; fi
    touched=yes
    for each in $services; do
        if ! is_in "$each" "$before"; then
            run systemctl disable --quiet --now "$each"
        elif [ "$touched" = yes ] || ! systemctl is-active --quiet "$each"; then
            roll "$each" || fail "And version $old does not start either: journalctl -u $each"
        fi
        if [ "$each" = "$1" ]; then touched=no; fi
    done
    finished
    fail "Version $name did not get ready; version $old serves again."
}

remove_old_versions() {
    for each in "$OPT"/versions/*/; do
        each=$(basename "$each")
        case $each in
        "$name" | "$(version_at $OPT/previous)" | '*') ;;
        *) run rm -rf "$OPT/versions/$each" ;;
        esac
    done
}

let_nginx_pass() {
    step "Let nginx pass WebSockets"
    if [ "$with_nginx" = no ]; then
        note "left alone: let your proxy pass them to unix:/run/echo.sock, see deploy/README.md"
        remember
        finished
        return
    fi
    changed=""
    cp "$here/nginx.conf" "$scratch/nginx.conf"
    sed -i "s/server_name _;/server_name $server_name;/" "$scratch/nginx.conf"
    if [ -n "$tls" ]; then
        sed -i 's/^\( *\)#tls /\1/' "$scratch/nginx.conf"
        if [ ! -d $ETC/tls ]; then run install -d -m 750 $ETC/tls; fi
        for each in fullchain.pem privkey.pem; do
            # Links, so that a renewed certificate needs only a reload.
            if [ "$(readlink "$ETC/tls/$each")" != "$tls/$each" ]; then
                will_change "$ETC/tls/$each"
                run ln -sfn "$tls/$each" "$ETC/tls/$each"
            fi
        done
    fi
    if [ ! -e /proc/net/if_inet6 ]; then sed -i '/listen \[::\]/d' "$scratch/nginx.conf"; fi
    before=""
    if [ -f $NGINX ] && [ -z "$(recorded $NGINX)" ] && ! cmp -s "$scratch/nginx.conf" $NGINX; then
        run cp -p $NGINX $NGINX_BEFORE
        before=$NGINX_BEFORE
        replace=$NGINX
    fi
    put "$scratch/nginx.conf" $NGINX 644
    if [ -z "$changed$unfinished" ] && systemctl is-active --quiet nginx; then
        note "nginx runs already"
    else
        # shellcheck disable=SC2086
        reload_nginx $changed $before || {
            finished
            fail "nginx does not take this configuration; see above. The old one stays, Echo itself runs."
        }
    fi
    remember
    finished
}

# For the next time, and for deploy/upgrade.
remember() {
    told=$(printf '%s\n' "processes=$processes" "server_name=$server_name" "tls=$tls" "nginx=$with_nginx")
    if [ "$dry" = yes ] || [ "$told" = "$(cat $OPTIONS 2>/dev/null)" ]; then return; fi
    echo "$told" >$OPTIONS
}

ask_the_doctor() {
    step "Ask the doctor"
    if [ "$with_nginx" = no ]; then
        url=unix:/run/echo.sock
        note "of the service itself; once your proxy is set up, ask again with the URL of the site"
    elif [ -n "$tls" ]; then
        url=https://$server_name
    else
        url=http://localhost
    fi
    run "$OPT/current/bin/python" -m echo doctor "$url" ||
        fail "Echo runs, but not all is well; see above, and deploy/README.md for what it means."
    if [ "$dry" = no ]; then
        printf '%sEcho %s serves %s in %s process(es).%s\n' "$green" "$name" "$url" "$processes" "$plain"
    fi
}
