#!/usr/bin/env bash
# Breaks the code in one way after the other and demands that a test turns red each time.
#
#   tests/mutations/run.sh              every mutation
#   tests/mutations/run.sh 04 07        those whose names begin so
#   tests/mutations/run.sh --check      only whether every one still applies, in a second
#
# A mutation is a patch with a head of three lines: what it breaks, `Test:` the arguments of
# `cargo test` that must fail, and `Expect:` what the failure must say, so that it fails for the
# reason at hand. The tests must pass before, and a patch that no longer applies is an error.
# Numbers up to 20 are the design's list; the others show that each check can fail.
#
# The code is copied to a place of its own, so the working tree stays as it is; the copy's build is
# kept there for the next time. FTVM_MUTATIONS_DIR says where.
set -euo pipefail
export LC_ALL=C RUST_BACKTRACE=0

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
scratch=${FTVM_MUTATIONS_DIR:-${CARGO_TARGET_DIR:-$root/target}/mutations}
tree=$scratch/tree
log=$scratch/log
export CARGO_TARGET_DIR=$scratch/target

fail() {
    echo "$*" >&2
    exit 1
}

# Copies what git knows of, or would add, with its times, so that cargo builds only what changed.
copy_tree() {
    mkdir -p "$scratch"
    rm -rf "$tree"
    mkdir "$tree"
    (cd "$root" && git ls-files -z --cached --others --exclude-standard |
        xargs -0 -I{} sh -c 'test ! -e "$1" || cp -p --parents "$1" "$2"' _ {} "$tree")
    # What the last mutation built is newer than the files that it had changed.
    sed -n 's|^+++ b/||p' "$here"/*.patch | sort -u | (cd "$tree" && xargs touch)
}

# Runs the given tests in the copy; what they say goes to the log.
run() {
    (cd "$tree" && cargo test --quiet "$@") >"$log" 2>&1
}

# The copy may lie within a repository, whose top is not its own.
apply() {
    (cd "$tree" && GIT_CEILING_DIRECTORIES=$scratch git apply "$@")
}

head_line() {
    sed -n "s/^$1: //p" "$2" | head -n 1
}

check=
if [[ ${1:-} == --check ]]; then
    check=only
    shift
fi
selected=()
for patch in "$here"/*.patch; do
    name=$(basename "$patch" .patch)
    if [[ $# -eq 0 ]]; then
        selected+=("$patch")
    else
        for prefix in "$@"; do
            [[ $name != "$prefix"* ]] || selected+=("$patch")
        done
    fi
done
[[ ${#selected[@]} -gt 0 ]] || fail "no mutation is called so: $*"

stale=()
for patch in "${selected[@]}"; do
    (cd "$root" && git apply --check "$patch") || stale+=("$(basename "$patch" .patch)")
done
[[ ${#stale[@]} -eq 0 ]] || fail "these no longer apply: ${stale[*]}"
if [[ -n $check ]]; then
    echo "all ${#selected[@]} mutations apply"
    exit
fi

copy_tree
declare -A passed=()
for patch in "${selected[@]}"; do
    # Words of arguments, as in the patch's head.
    read -ra arguments <<<"$(head_line Test "$patch")"
    if [[ -z ${passed["${arguments[*]}"]:-} ]]; then
        echo "unchanged: cargo test ${arguments[*]}"
        run "${arguments[@]}" || { cat "$log" >&2; fail "fails without any mutation"; }
        passed["${arguments[*]}"]=yes
    fi
done

missed=0
printf '\n%-36s %-9s %s\n' mutation result 'what the test said'
for patch in "${selected[@]}"; do
    name=$(basename "$patch" .patch)
    expected=$(head_line Expect "$patch")
    read -ra arguments <<<"$(head_line Test "$patch")"
    apply "$patch"
    if run "${arguments[@]}"; then
        result=MISSED said="all is well"
    elif grep -q 'could not compile' "$log"; then
        result=BROKEN said="does not compile"
    elif said=$(grep -F -m 1 -e "$expected" "$log"); then
        result=caught
    else
        result=WRONG said="fails, but not with $expected"
    fi
    printf '%-36s %-9s %.100s\n' "$name" "$result" "$said"
    if [[ $result != caught ]]; then
        missed=$((missed + 1))
        tail -n 20 "$log" >&2
    fi
    apply --reverse "$patch"
done

[[ $missed -eq 0 ]] || fail "$missed of ${#selected[@]} mutations were not caught as they should be"
echo "all ${#selected[@]} mutations are caught"
