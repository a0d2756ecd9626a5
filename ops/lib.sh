# Shell functions that the scripts of ops/ share; sourced, not run. Sets $root (the checkout) and $jobs (CPUs).
# shellcheck shell=sh
root=$(cd "$(dirname "$0")/${up:-..}" && pwd)
jobs=$(nproc 2>/dev/null || echo 2)

say() { printf '%s\n' "$*" >&2; }
# fail WHAT WHERE WHY TODO [STATUS]: the one line of an error
fail() {
    printf 'error: %s (%s): %s; %s\n' "$1" "$2" "$3" "$4" >&2
    exit "${5:-1}"
}
# gpu_tests: the test programs that run on a GPU, as targets of the build and files of its folder tests
gpu_tests() { (cd "$root/tests/engine" && ls test_cuda_*.c) | sed 's/^/engine_/; s/\.c$//'; }
# build PRESET [CMAKE_FLAGS…]: configure when new, compile what changed ($targets only, if set). Quiet unless it fails.
build() {
    preset=$1
    shift
    mkdir -p "$root/build"
    log=$root/build/$preset.log
    say "building ($preset, $jobs jobs)"
    # shellcheck disable=SC2086 # words
    if ! (cd "$root" && cmake --preset "$preset" "$@" &&
        cmake --build --preset "$preset" -j "$jobs" ${targets:+--target $targets}) >"$log" 2>&1; then
        grep -E 'error:|FAILED|CMake Error' "$log" | head -n 20 >&2
        fail "the build failed" "preset $preset" "the compiler's words are above" "read the whole log in $log"
    fi
}
