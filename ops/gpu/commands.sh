# Run by ops/gpu/check: the same tokens from `generate` on the CPU and on the GPU, greedy and sampled, in float32.
#   commands.sh MULL_ENGINE FOLDER
set -eu
e=$1 dir=$2
"$e" init --preset tiny --out "$dir/tiny"
for d in cpu cuda; do
    for how in "--temperature 0" "--temperature 0.8 --top-p 0.9 --seed 7" "--temperature 1 --top-k 40 --seed 8"; do
        # shellcheck disable=SC2086 # words
        "$e" generate --model "$dir/tiny" --prompt "one two three" --max-new-tokens 24 --ignore-eos --dtype f32 \
            --repetition-penalty 1.1 $how --device "$d"
        echo
    done >"$dir/$d.txt"
done
cmp "$dir/cpu.txt" "$dir/cuda.txt"
