#!/bin/sh
# Installs infinit: the binary, completions, manual pages and a systemd unit. See --help.
set -eu

prefix=/usr/local
destdir=
binary=
uninstall=no

usage() {
    cat <<'END'
Usage: ./install.sh [OPTIONS]

Install infinit: the binary, its shell completions, its manual pages and a systemd unit.

Options:
  --prefix DIR    install below this directory [default: /usr/local]
  --destdir DIR   put this directory before every path, to make a package
  --binary PATH   install this binary [default: build it with cargo]
  --uninstall     remove what was installed with the same --prefix and --destdir
  --help          print this
END
}

fail() {
    printf 'error: %s\n' "$1" >&2
    printf 'hint: %s\n' "$2" >&2
    exit "${3:-1}"
}

while [ $# -gt 0 ]; do
    case $1 in
        --prefix | --destdir | --binary)
            [ $# -ge 2 ] || fail "$1 needs a value" "see ./install.sh --help" 2
            case $1 in
                --prefix) prefix=$2 ;;
                --destdir) destdir=$2 ;;
                --binary) binary=$2 ;;
            esac
            shift 2
            ;;
        --uninstall)
            uninstall=yes
            shift
            ;;
        --help | -h)
            usage
            exit 0
            ;;
        *) fail "unknown argument '$1'" "see ./install.sh --help" 2 ;;
    esac
done

case $prefix in
    /*) prefix=${prefix%/} ;;
    *) fail "the prefix '$prefix' is not absolute" "write --prefix /usr/local" 2 ;;
esac
destdir=${destdir%/}

bin=$prefix/bin/infinit
bash_completion=$prefix/share/bash-completion/completions/infinit
zsh_completion=$prefix/share/zsh/site-functions/_infinit
fish_completion=$prefix/share/fish/vendor_completions.d/infinit.fish
man_dir=$prefix/share/man/man1
unit=$prefix/lib/systemd/system/infinit.service

# Removes a file that is there, then the directories above it as far as they are empty, up to the prefix.
remove() {
    [ -e "$destdir$1" ] || [ -L "$destdir$1" ] || return 0
    rm -f "$destdir$1"
    printf 'removed %s\n' "$destdir$1"
    directory=${1%/*}
    while [ "$directory" != "$prefix" ] && rmdir "$destdir$directory" 2>/dev/null; do
        directory=${directory%/*}
    done
}

# Tells systemd of a unit that came or went, where this is the machine that will run it.
reload() {
    if [ -z "$destdir" ] && [ -d /run/systemd/system ] && [ "$(id -u)" -eq 0 ]; then
        systemctl daemon-reload
    fi
}

if [ "$uninstall" = yes ]; then
    if [ -z "$destdir" ] && [ -d /run/systemd/system ] && [ -e "$unit" ] && [ "$(id -u)" -eq 0 ]; then
        systemctl disable --now infinit.service || true
    fi
    for page in "$destdir$man_dir"/infinit.1 "$destdir$man_dir"/infinit-*.1; do
        [ -e "$page" ] && remove "$man_dir/${page##*/}"
    done
    for file in "$bin" "$bash_completion" "$zsh_completion" "$fish_completion" "$unit"; do
        remove "$file"
    done
    reload
    printf 'homes and silos are left as they are\n'
    exit 0
fi

if [ -z "$binary" ]; then
    here=$(cd "$(dirname "$0")" && pwd)
    [ -f "$here/Cargo.toml" ] || fail "there is no source to build beside $0" "give a built one with --binary PATH"
    command -v cargo >/dev/null || fail "cargo is not there to build with" "install Rust, or give a built binary with --binary PATH"
    # Cargo itself says where it put the binary: that depends on the target, the configuration and the environment.
    binary=$(cd "$here" && cargo build --release --locked --bin infinit --message-format json-render-diagnostics |
        sed -n 's/.*"executable":"\([^"]*\/infinit\)".*/\1/p' | tail -n 1)
    [ -n "$binary" ] || fail "the build made no binary" "see what cargo said above"
fi
[ -f "$binary" ] || fail "there is no binary at $binary" "give a built one with --binary PATH"
[ -x "$binary" ] || fail "$binary cannot be run" "chmod +x $binary"
case $("$binary" --version 2>/dev/null || true) in
    "infinit "*) ;;
    *) fail "$binary is no infinit that runs on this machine" "give one that does with --binary PATH" ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The binary makes the rest itself, so that all of it fits.
mkdir "$work/man"
"$binary" completions bash >"$work/bash"
"$binary" completions zsh >"$work/zsh"
"$binary" completions fish >"$work/fish"
"$binary" man --dir "$work/man"
"$binary" --home /var/lib/infinit node install --print --binary "$bin" >"$work/unit"

put() {
    mkdir -p "$destdir${2%/*}" || fail "cannot create $destdir${2%/*}" "run this as root, or choose another --prefix"
    # Beside it and then over it: a binary that runs cannot be written to, only replaced.
    cp "$1" "$destdir$2.new" || fail "cannot write $destdir$2" "run this as root, or choose another --prefix"
    chmod "$3" "$destdir$2.new"
    mv -f "$destdir$2.new" "$destdir$2"
    printf 'installed %s\n' "$destdir$2"
}

put "$binary" "$bin" 755
put "$work/bash" "$bash_completion" 644
put "$work/zsh" "$zsh_completion" 644
put "$work/fish" "$fish_completion" 644
for page in "$work/man"/*.1; do
    put "$page" "$man_dir/${page##*/}" 644
done
put "$work/unit" "$unit" 644
reload

printf 'next: infinit demo, or infinit network create NAME and then systemctl enable --now infinit\n'
