# Read by run-lab and run-tests, not run by itself.

# setup EXTRA: have .venv hold this checkout, editable, with the dependencies of that extra. What
# was installed is remembered, so a second run costs nothing until what it was made from changes.
setup() {
    if [ -x .venv/bin/python ] && [ "$(cat ".venv/.modelarmor-$1" 2>/dev/null)" = "$(sources)" ]; then
        return
    fi
    [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
    .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "$0: Python 3.11 or newer is needed; remove .venv and name one in \$PYTHON" >&2
        exit 1
    }
    echo "$0: setting .venv up, which takes some minutes the first time" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$1]"
    sources >".venv/.modelarmor-$1"
    [ -e jupyter_ext/modelarmor_jupyter/labextension/install.json ] || cat >&2 <<END
$0: JupyterLab will have no ModelArmor panel: it is bundled with Node.js 20 or newer and npm
(https://nodejs.org). Kernels are confined all the same. Once npm is there, remove
.venv/.modelarmor-$1 and run $0 again; .venv/bin/python hatch_build.py panel says what is amiss.
END
}

sources() {
    cat pyproject.toml hatch_build.py modelarmor/sandbox/helper/*.c modelarmor/sandbox/helper/helper.h \
        kernel_profiles/*/kernel.json labextension/package*.json labextension/tsconfig.json \
        labextension/schema/* labextension/style/* $(find labextension/src -name '*.ts*') | cksum
}
