#!/bin/bash
# preprocess.sh 500 8 --like 27        (dataset, parts, flags of the plan)
# Four steps, each waiting for the one before: measure in parts, plan, preprocess in parts, put together.
set -eu
dataset=$1
parts=$2
shift 2
last=$((parts - 1))
chosen=""    # -p and -c of the flags: what preprocesses must know the plans and the configurations, too
ours=no
for word in "$@"; do
    case $word in
        -p | -c | -p=* | -c=*) ours=yes ;;
        -*) ours=no ;;
    esac
    [ $ours = no ] || chosen="$chosen $word"
done
submit() { sbatch --parsable --requeue --cpus-per-task=8 --mem=64G --time=12:00:00 "$@"; }
# shellcheck disable=SC2016  # the job's variable, not this shell's
np='-np $SLURM_CPUS_PER_TASK'

measure=$(submit --array="0-$last" --wrap="nnssl_plan_and_preprocess -d $dataset $np --no_pp --shard \$SLURM_ARRAY_TASK_ID/$parts")
plan=$(submit --dependency="afterany:$measure" --wrap="nnssl_plan_and_preprocess -d $dataset $np --no_pp $*")
cases=$(submit --dependency="afterok:$plan" --array="0-$last" \
    --wrap="nnssl_plan_and_preprocess -d $dataset $np --only_pp$chosen --shard \$SLURM_ARRAY_TASK_ID/$parts")
submit --dependency="afterany:$cases" --wrap="nnssl_plan_and_preprocess -d $dataset $np --only_pp$chosen"
