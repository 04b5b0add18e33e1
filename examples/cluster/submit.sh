#!/usr/bin/env bash
# Submits a study to a running Ray cluster, and goes on with it when it is submitted again.
#
#   RAY_API_SERVER_ADDRESS=http://HEAD:8265 ./submit.sh /shared/study.yaml /shared/runs/study
#
# Study, data and results lie on storage that every node mounts at the same place. The packages are installed on every
# node before the study starts; on a cluster whose image holds them, leave --runtime-env-json out.
set -euo pipefail

study=$1
out=$2

ray job submit \
  --runtime-env-json '{"pip": ["finetricks[tune]==0.1.0"], "env_vars": {"HF_HOME": "/shared/huggingface"}}' \
  -- finetricks sweep "$study" --out "$out" --resume --address auto
