#!/usr/bin/env bash
# Makes results/policies, which docs/policies.md reports: hours on two cores. Each stage keeps what it finished.
#
#   scripts/policy_results.sh pools [POOLS] | table TASK [POLICIES] | seeds POLICY TASK [ARMS] | bench
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
RUN=.venv/bin/s2robot
OUT=results/policies
WORK=outputs/encoders # demonstrations and features are those of scripts/encoder_results.sh compare, where that has run
mkdir -p "$OUT"

compare() { # FOLDER of results/policies and arguments of `s2robot compare`; joins what is in that folder already
    local into="$OUT/$1" known=""
    [ ! -f "$into/report.json" ] || known="$into/report.json"
    rm -f "$WORK"/*.{png,mp4} # of another experiment in the same folder
    $RUN compare "${@:2}" "beside=[$known]" "out=$WORK"
    mkdir -p "$into"
    cp "$WORK"/{report.json,report.md,table.json} "$WORK"/*.{png,mp4} "$into"
}

rows() { # one table of all policies on test states, those of scripts/encoder_results.sh compare among them
    local tables=() path
    for path in results/encoders "$OUT"/*; do
        [ "$path" = "$OUT/pools" ] || [ ! -f "$path/table.json" ] || tables+=("$path/table.json")
    done
    .venv/bin/python - "${tables[@]}" >"$OUT/table.json.partial" <<'JOIN'
import json, sys
print(json.dumps([row for path in sys.argv[1:] for row in json.load(open(path))], indent=2))
JOIN
    mv "$OUT/table.json.partial" "$OUT/table.json"
}

pools() { compare pools experiment=pools "only=[${1:-}]"; } # how the token grid is read, on validation seeds

table() { # small policies on one of three tasks
    compare policies experiment=policies "experiment.tasks=[${1:?give a task}]" "only=[${2:-}]"
    rows
}

seeds() { # one policy on the arms of a task, three training seeds; bc_mlp's of pick_cube* are scripts/encoder_results.sh compare
    compare "${1:?give a policy}" experiment=encoders "experiment.policy=$1" "~experiment.recipe" "+experiment.recipe={stride:2}" \
        "experiment.tasks=[${2:?give a task}]" "only=[${3:-base,s2,large,fine,random,blind}]"
    rows
}

bench() { # cached features against the encoder inside every step
    $RUN bench train "store=$WORK/pick_cube/episodes" "cache=$WORK/cache" threads=2 out=outputs/bench_train
    cp outputs/bench_train/bench_train.json "$OUT"
}

case "${1:-}" in
pools | table | seeds | bench) "$@" ;;
*) sed -n 's/^#   //p' "$0" && exit 2 ;;
esac
