# The demo that learns, for ops/quickstart: a tiny model with random weights learns to read small pictures in stages
# (ops/configs/demo), each a job of kind train that waits for the one before, and is asked unseen puzzles after each of
# them, as jobs of kind eval. Sourced; uses $bin, $root and $demo. What is done and unchanged is not done again.
# shellcheck shell=sh disable=SC2154
stages="sft stage1 stage2" # a further stage is a recipe in ops/configs/demo and its name here
kinds="bigger side count maze"
train_puzzles=6000 hint_puzzles=2000 test_puzzles=400 # the last begin at index 1000000, which training never draws

# Everything that a result follows from, as a number: texts on the command line and files on stdin.
digest() { { printf '%s\n' "$@"; cat; } | cksum | tr ' ' -; }
# is_done FOLDER KEY: was it finished with this key?
is_done() { [ "$(cat "$1/.done" 2>/dev/null)" = "$2" ]; }
# The number of a recipe's steps
steps() { sed -n 's/^max_steps: *\([0-9]*\).*/\1/p' "$root/ops/configs/demo/$1.yaml"; }
# The checkpoint that a stage ends with
checkpoint() { if [ "$1" = start ]; then echo "$demo/start"; else echo "$demo/$1/checkpoint-$(steps "$1")"; fi; }

# The pictures, in the three layouts that the release trains on, and the unseen ones. Sets $mix, what recipes need when
# this build cannot write parquet.
demo_data() {
    mix=''
    if ! is_done "$demo/data" "$train_puzzles $hint_puzzles $test_puzzles"; then
        rm -rf "$demo/data"
        mkdir -p "$demo/data"
        "$bin/mull-engine" puzzles --layout videor1 --out "$demo/data/videor1" --seed 1 --count "$train_puzzles" >/dev/null
        "$bin/mull-engine" puzzles --layout puzzles --out "$demo/data/unseen" --seed 1 --first 1000000 \
            --count "$test_puzzles" >/dev/null
        for l in sat zebra; do
            "$bin/mull-engine" puzzles --layout "$l" --out "$demo/data/$l" --seed 1 --count "$hint_puzzles" \
                >/dev/null 2>"$demo/data/$l.log" || { rm -rf "$demo/data/sat"; break; }
        done
        echo "$train_puzzles $hint_puzzles $test_puzzles" >"$demo/data/.done"
    fi
    if ! [ -f "$demo/data/sat/SAT_train.parquet" ]; then
        say "   (no parquet in this build: trained on the Video-R1 layout alone, without hints as images)"
        mix='--set mix_datas.VideoR1=1'
    fi
}

# train STAGE FROM: submits it unless it is done. $last is the job that it waits for; $key what it follows from.
train() {
    key=$(digest "$key" "$mix" <"$root/ops/configs/demo/$1.yaml")
    if is_done "$demo/$1" "$key"; then
        last=''
        return
    fi
    rm -rf "${demo:?}/$1" "$demo/asked/$1".*
    # shellcheck disable=SC2086 # words
    last=$("$bin/mull" submit train "$root/ops/configs/demo/$1.yaml" --name "puzzles-$1" --out "$demo/$1" \
        --set "model_path=$(checkpoint "$2")" --set "video_r1_location=$demo/data/videor1/Video-R1-COT-165k.json" \
        --set "sat_location=$demo/data/sat" --set "zebracot_location=$demo/data/zebra" $mix \
        ${last:+--after "afterok:$last"})
    pending="$pending $1=$last=$key"
}

# ask STAGE off|on: the unseen puzzles, without or with latents before the answer.
ask() {
    case $2 in off) mode=none ;; *) mode=mmlatent2 ;; esac
    askkey=$(digest "$key" "$2" </dev/null)
    if is_done "$demo/asked/$1.$2" "$askkey"; then return; fi
    rm -rf "$demo/asked/$1.$2"
    mkdir -p "$demo/asked"
    # As the samples of training are rendered: every message whole, pictures as they were drawn.
    id=$("$bin/mull" submit eval --name "puzzles-$1-$2" --model "$(checkpoint "$1")" --tasks puzzles \
        --data "$demo/data/unseen" --out "$demo/asked/$1.$2" --mode "$mode" --prompt-format chatml \
        --min-pixels 3136 --max-pixels 12544 ${last:+--after "afterok:$last"})
    pending="$pending asked/$1.$2=$id=$askkey"
}

# GRPO (ops/configs/puzzles): from $model, a short supervised start that leaves one kind of puzzle at chance, then rewards
# alone on that kind, asked before and after.
reinforce() {
    rlkey=$(cat "$root/ops/configs/puzzles/sft.yaml" "$root/ops/configs/puzzles/grpo.yaml" | digest grpo "$test_puzzles")
    if is_done "$demo/rl" "$rlkey"; then return; fi
    rm -rf "$demo/rl" "$demo/asked/rl-sft.on" "$demo/asked/rl-grpo.on"
    mkdir -p "$demo/rl" "$demo/asked"
    "$bin/mull-engine" puzzles --out "$demo/rl/mix" --kinds side,bigger,count --count 4000 --seed 1 >/dev/null
    "$bin/mull-engine" puzzles --out "$demo/rl/bigger" --kinds bigger --count 4000 --seed 1 >/dev/null
    "$bin/mull-engine" puzzles --layout puzzles --out "$demo/rl/unseen" --kinds bigger --first 1000000 \
        --count "$test_puzzles" --seed 1 >/dev/null
    last='' from=$model
    for s in sft grpo; do
        set=mix n=40
        if [ "$s" = grpo ]; then set=bigger n=100; fi
        last=$("$bin/mull" submit train "$root/ops/configs/puzzles/$s.yaml" --name "puzzles-rl-$s" --out "$demo/rl/$s" \
            --set "model_path=$from" --set "video_r1_location=$demo/rl/$set/Video-R1-COT-165k.json" \
            ${last:+--after "afterok:$last"})
        from=$demo/rl/$s/checkpoint-$n
        id=$("$bin/mull" submit eval --name "puzzles-rl-$s-on" --model "$from" --tasks puzzles --data "$demo/rl/unseen" \
            --out "$demo/asked/rl-$s.on" --mode mmlatent2 --latents 4 --prompt-format chatml --min-pixels 3136 \
            --max-pixels 12544 --after "afterok:$last")
        pending="$pending asked/rl-$s.on=$id=$rlkey"
    done
    pending="$pending rl=$last=$rlkey"
}

# accuracy STAGE off|on KIND, in percent
accuracy() {
    share=$(tr -d ' \n' <"$demo/asked/$1.$2/results.json" | sed 's/.*"group_scores"://' |
        sed -n "s/.*\"$3\":{[^{}]*\"score\":\([0-9.e-]*\).*/\1/p")
    awk "BEGIN { printf \"%.0f\", 100 * ${share:-0} }"
}

demo_learns() {
    begun_demo=$(date +%s) pending='' last='' key=start
    mkdir -p "$demo"
    demo_data
    if ! [ -f "$demo/start/model.safetensors" ]; then
        rm -rf "$demo/start" "$demo/start.new"
        "$bin/mull-engine" init --preset demo --out "$demo/start.new" >/dev/null
        mv "$demo/start.new" "$demo/start"
    fi
    ask start off
    before=start
    for s in $stages; do
        train "$s" "$before"
        for m in off on; do ask "$s" "$m"; done
        before=$s
    done
    reinforce
    for p in $pending; do
        name=${p%%=*} id=${p#*=}
        "$bin/mull" wait "${id%%=*}" --quiet ||
            fail "a job of the demo failed" "$name" "job ${id%%=*} did not complete" "see: mull show ${id%%=*}"
        echo "${id#*=}" >"$demo/$name/.done"
    done
    {
        printf '\n   %% of %s unseen puzzles a kind; latents off and on\n' $((test_puzzles / 4))
        printf '   %-8s %7s %10s' kind chance untrained
        for s in $stages; do printf ' %13s' "$s off/on"; done
        echo
        for k in $kinds; do
            case $k in bigger | side) chance=50 ;; *) chance=25 ;; esac
            printf '   %-8s %7s %10s' "$k" "$chance" "$(accuracy start off "$k")"
            for s in $stages; do printf ' %13s' "$(accuracy "$s" off "$k") / $(accuracy "$s" on "$k")"; done
            echo
        done
        printf '\n   GRPO on "bigger" alone, %% of %s unseen: %s after 40 supervised steps, %s after 50 rounds of rewards\n' \
            "$test_puzzles" "$(accuracy rl-sft on bigger)" "$(accuracy rl-grpo on bigger)"
    } | tee "$demo/table.txt"
    if [ -n "$pending" ]; then say "   trained and asked in $(($(date +%s) - begun_demo)) s"; else say "   (trained before; remove $demo to train again)"; fi
}
