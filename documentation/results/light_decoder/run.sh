#!/usr/bin/env bash
# spark's light decoder against nnU-Net's at equal time, on Hippocampus with five labelled cases. Every arm pretrains for
# as long as the arm "unet" takes for STEPS steps, by the measured time of a step; then all are fine-tuned alike, with a fresh
# decoder. Stop and repeat as you like.
#   run.sh [STUDY_FOLDER]        STEPS=2000 SEEDS="0 1 2 3 4" DEVICE=cpu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
out=${1:-light_decoder_study}
steps=${STEPS:-2000}
seeds=${SEEDS:-0 1 2 3 4}
hippocampus_2mm

spark=(--set mask_ratio=0.6 --set executor=tiles)
arm_unet=(--set decoder_type=unet)
arm_light=(--set decoder_type=light)
arm_stopped=(--set decoder_type=light --set light_stop=1)

# What a step takes: the other arms against the first, in turns.
mkdir -p "$out"
for arm in light stopped; do
    against=()
    declare -n other="arm_$arm"
    for word in "${other[@]}"; do [ "$word" = --set ] || against+=(--against "$word"); done
    [ -f "$out/time_$arm.json" ] || nnssl_benchmark -d 4 -c 3d_fullres -m spark "${spark[@]}" --set batch_size=4 "${arm_unet[@]}" \
        "${against[@]}" --no-data --rounds 11 --steps 10 -device "$device" --json "$out/time_$arm.json"
done

for arm in unet light stopped; do
    count=$(python "$here/equal_steps.py" "$out" "$arm" "$steps")
    declare -n options="arm_$arm"
    for seed in $seeds; do
        pretrain "$arm$seed" spark 20 $((count / 20)) 4 6e-3 "${spark[@]}" "${options[@]}" --set seed="$seed" --snapshots 0
    done
done
sed "s/^seeds: .*/seeds: [${seeds// /, }]/" "$here/study.yaml" > "$out/study.yaml"
study "$out/study.yaml" "$out/study"
