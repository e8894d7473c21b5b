#!/bin/sh
# Says what it starts, then becomes it: signals go straight to the program.
set -eu
echo "starting $*"
exec "$@"
