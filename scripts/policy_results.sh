#!/usr/bin/env bash
# Makes results/policies, which docs/policies.md reports: hours on two cores. Each stage keeps what it finished.
#
#   scripts/policy_results.sh pools | table | hard POLICY TASK | bench
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
RUN=.venv/bin/s2robot
OUT=results/policies
WORK=outputs/encoders # demonstrations and features are those of scripts/encoder_results.sh compare, where that has run
mkdir -p "$OUT"

compare() { # EXPERIMENT: one of configs/experiment
    $RUN compare "experiment=$1" "out=$WORK"
    mkdir -p "$OUT/$1"
    cp "$WORK"/report.{json,md} "$WORK"/table.json "$OUT/$1"
}

pools() { compare pools; } # how the token grid is read, on validation seeds

table() { # every small policy on three tasks
    compare policies
    cp "$OUT/policies/table.json" "$OUT/table.json"
}

hard() { # one policy on six arms of a hard task, three training seeds; bc_mlp's is scripts/encoder_results.sh compare
    local policy="${1:?give a policy}" task="${2:?give a task}"
    $RUN compare experiment=encoders "experiment.policy=$policy" "~experiment.recipe" "+experiment.recipe={stride:2}" "experiment.tasks=[$task]" \
        "experiment.arms=[base,s2,large,fine,random,blind]" "out=$WORK"
    mkdir -p "$OUT/$policy-$task"
    cp "$WORK"/report.{json,md} "$WORK"/table.json "$OUT/$policy-$task"
}

bench() { # cached features against the encoder inside every step
    $RUN bench train "store=$WORK/pick_cube/episodes" "cache=$WORK/cache" threads=2 out=outputs/bench_train
    cp outputs/bench_train/bench_train.json "$OUT"
}

case "${1:-}" in
pools | table | hard | bench) "$@" ;;
*) sed -n 's/^#   //p' "$0" && exit 2 ;;
esac
