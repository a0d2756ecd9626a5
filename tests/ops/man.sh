#!/bin/sh
# The manual pages as the build writes them, through man and (where it is there) mandoc: no warning, and every command
# and option that help knows is in them. usage: man.sh BIN_DIR SOURCE_DIR
set -eu
bin=$1 source=$2
command -v man >/dev/null || { echo "skipped: man (Debian: man-db) is not installed, so no page was checked"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$bin/mull" man >"$dir/mull.1"
"$source/ops/man/page" "$bin/mull-engine" 1 0.0.0 2026-01-01 >"$dir/mull-engine.1"
"$source/ops/man/page" "$bin/mull-sim" 1 0.0.0 2026-01-01 >"$dir/mull-sim.1"
"$source/ops/man/page" "$bin/mull-scheduler" 8 0.0.0 2026-01-01 >"$dir/mull-scheduler.8"
"$source/ops/man/page" "$bin/mull-worker" 8 0.0.0 2026-01-01 >"$dir/mull-worker.8"
bad=0
for page in "$dir"/*; do
    name=${page##*/}
    # --warnings needs groff's own, not its colours
    words=$(LC_ALL=C.UTF-8 MANWIDTH=100 man --warnings -l "$page" 2>&1 >"$dir/text" || echo "man failed")
    [ -z "$words" ] || { echo "$name: $words"; bad=1; }
    if command -v mandoc >/dev/null; then
        words=$(mandoc -Tlint -W warning "$page" || true)
        [ -z "$words" ] || { echo "$name: $words"; bad=1; }
    fi
    program=$bin/${name%.*}
    tr '\n' ' ' <"$dir/text" | tr -s ' ' >"$dir/words"
    "$program" --help | grep -o -- '--[a-z][a-z-]*' | sort -u >"$dir/options"
    while read -r o; do grep -q -- "$o" "$dir/words" || { echo "$name does not know $o"; bad=1; }; done <"$dir/options"
    case $name in
    mull.1 | mull-engine.1)
        for c in $("$program" --help | sed -n 's/^  \([a-z][a-z-]*\)  .*/\1/p'); do
            grep -q "^ *${program##*/} $c" "$dir/text" || { echo "$name does not know the command $c"; bad=1; }
        done
        ;;
    esac
done
command -v mandoc >/dev/null || echo "note: mandoc is not installed; man alone was asked"
[ $bad = 0 ] && echo "5 pages are right"
exit $bad
