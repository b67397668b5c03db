#!/usr/bin/env bash
# Makes what docs/encoders.md reports, into results/encoders: hours on two cores. Each stage keeps what it finished.
#
#   scripts/encoder_results.sh probe | curves | objectives | zoo | bench REFERENCE_CHECKOUT | compare TASK [ARMS]
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

probe() { # new, first and random weights under every arm; reconstruction of large's tokens, large at two scales as ceiling
    first_weights
    local all="s2_unpooled,fine_unpooled," arm weights success=null
    [ ! -f "$OUT/compare.json" ] || success="$OUT/compare.json"
    for arm in base s2 large fine; do
        weights=vit_tiny_112
        [ "$arm" = large ] && weights=vit_small_128
        all+="$arm,{${arm}_first:{encoder:$arm,path:$FIRST/$weights}},{${arm}_random:{encoder:$arm,weights:random}},"
    done
    $RUN probe "encoders=[${all%,}]" target=large "ceiling={large_s2:{encoder:large,sizes:[128,256]}}" "success=$success" frame_px=256 out=outputs/probe
    cp outputs/probe/{probe.json,probe.png,reconstruction.json} "$OUT"
    [ ! -f outputs/probe/correlation.json ] || cp outputs/probe/correlation.json "$OUT"
}

curves() { # what position finds along the pre-training of both sizes, which is done first where it was not
    local tiny=outputs/pretrain/vit_tiny_112 small=outputs/pretrain/vit_small_128
    $RUN pretrain keep_every=1000 "out=$tiny"
    $RUN pretrain pretrain@model=vit_small_128 keep_every=1000 "out=$small"
    $RUN probe "runs=[{base:{encoder:base,run:$tiny}},{s2:{encoder:s2,run:$tiny}},{large:{encoder:large,run:$small}}]" \
        tasks=[pick_cube_small] probes=[position,segmentation,depth] out=outputs/curves
    cp outputs/curves/{curves.json,curves.png} "$OUT"
}

objectives() { # one short pre-training per objective, and one that sees both scales; what position then finds
    local work=outputs/objectives steps=1500 name
    for name in dense mae dense_mae; do
        $RUN pretrain "objective=$name" "steps=$steps" "keep_every=$steps" "out=$work/$name"
    done
    $RUN pretrain "scales=[1,2]" frame_px=448 frames_dir=outputs/pretrain/frames_448 "steps=$steps" "keep_every=$steps" "out=$work/scales"
    $RUN probe "encoders=[$(for name in dense mae dense_mae scales; do
        printf '{%s:{encoder:s2,path:%s}},' "s2_$name" "$work/$name/weights"
    done | sed 's/,$//')]" tasks=[pick_cube_small] probes=[position,segmentation,depth] "out=$work/probe"
    cp "$work/probe/probe.json" "$OUT/objectives.json"
    cp "$work/probe/probe.png" "$OUT/objectives.png"
}

zoo() { $RUN encoders match=dinov2_large out="$OUT/zoo.json"; }

bench() { $RUN bench encoder reference="${1:?give a checkout of github.com/bfshi/scaling_on_scales}" threads=2 out="$OUT/bench_cpu.json"; }

compare() { # one task of three, three training seeds; all twelve arms or those given; joins what compare.json has already
    first_weights
    local known="" arms=()
    [ ! -f "$OUT/compare.json" ] || known="$OUT/compare.json"
    [ -z "${2:-}" ] || arms=("experiment.arms=$2")
    $RUN compare experiment=encoders "experiment.tasks=[${1:?give a task}]" "${arms[@]}" "beside=[$known]" out=outputs/encoders
    cp outputs/encoders/report.json "$OUT/compare.json"
    cp outputs/encoders/{report.md,*.png,*.mp4} "$OUT"
}

case "${1:-}" in
probe | curves | objectives | zoo | bench | compare) "$@" ;;
*) sed -n 's/^#   //p' "$0" && exit 2 ;;
esac
