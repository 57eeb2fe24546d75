#!/usr/bin/env bash
# What to run first on a machine with a GPU: at most eight minutes. It compares the kernel of adaptive drop
# (modeling/drop_kernel.py) with the reference, then times the fused term and, at the shape of a 7B model, a training step and
# an answer, all without and with that kernel. Results are in benchmarks/results, in files that end in _gpu and _gpu_triton,
# as soon as they are known; an interrupted run goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
END=$((SECONDS + 480))
left() { # seconds left; the last part of the time is not enough for a model of 7B
	local seconds=$((END - SECONDS))
	test $seconds -gt "${1:-0}" && echo $seconds || { echo "no time is left for $2" >&2; return 1; }
}

$PYTHON -c "import torch; assert torch.cuda.is_available(), 'this needs a GPU'"
timeout "$(left)" $PYTHON -m pytest -q tests/modeling/test_drop_kernel.py tests/modeling/test_fusion.py
for triton in 0 1; do
	export ADEM_VL_HF_TRITON=$triton
	timeout "$(left 20 'the fused term')" $PYTHON benchmarks/fusion_speed.py --repeats 9
	timeout "$(left 60 'a model of 7B')" $PYTHON benchmarks/efficiency.py --backbones random-7b --texts 256 \
		--batch-size 4 --arms adem_vl --repeats 3
done
export ADEM_VL_HF_TRITON=0
timeout "$(left 60 'other methods')" $PYTHON benchmarks/efficiency.py --backbones random-7b --texts 256 \
	--batch-size 4 --arms llava_lora lavin memvp --repeats 3
