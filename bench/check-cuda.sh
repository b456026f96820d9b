#!/usr/bin/env bash
# Everything that needs a GPU, in one run: builds the CUDA backend, checks it, measures it, and PyTorch beside it.
#
#   bench/check-cuda.sh [--out DIR] [--device cuda[:N]] [STAGE ...]     npm run check:cuda -- [...]
#
# Stages, all of them where none is named: build resources ops oracles ln2 resume model sanitize gemm few-rows attention memory train generate peers.
# resources lists the kernels that spill registers, and needs cuobjdump (CUDA's, or pip install nvidia-cuda-cuobjdump) but no GPU.
# Needs a compiler, CMake and nvcc; python3 with torch for peers, and trl where that is to be measured; no Node. A stage that fails does not stop the others. In DIR
# (default: build-cuda/report): summary.txt, summary.json, and a log a stage.
# RLHI_CUDA_ARCHITECTURES: GPUs to build for (default: this one's, or 90a). RLHI_SHARED: where oracles/ lies. RLHI_CUDA_TRAIN and
# RLHI_CUDA_GENERATE: shapes to measure (default "135m 1b 8b 8b-compact 8b-host" and "135m 8b").
set -uo pipefail
cd "$(dirname "$0")/.."

root=$PWD
build=$root/build-cuda
out=$build/report
device=cuda
stages=()
all=(build resources ops oracles ln2 resume model sanitize gemm few-rows attention memory train generate peers)
while [ $# -gt 0 ]; do
  case $1 in
    --out) mkdir -p "$2" && out=$(cd "$2" && pwd); shift 2 ;;
    --device) device=$2; shift 2 ;;
    -*) echo "check-cuda: unknown option $1" >&2; exit 2 ;;
    *) stages+=("$1"); shift ;;
  esac
done
[ ${#stages[@]} -gt 0 ] || stages=("${all[@]}")
mkdir -p "$out"
results=$out/results.jsonl
status=$out/status.jsonl
: > "$results"; : > "$status"; : > "$out/summary.txt"
failed=0

say() { echo "$*" | tee -a "$out/summary.txt"; }

# The GPU's own architecture; 90a where it cannot be asked.
architectures() {
  if [ -n "${RLHI_CUDA_ARCHITECTURES:-}" ]; then echo "${RLHI_CUDA_ARCHITECTURES// /;}"; return; fi  # CMake parts a list by semicolons
  local capability
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d '. ')
  case $capability in
    8?) echo 80 ;;
    90|'') echo 90a ;;
    *) echo 100 ;;
  esac
}

build_all() {
  cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DRLHI_CUDA=on -DRLHI_BUILD_TESTS=ON -DRLHI_WERROR=ON -DRLHI_CUDA_ARCHITECTURES="$(architectures)" &&
    cmake --build "$build" --parallel "$(nproc)" && no_loss_of_performance
}
# Not without -q: grep does not read the file it writes to, and this is the stage's log.
no_loss_of_performance() {
  ! grep -q "Potential Performance Loss" "$out/build.log" || { echo "ptxas says 'Potential Performance Loss' of a kernel: see the lines that do in $out/build.log"; return 1; }
}

# Kernels with a stack frame, which is where registers spill, by architecture.
resources() {
  command -v cuobjdump > /dev/null || { echo "cuobjdump is not installed: pip install nvidia-cuda-cuobjdump"; return 1; }
  cuobjdump --dump-resource-usage "$build/librlhi_cuda.so" > "$out/resources.txt" || return 1
  c++filt < "$out/resources.txt" | awk '
    /^arch = / { arch = $3 }
    / Function / { name = $0; sub(/.*Function (void )?/, "", name); gsub(/rlhi::ops::cuda::|\(anonymous namespace\)::/, "", name); sub(/\(.*/, "", name) }
    /REG:/ { kernels[arch]++; match($0, /STACK:[0-9]+/); stack = substr($0, RSTART + 6, RLENGTH - 6); if (stack > 0) print arch ": " name ": " stack " bytes a thread" }
    END { for (a in kernels) print a ": " kernels[a] " kernels" }'
}

tests() { "$build/rlhi_native_tests" --device "$device" "$@"; }
# The backward of attention has two forms of kernels, of which a trial chooses: both are tested, each by itself and first, and measured.
each_form() { for form in uniform specialized; do RLHI_CUDA_ATTENTION_BACKWARD=$form "$@" || { echo "attention's backward, $form: failed"; return 1; }; done; }
operations() {
  each_form timeout 60 "$build/rlhi_native_tests" --device "$device" "ops test: attention_backward" &&
    tests "ops test:" "ops grad:" "repeated work:" gemm: choose_tokens: linear_logprob: adamw "attention: one token" "conversion to bf16" "sums over rows" \
      "operations on no rows"
}
attention() { measure attention && each_form measure attention; }
measure() { for name in "$@"; do "$build/rlhi_cuda_bench" "$name" --device "$device" --json "$results" || return 1; done; }

peers() {
  python3 -u bench/peers/cuda_torch.py --json "$results" || return 1
  ! python3 -c "import trl" 2> /dev/null || python3 -u bench/peers/cuda_trl.py --json "$results"
}

# The checker's own report decides: a skipped error would still end in exit code 0. Races are looked for in our kernels alone: it reports hazards
# within cuBLASLt's, which keep order by means that it does not see.
sanitize() {
  command -v compute-sanitizer > /dev/null || { echo "compute-sanitizer is not installed"; return 1; }
  local tool
  for tool in "memcheck" "racecheck --kernel-name kns=rlhi"; do
    echo "== $tool"
    # shellcheck disable=SC2086
    RLHI_CUDA_ATTENTION_BACKWARD=specialized compute-sanitizer --tool $tool --error-exitcode 9 "$build/rlhi_native_tests" --device "$device" \
      "ops test: attention" "attention: one token" "ops test: rms_norm" "ops test: swiglu" "ops test: rope" "ops test: scatter_add" \
      "linear_logprob: the same" "adamw on bf16" "gemm: few rows" "choose_tokens: every backend" "ops test: preference_loss" "repeated work:" "trainer: metrics are means" "generator: stop tokens end" || return 1
  done
}

# run STAGE SECONDS COMMAND...: with a log of its own; its last lines go to the summary where it fails.
run() {
  local stage=$1 limit=$2 begin end code
  shift 2
  begin=$(date +%s)
  if [ "$(type -t "$1")" = function ]; then
    export build root device results out
    export -f "$1" tests each_form measure peers architectures no_loss_of_performance
    timeout "$limit" bash -c 'set -uo pipefail; "$@"' _ "$@" > "$out/$stage.log" 2>&1
  else
    timeout "$limit" "$@" > "$out/$stage.log" 2>&1
  fi
  code=$?
  end=$(date +%s)
  echo "{\"stage\":\"$stage\",\"ok\":$([ $code = 0 ] && echo true || echo false),\"exit_code\":$code,\"seconds\":$((end - begin))}" >> "$status"
  if [ $code = 0 ]; then say "ok    $stage ($((end - begin)) s)"; else
    local why="exit code $code"
    [ $code != 124 ] || why="longer than its $limit s$([ "$stage" != build ] || echo ": run it again, it goes on")"
    say "FAIL  $stage ($((end - begin)) s, $why)"
    failed=1
  fi
  case $stage in
    resources|gemm|few-rows|attention|memory|train|generate|peers) tee -a "$out/summary.txt" < "$out/$stage.log" ;;
    build) [ $code = 0 ] || tail -n 40 "$out/$stage.log" | tee -a "$out/summary.txt" ;;
    *) grep -vE '^ok ' "$out/$stage.log" | tail -n 30 | tee -a "$out/summary.txt" ;;
  esac
}

gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -1)
say "check-cuda: ${gpu:-no GPU}; nvcc $(nvcc --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p'); $(date -u +%Y-%m-%dT%H:%MZ); stages: ${stages[*]}"
for stage in "${stages[@]}"; do
  case $stage in
    build) run build 400 build_all ;;
    resources) run resources 60 resources ;;
    ops) run ops 300 operations ;;
    oracles) run oracles 200 tests oracle: "generator: greedy" ;;
    ln2) run ln2 100 tests "trainer: with policy = reference" ;;
    resume) run resume 100 tests "trainer: a run stopped" "trainer: the same step twice" ;;
    model) run model 300 tests trainer: transformer: score: generator: generation: saves: ;;
    sanitize) run sanitize 300 sanitize ;;
    attention) run attention 200 attention ;;
    gemm|few-rows|memory) run "$stage" 200 measure "$stage" ;;
    train) run train 400 measure $(printf 'train-%s ' ${RLHI_CUDA_TRAIN:-135m 1b 8b 8b-compact 8b-host}) ;;
    generate) run generate 200 measure $(printf 'generate-%s ' ${RLHI_CUDA_GENERATE:-135m 8b}) ;;
    peers) run peers 300 peers ;;
    *) say "FAIL  $stage: no such stage"; failed=1 ;;
  esac
done

list() { paste -sd, "$1"; }
echo "{\"gpu\":\"$gpu\",\"date\":\"$(date -u +%Y-%m-%dT%H:%M:%SZ)\",\"stages\":[$(list "$status")],\"results\":[$(list "$results")]}" > "$out/summary.json"
say "summary: $out/summary.txt, $out/summary.json"
exit $failed
