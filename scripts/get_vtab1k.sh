#!/usr/bin/env bash
# Fetches what the Hugging Face hub has of VTAB-1k (18 of its 19 tasks) and checks what is there:
#   DATA=data/vtab1k bash scripts/get_vtab1k.sh
# Called again it goes on where it was. Options behind the name go to `capaboost study check`, such as --tasks 'clevr_*'.
#   DATA  folder (default data/vtab1k); each set gets a folder of its own in it
#   SETS  hub ids (default: all that VTAB-1k's tasks are made of, tens of gigabytes)
# HF_TOKEN, HF_ENDPOINT and the like work as the hub's own program has them.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment

DATA="${DATA:-data/vtab1k}"
exact="bramtoula/vtab_cifar100 bramtoula/vtab_caltech101 bramtoula/vtab_patch_camelyon"
ordered=(clevr dmlab dsprites dtd eurosat kitti oxford_flowers102 oxford_iiit_pet resisc45 smallnorb sun397 svhn_cropped)
echo "To be asked for by hand: Diabetic Retinopathy Detection, a competition of Kaggle whose rules have to be accepted."
echo "Put VTAB-1k's lists (train800.txt, val200.txt, train800val200.txt, test.txt) and its images into $DATA/diabetic_retinopathy."
for set in ${SETS:-$exact "${ordered[@]/#/dpdl-benchmark/}"}; do
    echo "Fetching $set into $DATA/${set#*/}"
    "$root/.venv/bin/hf" download "$set" --repo-type dataset --local-dir "$DATA/${set#*/}"
done
"$root/.venv/bin/capaboost" study check --suite vtab1k --data "$DATA" "$@"
