# Read by run-lab and run-tests, not run by itself.

# setup EXTRA: have .venv hold this checkout, editable, with the dependencies of that extra. What
# was installed is remembered, so a second run costs nothing until what it was made from changes.
setup() {
    if [ -x .venv/bin/modelarmor ] && [ "$(cat ".venv/.modelarmor-$1" 2>/dev/null)" = "$(sources)" ]; then
        return
    fi
    # one that was interrupted while it was made has no pip
    .venv/bin/python -m pip --version >/dev/null 2>&1 || "${PYTHON:-python3}" -m venv --clear .venv
    .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "$0: Python 3.11 or newer is needed; remove .venv and name one in \$PYTHON" >&2
        exit 1
    }
    echo '#include <sys/syscall.h>' | ${CC:-cc} -E - >/dev/null 2>&1 || {
        echo "$0: a C compiler and its headers are needed, for the sandbox's helper (Debian, Ubuntu: apt" \
            "install gcc libc6-dev; Fedora: dnf install gcc; Alpine: apk add gcc musl-dev linux-headers)" >&2
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
