#!/usr/bin/env bash
# spark's light decoder against nnU-Net's at equal time, on Hippocampus with five labelled cases. Every arm pretrains for
# as long as the arm "unet" takes for STEPS steps, by the measured time of a step; then all are fine-tuned alike, with a fresh
# decoder. Needs nnUNet_raw with Dataset004_Hippocampus, nnUNet_preprocessed and nnUNet_results.
# About six hours on two CPU cores with nothing else to do; stop and repeat as you like.
#   run.sh [STUDY_FOLDER]        STEPS=2000 SEEDS="0 1 2 3 4" DEVICE=cpu
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
nnUNet_extTrainer=$(nnssl_plugin_path)
export nnUNet_extTrainer nnUNet_compile=f
study=${1:-light_decoder_study}
steps=${STEPS:-2000}
seeds=${SEEDS:-0 1 2 3 4}
device=${DEVICE:-cpu}

nnssl_plan_and_preprocess -d 4 --size S --spacing 2 2 2 -c 3d_fullres
cp "$here/../recipe/splits_final.json" "$nnUNet_preprocessed/Dataset004_Hippocampus/splits_final.json"

common=(--set mask_ratio=0.6 --set batch_size=4 --set executor=tiles --set workers=0)
arm_unet=(--set decoder_type=unet)
arm_light=(--set decoder_type=light)
arm_stopped=(--set decoder_type=light --set light_stop=1)

# What a step takes: the other arms against the first, in turns.
mkdir -p "$study"
for arm in light stopped; do
    against=()
    declare -n other="arm_$arm"
    for word in "${other[@]}"; do [ "$word" = --set ] || against+=(--against "$word"); done
    [ -f "$study/time_$arm.json" ] || nnssl_benchmark -d 4 -c 3d_fullres -m spark "${common[@]}" "${arm_unet[@]}" \
        "${against[@]}" --no-data --rounds 11 --steps 10 -device "$device" --json "$study/time_$arm.json"
done

for arm in unet light stopped; do
    count=$(python "$here/equal_steps.py" "$study" "$arm" "$steps")
    declare -n options="arm_$arm"
    for seed in $seeds; do
        run=$nnUNet_results/Dataset004_Hippocampus/nnsslTrainer_SparK_${arm}${seed}__nnsslPlans__3d_fullres/fold_0
        [ -f "$run/encoder.pth" ] || nnssl_pretrain 4 3d_fullres -m spark -f 0 --name "$arm$seed" --epochs 20 \
            --iterations $((count / 20)) "${common[@]}" "${options[@]}" --set seed="$seed" --set val_iterations=4 \
            --snapshots 0 -device "$device"
    done
done

nnssl_study run "$here/study.yaml" -o "$study/study" -device "$device"
nnssl_study report "$study/study"
