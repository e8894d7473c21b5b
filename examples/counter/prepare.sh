#!/bin/sh
# Makes what the images are built from: the three programs, linked statically, and this machine's shell for the
# entrypoint script. Needs no network.
set -eu
cd "$(dirname "$0")"
"${CARGO:-cargo}" build --quiet --release --package counter --bins
target=$("${CARGO:-cargo}" metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')

rm -rf build
mkdir -p build/bin build/shell/bin
for program in store web proxy; do
    # The newest one: with a named target the programs lie one folder deeper.
    newest=$(ls -t "$target"/release/"$program" "$target"/*/release/"$program" 2>/dev/null | head -n 1)
    cp "$newest" "build/bin/$program"
done

# The shell with the libraries that it was linked to, each at the path where it looks for them.
cp -L /bin/sh build/shell/bin/sh
ldd /bin/sh | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "build/shell$(dirname "$library")"
    cp -L "$library" "build/shell$library"
done
