#!/bin/sh
# cmake --install into an empty folder: what has to be there is there, units are what systemd understands and hardened,
# and the installed programs start. usage: install.sh BUILD_DIR SOURCE_DIR
set -eu
build=$1 source=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() { echo "$*"; exit 1; }
DESTDIR=$dir cmake --install "$build" --prefix /usr >"$dir/log" 2>&1 || { cat "$dir/log"; fail "cmake --install failed"; }
for f in bin/mull bin/mull-engine bin/mull-scheduler bin/mull-worker share/man/man1/mull.1 share/man/man1/mull-engine.1 \
    share/man/man8/mull-scheduler.8 share/man/man8/mull-worker.8 share/bash-completion/completions/mull \
    share/zsh/vendor-completions/_mull share/fish/vendor_completions.d/mull.fish share/mull/configs/sft.yaml \
    share/mull/monitor/alerts.yml share/mull/examples/worker.env lib/sysusers.d/mull.conf \
    lib/systemd/system/mull-scheduler.service lib/systemd/system/mull-worker@.service; do
    [ -s "$dir/usr/$f" ] || fail "$f was not installed"
done
for p in mull mull-engine mull-scheduler mull-worker mull-sim; do
    "$dir/usr/bin/$p" --help >/dev/null || fail "$p does not run where it was installed"
done
"$dir/usr/bin/mull" doctor --state "$dir/state" --json | grep -q '"check":"engine","status":"ok"' ||
    fail "the installed mull does not find the engine beside it"
if ! command -v systemd-analyze >/dev/null; then
    echo "skipped: systemd-analyze is not installed, so the units were not checked"
    exit 77
fi
units=$dir/usr/lib/systemd/system
# The programs of the units are looked for where they say; here that is below DIR.
for u in mull-scheduler.service mull-worker@.service; do
    sed "s|/usr/bin/|$dir/usr/bin/|g" "$units/$u" >"$dir/$u"
done
words=$(systemd-analyze verify --man=no "$dir/mull-scheduler.service" "$dir/mull-worker@one.service" 2>&1 || true)
[ -z "$words" ] || fail "systemd-analyze verify: $words"
# 10 is a service with everything open; a plain one is at 9.6.
systemd-analyze security --offline=true --no-pager --threshold=20 "$units/mull-scheduler.service" >"$dir/log" ||
    { tail -n 1 "$dir/log"; fail "the scheduler's unit is more exposed than 2.0"; }
systemd-analyze security --offline=true --no-pager --threshold=30 "$units/mull-worker@.service" >"$dir/log" ||
    { tail -n 1 "$dir/log"; fail "the worker's unit is more exposed than 3.0"; }
echo "installed, and the units are right"
