#!/bin/sh
# Install the programs that some tests talk to, when this user may; otherwise say which tests will be skipped for want of them.
set -eu
wanted="g++:g++ verilator:verilator iverilog:iverilog mosquitto:mosquitto skopeo:skopeo docker-registry:docker-registry dockerd:docker.io iptables:iptables podman:podman postgres:postgresql chromium:chromium chromedriver:chromium-driver"

missing=""
for pair in $wanted; do
    program=${pair%%:*} package=${pair#*:}
    command -v "$program" >/dev/null 2>&1 || [ -n "$(find /usr/sbin /usr/lib/postgresql -name "$program" 2>/dev/null)" ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "installing Debian packages for the tests:$missing"
    apt-get update -qq
    # shellcheck disable=SC2086  # the list is meant to be split
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    exit 0
fi
echo "not installed:$missing; tests that need them are skipped (as root, this script installs them)" >&2
