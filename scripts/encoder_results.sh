#!/usr/bin/env bash
# Makes what docs/encoders.md reports, into results/encoders: hours on two cores. Each stage keeps what it finished.
#
#   scripts/encoder_results.sh probe [ENCODERS [PROBES]] | reconstruct | capacity | curves | objectives | zoo | bench REFERENCE_CHECKOUT | compare TASK [ARMS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
RUN=.venv/bin/s2robot
OUT=results/encoders
FIRST=outputs/first_weights # the embedded weights of the first release, from the history
mkdir -p "$OUT"

first_weights() {
    [ -d "$FIRST" ] && return
    rm -rf "$FIRST.partial" && mkdir -p "$FIRST.partial"
    git archive 92d50c2:s2robot/encoders/weights | tar -x -C "$FIRST.partial"
    mv "$FIRST.partial" "$FIRST"
}

entries() { # encoders' names as entries of a list: ARM_first and ARM_random are an arm with other weights; s2's is random
    local name arm weights
    for name in "$@"; do
        arm=${name%_*} weights=vit_tiny_112
        [ "$arm" != large ] || weights=vit_small_128
        case "$name" in
        *_first) printf '{%s:{encoder:%s,path:%s}},' "$name" "$arm" "$FIRST/$weights" ;;
        *_random) printf '{%s:{encoder:%s,weights:random}},' "$name" "$arm" ;;
        *) printf '%s,' "$name" ;;
        esac
    done | sed 's/,$//'
}

ask() { # ENCODERS PROBES and more arguments of `s2robot probe`; joins what probe.json has already
    first_weights
    local known="" success=null
    [ ! -f "$OUT/probe.json" ] || known="$OUT/probe.json"
    [ ! -f "$OUT/compare.json" ] || success="$OUT/compare.json"
    $RUN probe "encoders=[$(entries ${1//,/ })]" "probes=[$2]" "beside=[$known]" "success=$success" frame_px=256 "${@:3}" out=outputs/probe
    cp outputs/probe/{probe.json,probe.png,correlation.json} "$OUT"
}

probe() { # all encoders and probes, or those given
    local all="s2_unpooled,fine_unpooled,random,s2,s2_first" arm
    for arm in base large fine; do all+=",$arm,${arm}_first,${arm}_random"; done
    ask "${1:-$all}" "${2:-}"
}

reconstruct() { # of large's tokens, with large at two scales as ceiling
    ask base,s2,s2_unpooled,fine,fine_unpooled depth target=large "ceiling={large_s2:{encoder:large,sizes:[128,256]}}"
    cp outputs/probe/reconstruction.json "$OUT"
}

capacity() { # whole models memorise 1,000 frames
    ask base,s2,large,fine depth capacity=1000 # s2_unpooled and fine_unpooled have the mean tokens of s2 and fine
    cp outputs/probe/capacity.json "$OUT"
}

curves() { # what position finds along the pre-training of both sizes, which is done first where it was not
    local tiny=outputs/pretrain/vit_tiny_112 small=outputs/pretrain/vit_small_128
    $RUN pretrain keep_every=1000 "out=$tiny"
    $RUN pretrain pretrain@model=vit_small_128 keep_every=1000 "out=$small"
    $RUN probe "runs=[{base:{encoder:base,run:$tiny}},{s2:{encoder:s2,run:$tiny}},{large:{encoder:large,run:$small}}]" \
        tasks=[pick_cube_small] probes=[position,segmentation,depth] out=outputs/curves
    cp outputs/curves/{curves.json,curves.png} "$OUT"
}

objectives() { # short pre-trainings: one per objective; two scales against one on the same frames; what position then finds
    local work=outputs/objectives steps=1500 name
    short() { $RUN pretrain frames=8000 keep_every=0 "out=$work/$1" "${@:2}"; }
    for name in dense mae dense_mae; do
        short "$name" "objective=$name" "steps=$steps" "frames_dir=$work/frames"
    done
    local fine=(frame_px=448 "frames_dir=$work/frames_448")
    short two "${fine[@]}" "scales=[1,2]" "steps=$steps"
    short one "${fine[@]}" "steps=$steps"              # as many samples
    short one_long "${fine[@]}" "steps=$((5 * steps))" # as much compute: two scales are five tiles a sample
    $RUN probe "encoders=[$(for name in dense mae dense_mae two one one_long; do
        printf '{%s:{encoder:s2,path:%s}},' "s2_$name" "$work/$name/weights"
    done | sed 's/,$//')]" tasks=[pick_cube_small] probes=[position,segmentation,depth] "out=$work/probe"
    cp "$work/probe/probe.json" "$OUT/objectives.json"
    cp "$work/probe/probe.png" "$OUT/objectives.png"
}

zoo() { $RUN encoders match=dinov2_large out="$OUT/zoo.json"; }

bench() { $RUN bench encoder reference="${1:?give a checkout of github.com/bfshi/scaling_on_scales}" threads=2 out="$OUT/bench_cpu.json"; }

compare() { # one task of three, three training seeds; all twelve arms or those given; joins what compare.json has already
    first_weights
    local known=""
    [ ! -f "$OUT/compare.json" ] || known="$OUT/compare.json"
    rm -f outputs/encoders/*.{png,mp4} # of another experiment in the same folder
    $RUN compare experiment=encoders "experiment.tasks=[${1:?give a task}]" "only=[${2:-}]" "beside=[$known]" out=outputs/encoders
    cp outputs/encoders/report.json "$OUT/compare.json"
    cp outputs/encoders/{report.md,table.json,*.png,*.mp4} "$OUT"
}

case "${1:-}" in
probe | reconstruct | capacity | curves | objectives | zoo | bench | compare) "$@" ;;
*) sed -n 's/^#   //p' "$0" && exit 2 ;;
esac
