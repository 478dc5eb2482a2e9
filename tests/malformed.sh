#!/bin/sh
# Writes malformed images, a directory for each, into the directory named, and prints the path
# of the image to look at in each of them. What they are: tests/src/malformed/.
set -eu
dir=$(realpath -m "${1:?usage: malformed.sh DIR}")
cd "$(dirname "$0")/.."
exec cargo run --quiet --locked --package backchain-tests --bin malformed -- "$dir"
