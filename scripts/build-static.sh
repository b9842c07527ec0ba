#!/usr/bin/env bash
# Builds the release binary that runs on any x86_64 Linux:
#
#   target/dist/cloacinactl-VERSION-x86_64-linux-musl            fully static, stripped
#   target/dist/cloacinactl-VERSION-x86_64-linux-musl.sha256     for `sha256sum -c` in that directory
#
# Its path is printed. The same source and the same compiler give the same bytes, wherever the source lies.
#
# Where the compiler has the musl target (`rustup target add x86_64-unknown-linux-musl`), that and musl-gcc are used.
# Where it has not, because the machine reaches no toolchain server, the standard library is built from source
# with Debian's rustc and linked with zig, which carries musl and an unwinder: Debian's musl is too old to ask again
# over TCP after a truncated DNS answer, and Debian has no unwinder for it. The two ways give different bytes.
#
# usage: scripts/build-static.sh [--check-reproducible]
set -euo pipefail
. "$(dirname "$0")/lib.sh"

readonly target=x86_64-unknown-linux-musl
# 6.5 MiB.
max_bytes=$((13 * 1024 * 1024 / 2))
# One zig for everybody: its musl and its linker end up in the bytes. Later ones have their own allocator and more
# of their own in place of musl's; a newer one is worth its test under load.
readonly zig_version=0.15.2
readonly zig_sha256=806316453d1ede7174ed3fefb8e5348154629089c3bb5fe812dfd0e172fac130

# With --check-reproducible: the directory of the other build, and the process that builds there.
other=
other_build=

say() {
    printf 'build-static: %s\n' "$*" >&2
}

main() {
    local check_reproducible=no
    case "$*" in
        "") ;;
        --check-reproducible) check_reproducible=yes ;;
        *) misused "unknown argument $*" ;;
    esac
    [[ "$(uname -s) $(uname -m)" == "Linux x86_64" ]] || fail "this builds on x86_64 Linux only"

    root=$(pwd -P)
    work=$root/target/static
    mkdir -p "$work" "$root/target/dist"
    local version
    version=$(sed -n '/^\[package\]/,/^\[[^p]/s/^version *= *"\(.*\)"$/\1/p' "$root/Cargo.toml")
    [[ -n $version ]] || fail "no version in Cargo.toml"

    # Whatever embeds a time embeds this one. It is the same for every commit: cargo does not build anew what has embedded
    # another one, so two builds of the same commit would differ where one of them had been built before.
    export SOURCE_DATE_EPOCH=0

    choose_compiler
    # Cargo does not see that a linker has changed, so every zig has its own directory.
    local directory=build
    [[ $from_source == no ]] || directory+=-zig-$zig_version
    local built=$work/$directory/$target/release/cloacinactl
    local cargo_home=${CARGO_HOME:-$HOME/.cargo}
    if [[ $check_reproducible == yes ]]; then
        other=$(mktemp -d)
        trap stop_other EXIT
        say "building in $other too"
        tar -C "$root" --exclude=./target --exclude=./.git -cf - . | tar -C "$other" -xf -
        mkdir -p "$cargo_home"
        ln -s "$(cd "$cargo_home" && pwd)" "$other/cargo-home"
        # At the same time, since most of a build is one thread; a process group of its own, so that all of it ends.
        set -m
        build "$other" "$other/target/$directory" "$other/cargo-home" >"$other/said" 2>&1 &
        other_build=$!
        set +m
    fi
    build "$root" "$work/$directory" "$cargo_home"
    check "$built" "$version"
    if [[ $check_reproducible == yes ]]; then
        wait "$other_build" || { cat "$other/said" >&2 && fail "the build in $other failed"; }
        other_build=
        cmp "$built" "$other/target/$directory/$target/release/cloacinactl" || fail "two builds of the same source differ"
        say "two builds in two directories are the same"
    fi

    local name=cloacinactl-$version-x86_64-linux-musl
    install -m 0755 "$built" "$root/target/dist/$name"
    (cd "$root/target/dist" && sha256sum "$name" > "$name.sha256" && sha256sum -c --quiet "$name.sha256")
    say "target/dist/$name: $(stat -c %s "$built") bytes, sha256 $(cut -d' ' -f1 "$root/target/dist/$name.sha256")"
    echo "$root/target/dist/$name"
}

stop_other() {
    if [[ -n $other_build ]]; then
        kill -- "-$other_build" 2>/dev/null || :
        wait "$other_build" || :
    fi
    rm -rf "$other"
}

# Sets rustc, cargo, sysroot and from_source.
choose_compiler() {
    scripts/install-tools.sh readelf
    if command -v rustc >/dev/null && command -v cargo >/dev/null; then
        rustc=$(command -v rustc)
        cargo=$(command -v cargo)
        sysroot=$("$rustc" --print sysroot)
        if [[ -d $sysroot/lib/rustlib/$target/lib ]]; then
            from_source=no
            # 6.75 MiB: its standard library is made to be fast, and has what is left out below.
            max_bytes=$((27 * 1024 * 1024 / 4))
            scripts/install-tools.sh musl-gcc
            say "using $("$rustc" --version) and its $target"
            return
        fi
    fi
    from_source=yes
    # Always Debian's three together: a standard library compiles only with the compiler it was released with.
    scripts/install-tools.sh rustc-web cargo-web rust-web-src pip \
        || fail "install these by hand, or run \`rustup target add $target\`"
    rustc=/usr/bin/rustc
    cargo=/usr/bin/cargo
    sysroot=$("$rustc" --print sysroot)
    [[ -d $sysroot/lib/rustlib/src/rust/library ]] || fail "$rustc has no standard library source in $sysroot"
    say "no $target installed: using $("$rustc" --version), its standard library from source, and zig $zig_version"
    fetch_zig
}

# zig comes as a Python wheel; it is unpacked beside the build and used from there, nothing is installed.
fetch_zig() {
    zig=$work/zig-$zig_version/ziglang/zig
    [[ ! -x $zig ]] || return 0
    rm -rf "$work/zig-$zig_version"
    echo "ziglang==$zig_version --hash=sha256:$zig_sha256" > "$work/zig.txt"
    PIP_ROOT_USER_ACTION=ignore python3 -m pip --quiet --disable-pip-version-check install --no-deps \
        --only-binary :all: --require-hashes --requirement "$work/zig.txt" --target "$work/zig-$zig_version" \
        || fail "cannot get ziglang $zig_version with pip"
    [[ -x $zig ]] || fail "ziglang $zig_version holds no zig"
}

# build SOURCE TARGET_DIR CARGO_HOME
build() {
    local source=$1 target_dir=$2 cargo_home=$3 crates flags args=()
    mkdir -p "$target_dir"
    export CARGO_HOME=$cargo_home
    # The crates must lie unpacked before their directories can be named below.
    (cd "$source" && RUSTC=$rustc "$cargo" fetch --quiet --locked --target "$target") || fail "cannot fetch the crates"

    # Paths reach the binary through panic messages. Later flags win over earlier ones.
    flags=(
        "--remap-path-prefix=$source=/cloacinactl"
        "--remap-path-prefix=$cargo_home=/cargo"
        "--remap-path-prefix=$sysroot/lib/rustlib/src/rust=/rustc"
    )
    for crates in "$cargo_home"/registry/src/*/; do
        flags+=("--remap-path-prefix=${crates%/}=/crates")
    done
    flags+=(-Ctarget-feature=+crt-static -Crelocation-model=static)
    (
        cd "$source"
        # The caller's own build settings would end up in the bytes.
        unset RUSTFLAGS CARGO_BUILD_RUSTFLAGS CARGO_BUILD_TARGET RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER
        unset CFLAGS CPPFLAGS TARGET_CFLAGS
        export RUSTC=$rustc LC_ALL=C TZ=UTC
        if [[ $from_source == yes ]]; then
            # Debian's rustc is a stable one, and building the standard library is not a stable option yet.
            export RUSTC_BOOTSTRAP=1
            # Without what finds functions for a backtrace, which the program never prints, and with the smaller ones of
            # its ways to sort, which each type has once.
            args+=("-Zbuild-std=std,panic_unwind" "-Zbuild-std-features=panic-unwind,optimize_for_size")
            flags+=(-Clink-self-contained=no)
            export ZIG_GLOBAL_CACHE_DIR=$target_dir/zig ZIG_LOCAL_CACHE_DIR=$target_dir/zig
            # What builds C passes the target under Rust's name, which zig does not know.
            cat > "$target_dir/cc" <<EOF
#!/bin/sh
for argument do
    shift
    case \$argument in --target=*) ;; *) set -- "\$@" "\$argument" ;; esac
done
exec "$zig" cc -target x86_64-linux-musl "\$@"
EOF
            chmod +x "$target_dir/cc"
            export CC_x86_64_unknown_linux_musl=$target_dir/cc
            # Not a flag: flags count towards the names of symbols, and this path must not.
            export CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_LINKER=$target_dir/cc
        else
            export CC_x86_64_unknown_linux_musl=musl-gcc
            if [[ -x $sysroot/lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld ]]; then
                # The compiler's own linker: the system's would bring its own version and habits into the bytes.
                export CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_LINKER=rust-lld
            fi
        fi
        CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; printf '%s' "${flags[*]}")
        export CARGO_ENCODED_RUSTFLAGS
        "$cargo" build --locked --release --bin cloacinactl --target "$target" --target-dir "$target_dir" "${args[@]}"
    ) || fail "the build failed"
}

# check BINARY VERSION: everything that is promised of it.
check() {
    local binary=$1 version=$2 bytes place
    [[ $(readelf -lW "$binary") != *INTERP* ]] || fail "not static: the binary asks for a loader"
    [[ $(readelf -dW "$binary") != *NEEDED* ]] || fail "not static: the binary needs shared libraries"
    [[ $(readelf -SW "$binary") != *.symtab* ]] || fail "not stripped: the binary has symbols"
    bytes=$(stat -c %s "$binary")
    ((bytes <= max_bytes)) || fail "too big: the static program has $bytes bytes, and $max_bytes are allowed"
    for place in "$root" "$CARGO_HOME" "$sysroot/lib/rustlib/src"; do
        ! grep -qaF "$place/" "$binary" || fail "not reproducible: the binary names $place"
    done
    # In an empty environment, so that nothing of this machine helps it.
    [[ "$(env -i "$binary" --version)" == *"$version"* ]] || fail "\`--version\` does not say $version"
}

main "$@"
