#!/bin/sh
# Every metric that ops/monitor names is one that the front door exposes, with its right suffix.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
known=$(sed -n -e 's/.*gauge(o, "\(mull_[a-z_]*\)".*/\1/p' -e 's/.*family(o, "\(mull_[a-z_]*\)".*/\1/p' \
    -e 's/.*counter(o, "\(mull_[a-z_]*\)".*/\1_total/p' "$root/scheduler/exposition.c")
[ "$(echo "$known" | wc -l)" -gt 15 ] || { echo "cannot read the names in scheduler/exposition.c" >&2; exit 1; }
bad=0
for file in "$root/ops/monitor/alerts.yml" "$root/ops/monitor/grafana.json"; do
    used=$(grep -v '^ *#' "$file" | grep -o 'mull_[a-z_]*' | sort -u)
    [ -n "$used" ] || { echo "$file names no metric" >&2; exit 1; }
    for name in $used; do
        echo "$known" | grep -qx "$name" || { echo "$file: the front door has no $name" >&2; bad=1; }
    done
done
exit $bad
