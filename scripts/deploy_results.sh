#!/usr/bin/env bash
# Makes what docs/deployment.md reports, into results/deploy, from the lift policy of `make demo`: about 80 minutes on two cores
# that do nothing else.
#
#   scripts/deploy_results.sh export | latency | closed_loop | delay | chaos
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
RUN=.venv/bin/s2robot
OUT=results/deploy
STORE=outputs/demo/lift/episodes
CHECKPOINT=$(echo outputs/demo/lift/s2/seed0-*)
mkdir -p "$OUT"

export_() { # both precisions, on 500 states; int8, which runs on the robot, rolled out beside the checkpoint
    $RUN export checkpoint="$CHECKPOINT" store=$STORE out=outputs/bundles/lift_float32
    $RUN export checkpoint="$CHECKPOINT" store=$STORE out=outputs/bundles/lift_int8 precision=int8 rollouts=20000:20100
    cp outputs/bundles/lift_int8/closed_loop.json "$OUT/export.json"
}

bench() { # one of the measures, kept in outputs/deploy, where it goes on when it was interrupted
    $RUN bench deploy what="$1" bundles=[outputs/bundles/lift_int8,outputs/bundles/lift_float32] "${@:2}" out=outputs/deploy
    cp outputs/deploy/"$1".* "$OUT"
}

latency() { bench latency checkpoint="$CHECKPOINT" store=$STORE; }
closed_loop() { bench closed_loop; } # through a server, then in the loop's process
delay() { bench delay seeds=20000:20024; }
chaos() { bench chaos; }

case "${1:?give a stage: export, latency, closed_loop, delay or chaos}" in
export) export_ ;;
latency | closed_loop | delay | chaos) "$1" ;;
*) echo "unknown stage $1; see the top of this file" >&2 && exit 2 ;;
esac
