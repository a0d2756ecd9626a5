# Sourced by ops/gpu/check and ops/gpu/bench: finds or builds the programs ($programs), CUDA's libraries and the device.
# shellcheck shell=sh
cuda=${CUDA_HOME:-/usr/local/cuda}
[ -x "$cuda/bin/nvcc" ] && PATH=$cuda/bin:$PATH
pack=$root/build-gpu/pack
if [ -x "$pack/mull-engine" ]; then
    programs=$pack
else
    say "build-gpu/pack is not there (ops/gpu/pack makes it): building here"
    dir=$root/build-gpu log=$root/build-gpu.log
    # shellcheck disable=SC2046 # words
    if ! (cmake -S "$root" -B "$dir" -DCMAKE_BUILD_TYPE=Release -DMULL_ENGINE_ONLY=ON -DMULL_CUDA=ON \
        -DMULL_WITH_PARQUET=OFF -DMULL_WITH_GLOO=OFF "-DCMAKE_CUDA_ARCHITECTURES=native" -DMULL_DATA=tests/data \
        -DMULL_ORACLE=shared/oracle &&
        cmake --build "$dir" -j "$jobs" --target mull-engine $(gpu_tests)) >"$log" 2>&1; then
        grep -E 'error:|FAILED|CMake Error|not found' "$log" | head -n 10 >&2
        fail "the build failed" "$root" "the compiler's words are above" \
            "run ops/gpu/pack where the libraries' headers are and bring build-gpu/pack, or read $log"
    fi
    programs=$dir/pack-local
    mkdir -p "$programs"
    cp "$dir/bin/mull-engine" "$dir"/tests/engine_test_cuda_* "$programs/"
fi
# CUDA's libraries: the toolkit's, else those that came with a Python.
libs=$pack/lib
for d in "$cuda/lib64" "$cuda/targets/x86_64-linux/lib" \
    $(find / -xdev -name 'libcublasLt.so.1[23]' -not -path '/proc/*' 2>/dev/null | sed 's|/[^/]*$||'); do
    [ -e "$d/libcublasLt.so.13" ] || [ -e "$d/libcublasLt.so.12" ] || continue
    libs=$libs:$d
done
own_libs=${LD_LIBRARY_PATH:-} # for programs that are not ours
LD_LIBRARY_PATH=$libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
command -v nvidia-smi >/dev/null ||
    fail "no GPU here" ops/gpu "nvidia-smi is not installed" "run this on a machine with an NVIDIA GPU and its driver"
device=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -n 1)
[ -n "$device" ] || fail "no GPU here" ops/gpu "nvidia-smi names none" "look at nvidia-smi"
missing=$(ldd "$programs/mull-engine" | awk '/not found/ { print $1 }' | tr '\n' ' ')
[ -z "$missing" ] || fail "libraries are missing" "$programs/mull-engine" "not found: $missing" \
    "set LD_LIBRARY_PATH, or run ops/gpu/pack on a machine that has them and bring build-gpu/pack"
out=${OUT:-$root/ops/gpu}
