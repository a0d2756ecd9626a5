#!/bin/sh
# mull elastic over a real Slurm on this machine (slurmctld, slurmd): from no pilot to as many as jobs want, a job that
# outlives its pilot's allocation goes on in the next one and loses no row, and back to none.
# usage: elastic_slurm.sh BIN_DIR SOURCE_DIR
set -eu
bin=$1 source=$2
. "$source/ops/elastic/private-slurm.sh"
[ "$(id -u)" = 0 ] || { echo "skipped: a Slurm daemon needs root, so elastic workers were not tried"; exit 77; }
slurm_find || { echo "skipped: Slurm (Debian: slurmctld slurmd slurm-client) is not installed, so elastic workers were not tried"; exit 77; }
dir=$(mktemp -d)
elastic=''
finish() {
    [ -z "$elastic" ] || kill "$elastic" 2>/dev/null || true
    "$squeue" -h -o %i 2>/dev/null | while read -r id; do "$(slurm_program scancel)" --batch --full "$id" || true; done
    slurm_stop
    "$bin/mull" down >/dev/null 2>&1 || true
    sleep 1
    rm -rf "$dir"
}
trap finish EXIT
fail() { echo "$*"; cat "$dir/elastic.log" 2>/dev/null; "$bin/mull" ps || true; "$bin/mull" node ls || true; exit 1; }
# until LIMIT_S WORDS…: a command that is true in the end
until_true() {
    left=$1
    shift
    while ! "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ $left -gt 0 ] || fail "never: $*"
        sleep 1
    done
}
pilots() { "$squeue" -h -t PD,R,CF -o %j | grep -c '^mull-pilot:' || true; }
none() { [ "$(pilots)" = 0 ]; }
ended() { [ "$("$bin/mull" show "$1" -o json | sed -n 's/.*"state":"\([A-Z_]*\)".*/\1/p' | head -n 1)" = COMPLETED ]; }

unset MULL_SERVER
export MULL_STATE="$dir/state" PATH="$bin:$PATH"
mull-engine init --preset tiny --out "$dir/model" >/dev/null
slurm_start "$dir" 2 2 || { echo "Slurm's nodes do not come up"; exit 1; }
mull up >"$dir/up.log" 2>&1 || { cat "$dir/up.log"; exit 1; }
mull node drain "$(mull node ls --json | sed -n 's/^{"name":"\([^"]*\)".*/\1/p')" # only pilots run jobs
export MULL_REDIS="unix:$dir/state/run/redis.sock" MULL_PILOT_STATE="$dir/pilots" MULL_PILOT_LOG="$dir/pilot-%j.log" \
    MULL_WORKER="$bin/mull-worker" MULL_PILOT_TIME=2 MULL_PILOT_GRACE=60
mull elastic --provider "$source/ops/elastic/slurm" --max 2 --idle 4 --lead 30 --every 1 >"$dir/elastic.log" 2>&1 &
elastic=$!
sleep 3
none || fail "pilots without a job"

for i in 1 2 3; do mull submit generate --model "$dir/model" --prompt hello >/dev/null; done
for i in 1 2 3; do until_true 60 ended $i; done
mull show 1 --json | grep -q '"node":"pilot-' || fail "the job did not run on a pilot"
until_true 60 none
echo "three jobs ran on pilots, and the pilots are gone"

# Allocations of two minutes, told a minute before: this takes longer than one, by how fast this machine is now.
rows() { awk -v n="$1" 'BEGIN { for (i = 1; i <= n; i++) printf "{\"custom_id\":\"r%d\",\"messages\":[{\"role\":\"user\",\"content\":\"row %d\"}]}\n", i, i }'; }
rows 200 >"$dir/few.jsonl"
begun=$(date +%s%N)
mull-engine annotate --model "$dir/model" --in "$dir/few.jsonl" --out "$dir/few" --max-new-tokens 200 --ignore-eos --quiet >/dev/null
count=$((200 * 100000 / (($(date +%s%N) - begun) / 1000000 + 1))) # for a hundred seconds
[ $count -ge 500 ] || count=500
rows $count >"$dir/rows.jsonl"
id=$(mull submit annotate --model "$dir/model" --in "$dir/rows.jsonl" --out "$dir/out" --max-new-tokens 200 --ignore-eos)
until_true 400 ended "$id"
tries=$(mull show "$id" --json | sed -n 's/.*"attempt":\([0-9]*\).*/\1/p' | head -n 1)
lines=$(wc -l <"$dir/out/output.jsonl")
ids=$(grep -o '"custom_id": *"r[0-9]*"' "$dir/out/output.jsonl" | sort -u | wc -l)
[ "$lines" = "$count" ] && [ "$ids" = "$lines" ] || fail "$lines lines with $ids ids, not $count"
mull show "$id"
[ "$tries" -gt 1 ] || fail "the job ended within one allocation: nothing was given back ($tries attempt)"
mull show "$id" --json | grep -q '"class":"infra"' && fail "an attempt was lost instead of given back"
until_true 60 none
echo "a job of $tries attempts outlived its allocations with every row once, and the pilots are gone"
