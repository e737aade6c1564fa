#!/bin/sh
# Install the agent from this folder, without a network. Usage, as root: sh install.sh [DEVICE-NAME]
# An enrolment token in the folder, or in EDGEWRIGHT_ENROLMENT_TOKEN, enrols the device (default name: the host's).
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
wanted_machine=@MACHINE@
wanted_python=@PYTHON@
base=/opt/edgewright
state=/var/lib/edgewright

stop() { echo "install.sh: $*" >&2; exit 2; }

[ "$(id -u)" = 0 ] || stop "must run as root: use sudo"
[ "$(uname -m)" = "$wanted_machine" ] || stop "the bundle is for $wanted_machine, but this machine is $(uname -m): make one with --arch"
python=$(command -v "python$wanted_python") || stop "python$wanted_python must be installed: install it, or make a bundle with --python"
"$python" -c 'import venv' 2>/dev/null || stop "the module venv must be installed (Debian: python3-venv)"
(cd "$here" && sha256sum -c --quiet SHA256SUMS) || stop "the bundle is damaged: copy it again"

release=$base/$(sha256sum "$here/SHA256SUMS" | cut -c 1-16)
if [ ! -e "$release/complete" ]; then
    rm -rf "$release"
    mkdir -p "$base"
    "$python" -m venv --without-pip "$release"
    pip=$(echo "$here"/installer/pip-*.whl)/pip
    "$release/bin/python" "$pip" --isolated install --quiet --no-compile --disable-pip-version-check --no-cache-dir --no-deps \
        --no-index --find-links "$here/wheels" --require-hashes --root-user-action ignore -r "$here/requirements.txt"
    # Left out: tests, sources in C and Cython, tools that change models, and a second copy of ONNX Runtime for programs in C
    # (its Python module does not link to it). What stays is compiled here, because the agent may not write.
    site=$(echo "$release"/lib/python*/site-packages)
    find "$site" -type d -name tests -prune -exec rm -rf {} +
    find "$site" -type f \( -name '*.c' -o -name '*.h' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.a' \) -delete
    rm -rf "$site/onnxruntime/transformers" "$site/onnxruntime/tools" "$site/onnxruntime/quantization" "$site/numpy/f2py"
    rm -rf "$site"/onnxruntime/capi/libonnxruntime.so* "$site/numpy/distutils" "$site"/numpy/_core/_simd.*.so
    "$release/bin/python" -m compileall -q "$site"
    "$release/bin/python" -m edge_agent.bundle.self_check || stop "the installed agent must import its parts and score, but it does not"
    touch "$release/complete"
fi
id edgewright >/dev/null 2>&1 || useradd --system --home-dir "$state" --no-create-home --shell /usr/sbin/nologin edgewright
for group in dialout video render; do
    if getent group "$group" >/dev/null; then usermod -a -G "$group" edgewright; fi
done
mkdir -p "$state"
chown edgewright: "$state"
chmod 0700 "$state"
ln -s "$release" "$base/current.new"
mv -T "$base/current.new" "$base/current"
cat >/usr/local/bin/edgewright-agent <<'END'
#!/bin/sh
exec runuser -u edgewright -- env XDG_STATE_HOME=/var/lib /opt/edgewright/current/bin/edgewright agent "$@"
END
chmod 0755 /usr/local/bin/edgewright-agent

token=${EDGEWRIGHT_ENROLMENT_TOKEN:-}
if [ -z "$token" ] && [ -f "$here/enrolment.token" ]; then token=$(cat "$here/enrolment.token"); fi
if [ -n "$token" ] && [ ! -e "$state/agent/identity/enrolment.json" ]; then
    EDGEWRIGHT_ENROLMENT_TOKEN=$token edgewright-agent enrol --name "${1:-$(uname -n)}" ||
        echo "not enrolled: repeat with 'edgewright-agent enrol --token TOKEN --name NAME'" >&2
fi

if command -v systemctl >/dev/null 2>&1; then
    cp "$here/edgewright-agent.service" /etc/systemd/system/edgewright-agent.service
    systemctl enable --quiet edgewright-agent.service
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload
        systemctl restart edgewright-agent.service
    else
        echo "systemd does not run here: the agent starts at the next boot"
    fi
else
    echo "no systemd on this machine: let its init run 'edgewright-agent run' at boot"
fi
echo "installed in $release"
