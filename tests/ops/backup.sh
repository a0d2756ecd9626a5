#!/bin/sh
# A backup taken while jobs run, the machine lost, and the queue going on from the backup in an empty state folder.
# usage: backup.sh BIN_DIR SOURCE_DIR
set -eu
bin=$1 source=$2
command -v pg_dump >/dev/null || ls /usr/lib/postgresql/*/bin/pg_dump >/dev/null 2>&1 || { echo "skipped: pg_dump is not installed"; exit 77; }
dir=$(mktemp -d)
chmod 755 "$dir"
finish() {
    for s in a b; do "$bin/mull" down --state "$dir/$s" >/dev/null 2>&1 || true; done
    rm -rf "$dir"
}
trap finish EXIT
fail() { echo "$*"; "$bin/mull" ps -o wide || true; exit 1; }
unset MULL_SERVER
export PATH="$bin:$PATH" MULL_STATE="$dir/a"
state_of() { mull show "$1" --json | sed -n 's/.*"state":"\([A-Z_]*\)".*/\1/p' | head -n 1; }
mull-engine init --preset tiny --out "$dir/model" >/dev/null
mull up >"$dir/log" 2>&1 || { cat "$dir/log"; exit 1; }
printf '{"custom_id":"x","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[{"role":"user","content":"hi"}]}}\n' >"$dir/batch.jsonl"
upload=$(curl -s --unix-socket "$dir/a/run/scheduler.sock" -F purpose=batch -F "file=@$dir/batch.jsonl" http://mull/v1/files | sed -n 's/.*"id" *: *"\(file-[^"]*\)".*/\1/p')
[ -n "$upload" ] || fail "the upload was not taken"
mull submit generate --model "$dir/model" --prompt one --wait 2>/dev/null # 1: over before the backup
i=0
while [ $i -lt 1500 ]; do i=$((i + 1)); echo "{\"custom_id\":\"r$i\",\"messages\":[{\"role\":\"user\",\"content\":\"row $i\"}]}"; done >"$dir/rows.jsonl"
mull submit annotate --model "$dir/model" --in "$dir/rows.jsonl" --out "$dir/out" --max-new-tokens 100 --ignore-eos >/dev/null # 2: runs
mull submit generate --model "$dir/model" --prompt two >/dev/null                                                             # 3: waits
mull submit generate --model "$dir/model" --prompt three --hold >/dev/null                                                    # 4: held
i=0
until [ "$(state_of 2)" = RUNNING ] && [ -s "$dir/out/errors.jsonl" -o -d "$dir/out" ]; do i=$((i + 1)); [ $i -lt 300 ] || fail "job 2 does not run"; sleep 0.1; done
sleep 1
backup=$("$source/ops/backup" "$dir/backups") || fail "no backup"
[ "$(state_of 2)" = RUNNING ] || fail "the backup was to be of a running job"
"$source/ops/restore" --check "$backup" || fail "the fresh backup does not check"
mull submit generate --model "$dir/model" --prompt lost >/dev/null # 5: after the backup, so it is lost

# The machine is lost: everything is killed at once, the state is gone.
pids=$(cat "$dir"/a/pid/* | cut -d' ' -f1)
engines=$(for p in $pids; do ps -o pid= --ppid "$p" 2>/dev/null || true; done)
# shellcheck disable=SC2086 # words
kill -KILL $(cut -d' ' -f1 "$dir/a/pid/supervisor") $pids $engines 2>/dev/null || true
sleep 1
rm -rf "$dir/a"

export MULL_STATE="$dir/b"
damaged=$dir/damaged
cp -a "$backup" "$damaged"
printf x >>"$damaged/database.dump"
if "$source/ops/restore" "$damaged" 2>"$dir/log"; then fail "a damaged backup was taken"; fi
grep -q "damaged" "$dir/log" || fail "a damaged backup is not named: $(cat "$dir/log")"
[ ! -e "$dir/b" ] || fail "a damaged backup started something"
"$source/ops/restore" "$backup" || fail "the restore failed"
i=0
until [ "$(state_of 2)" = COMPLETED ] && [ "$(state_of 3)" = COMPLETED ]; do
    i=$((i + 1))
    [ $i -lt 180 ] || fail "the queue does not go on"
    sleep 1
done
[ "$(state_of 1)" = COMPLETED ] && [ "$(state_of 4)" = PENDING ] || fail "jobs 1 and 4 are not as they were"
mull release 4 && mull wait 4 --quiet || fail "the held job does not run"
mull audit verify >"$dir/log" 2>&1 || fail "the audit does not fit after the restore: $(cat "$dir/log")"
mull audit ls | grep -q ' restore ' || fail "the audit does not tell of the restore"
[ "$(wc -l <"$dir/out/output.jsonl")" = 1500 ] || fail "$(wc -l <"$dir/out/output.jsonl") rows, not 1500"
[ "$(grep -o '"custom_id": *"r[0-9]*"' "$dir/out/output.jsonl" | sort -u | wc -l)" = 1500 ] || fail "rows are missing or doubled"
id=$(mull submit generate --model "$dir/model" --prompt new)
[ "$id" -gt 100000 ] || fail "the id $id may have been used in the lost time"
mull wait "$id" --quiet || fail "a new job does not run"
curl -s --unix-socket "$dir/b/run/scheduler.sock" "http://mull/v1/files/$upload/content" | cmp - "$dir/batch.jsonl" || fail "the upload is not there"
if "$source/ops/restore" "$backup" 2>"$dir/log"; then fail "a queue with jobs was overwritten"; fi
grep -q "there are jobs in it" "$dir/log" || fail "wrong words: $(cat "$dir/log")"
"$source/ops/restore" --replace "$backup" || fail "--replace failed"
i=0
until mull ps >/dev/null 2>&1; do i=$((i + 1)); [ $i -lt 60 ] || fail "the scheduler does not come back"; sleep 1; done
mull audit verify >"$dir/log" 2>&1 || fail "the audit does not fit after --replace: $(cat "$dir/log")"
case $(state_of 2) in RUNNING | PENDING | COMPLETED) ;; *) fail "after --replace job 2 is lost" ;; esac
[ -z "$(mull ps --json | grep "\"id\":\"$id\"")" ] || fail "--replace kept a job that the backup does not have"
"$source/ops/backup" --keep 1 "$dir/backups" >/dev/null
[ "$(ls -d "$dir"/backups/mull-* | wc -l)" = 1 ] || fail "--keep 1 kept more"
echo "the queue went on from its backup: every row once, nothing lost that was in it"
