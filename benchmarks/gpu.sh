#!/bin/sh
# The checks that need a CUDA device, and the figures that only one can give; six minutes at most.
#
#     sh benchmarks/gpu.sh [WHEELS_DIR]
#
# It expects a python3 with torch for CUDA, transformers, peft, scipy, rich, click, numpy, pytest
# and hypothesis. What else lmppl needs is taken from WHEELS_DIR, if one is named, into a
# temporary folder; nothing is downloaded. To fill it, where there is a network:
#
#     python3 -m pip download --no-deps --only-binary=:all: -d WHEELS_DIR \
#         lark pyro-ppl pyro-api vaderSentiment interegular arviz-stats
#
# Results go to $OUT, or to ./gpu-results. Every step has its own time limit and may fail alone.
set -u
cd "$(dirname "$0")/.." || exit 1
out=${OUT:-$PWD/gpu-results}
mkdir -p "$out"
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false PYTHONPATH="$PWD"
failures=0

step() { # step NAME SECONDS COMMAND...
    name=$1 limit=$2
    shift 2
    echo "=== $name"
    if timeout "$limit" "$@" >"$out/$name.log" 2>&1; then
        echo "=== $name: done"
    else
        echo "=== $name: failed with $?"
        failures=$((failures + 1))
    fi
    tail -n "${LINES_SHOWN:-60}" "$out/$name.log"
}

if [ $# -ge 1 ]; then
    site=$(mktemp -d)
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir \
        --target "$site" "$1"/*.whl || exit 1
    PYTHONPATH="$PYTHONPATH:$site"
fi

LINES_SHOWN=4 step machine 30 python3 -c '
import platform, peft, pyro, torch, transformers
print("python", platform.python_version(), "torch", torch.__version__, "transformers",
      transformers.__version__, "peft", peft.__version__, "pyro", pyro.__version__)
print(torch.cuda.get_device_name(), torch.cuda.get_device_properties(0))'
LINES_SHOWN=30 step tests 70 python3 -m pytest -m cuda -p no:cacheprovider -W default tests/laws
step figures 130 python3 benchmarks/gpu.py table agreement profile --out "$out"
LINES_SHOWN=40 step compiled 90 python3 benchmarks/gpu.py compiled --out "$out"
LINES_SHOWN=40 step bench 40 python3 benchmarks/gpu.py bench --sizes 256 --out "$out"
echo "=== $failures steps failed; all output is in $out"
exit "$failures"
