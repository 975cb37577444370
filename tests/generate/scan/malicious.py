"""Models that do harm, with payloads that do none: every format and every published evasion.

    python -m tests.generate.scan.malicious DIRECTORY

Each case is a file or a directory; nothing here is ever loaded. What a payload would run is `true`.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

#: a case: a file's bytes, or a directory's files
Content = bytes | Mapping[str, bytes | str]


# --- pickles, opcode by opcode


def text(value: str) -> bytes:
    raw = value.encode()
    return b"\x8c" + bytes((len(raw),)) + raw


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """Opcodes that import and call, at any protocol from 4."""
    return text(module) + text(name) + b"\x93(" + b"".join(arguments) + b"tR"


def stream(body: bytes, protocol: int = 4) -> bytes:
    return b"\x80" + bytes((protocol,)) + body + b"."


def framed(body: bytes) -> bytes:
    content = body + b"."
    return b"\x80\x04\x95" + struct.pack("<Q", len(content)) + content


SYSTEM = call("os", "system", text("true"))
EVIL = stream(SYSTEM)
OLD = b"cos\nsystem\n(S'true'\ntR."

#: names that scanners were shown to miss, and others of their kind; each is given one string
GADGETS = """
os.system posix.system nt.system subprocess.call subprocess.Popen subprocess.getoutput
builtins.eval builtins.exec builtins.compile builtins.__import__ builtins.open builtins.getattr
pty.spawn runpy.run_path runpy._run_code importlib.import_module pip.main pip._internal.main
ensurepip._run_pip pkgutil.resolve_name code.InteractiveInterpreter.runcode codeop.compile_command
bdb.Bdb.run pdb.run pdb.runeval cProfile.run profile.run profile.runctx timeit.timeit
trace.Trace.run doctest.debug_script idlelib.pyshell.ModifiedInterpreter.runcommand
idlelib.debugobj.ObjectTreeItem.SetText idlelib.autocomplete.AutoComplete.get_entity
idlelib.calltip.get_entity idlelib.run.Executive.runcode lib2to3.pgen2.grammar.Grammar.loads
lib2to3.pgen2.pgen.ParserGenerator.make_label asyncio.unix_events._UnixSubprocessTransport._start
asyncio.create_subprocess_shell socket.create_connection ssl.get_server_certificate
http.client.HTTPSConnection urllib.request.urlopen requests.get webbrowser.open ftplib.FTP
smtplib.SMTP telnetlib.Telnet imaplib.IMAP4_stream uuid._get_command_stdout
_osx_support._read_output _aix_support._read_cmd_output _pyrepl.pager.pipe_pager
distutils.file_util.write_file shutil.rmtree shutil.copyfile tempfile.NamedTemporaryFile io.FileIO
io.open_code fileinput.input linecache.getlines glob.glob logging.FileHandler
logging.config.listen ctypes.CDLL ctypes.CFUNCTYPE mmap.mmap signal.raise_signal
multiprocessing.Process threading.Thread types.FunctionType types.CodeType marshal.loads
pickle.loads pickle.Unpickler dill.loads cloudpickle.loads joblib.load shelve.open sqlite3.connect
dbm.open zipimport.zipimporter site.addsitedir sys.settrace functools.partial functools.reduce
operator.attrgetter operator.methodcaller itertools.starmap numpy.load numpy.fromfile numpy.memmap
numpy.testing._private.utils.runstring numpy.f2py.crackfortran.getlincoef
numpy.f2py.crackfortran.param_eval numpy.distutils.exec_command.exec_command torch.load
torch.hub.load torch.utils._config_module.ConfigModule.load_config torch.utils.collect_env.run
torch.utils.bottleneck.__main__.run_cprofile
torch.utils.data.datapipes.utils.decoder.basichandlers
torch.jit.unsupported_tensor_ops.execWrapper
torch.fx.experimental.symbolic_shapes.ShapeEnv.evaluate_guards_expression
torch._dynamo.guards.GuardBuilder.get torch.storage._load_from_bytes
torch._inductor.codecache.compile_file torch.package.PackageImporter torch.ops.load_library
torch.utils.cpp_extension.load_inline pandas.read_pickle pandas.eval
pandas.core.computation.eval.eval sklearn.utils._testing.assert_run_python_script
sklearn.datasets.fetch_openml sklearn.externals._packaging.version.os keras.models.load_model
tensorflow.load_op_library mlflow.pyfunc.load_model
transformers.dynamic_module_utils.get_class_from_dynamic_module jinja2.Template yaml.unsafe_load
jsonpickle.decode nltk.data.load setuptools.sandbox.run_setup pexpect.run psutil.Popen sh.Command
git.Repo.clone_from gc.get_objects inspect.getsource sys.modules
test.support.script_helper.assert_python_ok commands.getoutput xmlrpc.client.ServerProxy
venv.create pydoc.pipepager platform.popen crypt.crypt cgitb.lookup
django.core.management.execute_from_command_line
IPython.core.interactiveshell.InteractiveShell.system
""".split()  # noqa: SIM905


def pickles() -> dict[str, Content]:
    cases: dict[str, Content] = {}
    for path in GADGETS:
        module, _, name = path.rpartition(".")
        while name and module.rpartition(".")[2][:1].isupper():
            module, _, owner = module.rpartition(".")
            name = f"{owner}.{name}"
        cases[f"gadget-{path}.pkl"] = stream(call(module, name, text("true")))
    cases |= {
        "protocol-0.pkl": OLD,
        "protocol-1-inst.pkl": b"(S'true'\nios\nsystem\n.",
        "protocol-1-obj.pkl": b"(cos\nsystem\nS'true'\no.",
        "protocol-2.pkl": b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.",
        "protocol-5.pkl": stream(SYSTEM, 5),
        "framed.pkl": framed(SYSTEM),
        "newobj.pkl": stream(
            text("subprocess") + text("Popen") + b"\x93" + text("true") + b"\x85\x81"
        ),
        "newobj-ex.pkl": stream(
            text("subprocess") + text("Popen") + b"\x93" + text("true") + b"\x85}\x92"
        ),
        "python-2-name.pkl": b"\x80\x02c__builtin__\neval\nU\x031+1\x85R.",
        "memo-shuffle.pkl": stream(
            text("system")
            + b"\x940"
            + text("os")
            + b"\x940h\x01h\x00\x93"
            + text("true")
            + b"\x85R"
        ),
        "dup-pop.pkl": stream(text("a") + b"2" + b"00" + SYSTEM),
        "unicode-escape.pkl": b"\x80\x04V\\u006f\\u0073\nVsyste\\u006d\n\x93"
        + text("true")
        + b"\x85R.",
        "string-names.pkl": b"\x80\x04S'o\\x73'\nS'system'\n\x93" + text("true") + b"\x85R.",
        "computed-name.pkl": stream(
            call("_codecs", "encode", text("bf"), text("rot13"))
            + text("system")
            + b"\x93"
            + text("true")
            + b"\x85R"
        ),
        "attribute-chain.pkl": stream(
            call("builtins", "getattr", call("builtins", "__import__", text("os")), text("system"))
            + text("true")
            + b"\x85R"
        ),
        "dotted-name.pkl": stream(
            call("sklearn.base", "BaseEstimator.__init__.__globals__", text("os"))
        ),
        "module-of-library.pkl": stream(call("torch.serialization", "os.system", text("true"))),
        "dict-of-library.pkl": stream(
            text("torch.nn.functional") + text("importlib") + b"\x93}" + text("x") + b"Nsb"
        ),
        "sets-class-attribute.pkl": stream(
            text("sklearn.base")
            + text("BaseEstimator")
            + b"\x93N}"
            + text("fit")
            + text("os")
            + text("system")
            + b"\x93s\x86b"
        ),
        "sys-modules.pkl": stream(
            text("sys") + text("modules") + b"\x93\x940" + b"h\x00" + text("sys") + b"h\x00s"
        ),
        "extension.pkl": stream(b"\x82\x01" + text("true") + b"\x85R"),
        "not-called.pkl": stream(text("os") + text("system") + b"\x93"),
        "hidden-in-list.pkl": stream(b"](" + text("a") + SYSTEM + text("b") + b"e"),
        "as-state.pkl": stream(
            text("sklearn.linear_model._logistic")
            + text("LogisticRegression")
            + b"\x93)\x81}"
            + text("coef_")
            + SYSTEM
            + b"sb"
        ),
        "two-streams.pkl": stream(b"N") + EVIL,
        "third-stream.pkl": stream(b"N") + stream(b"}") + EVIL,
        "no-stop.pkl": EVIL[:-1],
        "broken-after.pkl": EVIL[:-1] + b"\xff\xfe",
        "raises-after.pkl": EVIL[:-1] + b"0h\x63.",
        "within-loads.pkl": stream(call("pickle", "loads", b"C" + bytes((len(EVIL),)) + EVIL)),
        "within-torch-bytes.pkl": stream(
            call("torch.storage", "_load_from_bytes", b"C" + bytes((len(EVIL),)) + EVIL)
        ),
        "frame-boundary.pkl": b"\x80\x04\x95"
        + struct.pack("<Q", 4)
        + b"]\x94\x8c\xff"
        + b"a" * 255
        + b"0"
        + SYSTEM
        + b".",
        "frame-nested.pkl": b"\x80\x04\x95"
        + struct.pack("<Q", 200)
        + b"\x95"
        + struct.pack("<Q", 4)
        + SYSTEM
        + b".",
        "frame-too-long.pkl": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + SYSTEM + b".",
        "trailing-elf.pkl": stream(b"N") + b"\x7fELF" + b"\x02" * 500,
        "memo-bomb.pkl": stream(b"Nr\xff\xff\xff\x7f"),
        "bytearray-bomb.pkl": stream(
            text("builtins") + text("bytearray") + b"\x93\x8a\x05\x00\x00\x00\x00\x10\x85R"
        ),
        "array-bomb.pkl": stream(
            text("numpy") + text("ndarray") + b"\x93J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86\x85R"
        ),
        "length-bomb.pkl": stream(b"\x8e" + struct.pack("<Q", 1 << 44) + b"a"),
        "cloudpickle.pkl": stream(
            call("cloudpickle.cloudpickle", "_make_function", b"N", b"N", b"N", b"N", b"N")
        ),
        "no-extension": EVIL,
        "weights.bin": EVIL,
        "readme.txt": OLD,
        "config.json": OLD,
        "malicious.py.pkl": stream(call("builtins", "exec", text("import os"))),
    }
    for name, pack in _PACKERS.items():
        cases[f"model-{name}.joblib"] = pack(EVIL)
        cases[f"model.pkl.{name}"] = pack(EVIL)
    cases["two-members.pkl.gz"] = gzip.compress(stream(b"N")) + gzip.compress(EVIL)
    return cases


_PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "z": zlib.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda content: lzma.compress(content, lzma.FORMAT_ALONE),
}


class _Payload:
    """Pickles as a call that nothing here makes."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        import os

        return os.system, ("true",)


def made() -> dict[str, Content]:
    """What real libraries write around a payload."""
    import joblib
    import numpy as np

    cases: dict[str, Content] = {}
    objects = np.array([_Payload(), 1], dtype=object)
    for name, value in {
        "objects": [np.zeros(100), objects],
        "after-array": [np.zeros((50, 50)), _Payload()],
    }.items():
        for level in (0, 3):
            buffer = io.BytesIO()
            joblib.dump(value, buffer, compress=level)
            cases[f"joblib-{name}-{level}.joblib"] = buffer.getvalue()
    try:
        import lz4.frame

        cases["model-lz4.joblib"] = lz4.frame.compress(EVIL)
    except ImportError:
        pass
    for name, array in {"object": objects, "record": np.array([(1, _Payload())], "i4,O")}.items():
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        cases[f"array-{name}.npy"] = buffer.getvalue()
        buffer = io.BytesIO()
        np.savez_compressed(buffer, a=np.zeros(3), b=array)
        cases[f"array-{name}.npz"] = buffer.getvalue()
    return cases


# --- archives


def archive(
    members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED, comment: bytes = b""
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.comment = comment
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, method)
    return buffer.getvalue()


def _torch(data: bytes = EVIL, **more: bytes) -> dict[str, bytes]:
    return {"m/data.pkl": data, "m/version": b"3\n", "m/byteorder": b"little", **more}


def _patched(content: bytes, where: bytes, offset: int, new: bytes) -> bytes:
    at = content.index(where) + offset
    return content[:at] + new + content[at + len(new) :]


def archives() -> dict[str, Content]:
    plain = archive(_torch())
    benign = stream(b"}")
    central, local = b"PK\x01\x02", b"PK\x03\x04"
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    legacy = magic + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2) + EVIL
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as file:
        for name, content in (("model.pkl", EVIL), ("../../escape", b"x")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    symlink = io.BytesIO()
    with zipfile.ZipFile(symlink, "w") as archived:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        archived.writestr(info, "/etc/passwd")
    return {
        "torch.pt": plain,
        "torch-deflated.pt": archive(_torch(), zipfile.ZIP_DEFLATED),
        "torch-other-name.pt": archive({"x/y/z.dat": EVIL, **_torch(benign)}),
        "torch-in-storage.pt": archive(_torch(benign, **{"m/data/0": EVIL})),
        "torch-no-extension": plain,
        "torch-prefix.pt": b"#!/bin/sh\n" + plain,
        "torch-suffix.pt": plain + b"x" * 100,
        "torch-behind-pickle.pt": stream(b"N") + plain,
        "torch-legacy.pt": legacy,
        "torch-magic.pt": pickle.dumps(1, 2) + EVIL,
        "torch-crc.pt": _patched(plain, central, 16, b"\xff\xff\xff\xff"),
        "torch-flags.pt": _patched(plain, central, 8, b"\x01\x00"),
        "torch-flags-0x20.pt": _patched(plain, central, 8, b"\x20\x00"),
        "torch-method.pt": _patched(plain, central, 10, b"\x63\x00"),
        "torch-local-name.pt": _patched(plain, local, 30, b"X"),
        "torch-central-name.pt": _patched(plain, central, 46, b"X"),
        "torch-duplicate.pt": _duplicate(),
        "torch-hidden-member.pt": _hidden(),
        "zip-symlink.zip": symlink.getvalue(),
        "zip-traversal.zip": archive({"../../etc/cron.d/x": b"x"}),
        "zip-absolute.zip": archive({"/etc/cron.d/x": b"x"}),
        "zip-in-zip.zip": archive({"inner.zip": archive({"model.pkl": EVIL})}),
        "zip-deep.zip": _deep(12),
        "zip-bomb.zip": archive({"zeros": b"\0" * (300 << 20)}, zipfile.ZIP_DEFLATED),
        "zip-lzma.zip": archive({"model.pkl": EVIL}, zipfile.ZIP_LZMA),
        "zip-bz2.zip": archive({"model.pkl": EVIL}, zipfile.ZIP_BZIP2),
        "model.nemo": tar.getvalue(),
        "model.tar.gz": gzip.compress(tar.getvalue()),
        "model.7z": b"7z\xbc\xaf\x27\x1c\0\4" + b"x" * 200,
        "program.pt2": archive({
            "m/archive_format": b"pt2", "m/archive_version": b"0", "m/models/model.json": b"{}",
            "m/data/sample_inputs/model.pt": plain,
        }),
        "torchscript.pt": archive(_torch(benign, **{
            "m/constants.pkl": benign,
            "m/code/__torch__.py": b"def f(x):\n  torch.save(x, '/tmp/x')\n",
        })),
        "torchscript-reads.pt": archive(_torch(benign, **{
            "m/constants.pkl": benign,
            "m/code/__torch__.py": b"def f():\n  return torch.from_file('/etc/passwd')\n",
        })),
        "aot.pt2": archive({
            "m/archive_format": b"pt2", "m/archive_version": b"0", "m/models/model.json": b"{}",
            "m/data/aotinductor/model/x.so": b"\x7fELF\x02\x01\x01" + b"\0" * 64,
        }),
    }  # fmt: skip


def _duplicate() -> bytes:
    both = archive({"m/data.pkl": stream(b"}"), "m/dat2.pkl": EVIL})
    return both.replace(b"m/dat2.pkl", b"m/data.pkl")


def _hidden() -> bytes:
    """A member that only a reader of local headers sees."""
    hidden = archive({"m/data.pkl": EVIL})
    front = hidden[: hidden.index(b"PK\x01\x02")]
    visible = archive({"m/version": b"3"})
    start = visible.index(b"PK\x01\x02")
    directory = bytearray(visible[start:])
    directory[42:46] = struct.pack("<I", len(front))
    end = directory.index(b"PK\x05\x06")
    directory[end + 16 : end + 20] = struct.pack("<I", len(front) + start)
    return front + visible[:start] + bytes(directory)


def _deep(levels: int) -> bytes:
    content = EVIL
    for _ in range(levels):
        content = archive({"inner.zip": content})
    return content


# --- Keras, TensorFlow, ONNX, GGUF, skops


def _keras(layer: object, **members: bytes) -> bytes:
    config = {
        "module": "keras", "class_name": "Sequential", "registered_name": None,
        "config": {"name": "m", "layers": [layer]},
    }  # fmt: skip
    return archive({
        "metadata.json": b'{"keras_version": "3.9.0"}', "config.json": json.dumps(config).encode(),
        "model.weights.h5": _h5({}), **members,
    })  # fmt: skip


def _h5(attributes: Mapping[str, str], external: bool = False) -> bytes:
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, value in attributes.items():
            file.attrs[name] = value
        if external:
            file["outside"] = h5py.ExternalLink("/etc/passwd", "/")
    return buffer.getvalue()


def _field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes((value & 0x7F | 0x80,))
        value >>= 7
    return out + bytes((value,))


def _saved_model(operation: str, *, in_function: bool = False) -> bytes:
    node = _field(1, b"n") + _field(2, operation.encode())
    graph = _field(1, _field(1, b"x") + _field(2, b"Const"))
    if in_function:
        graph += _field(2, _field(1, _field(1, _field(1, b"f")) + _field(3, node)))
    else:
        graph += _field(1, node)
    return _field(1, 1) + _field(2, _field(2, graph))


def _onnx(
    *, domain: str = "", operator: str = "Add", place: str = "", within: bool = False
) -> bytes:
    node = (
        _field(1, b"x")
        + _field(2, b"y")
        + _field(4, operator.encode())
        + _field(7, domain.encode())
    )
    tensor = _field(1, 1) + _field(2, 1) + _field(8, b"w")
    if place:
        entry = _field(1, b"location") + _field(2, place.encode())
        tensor += _field(13, entry) + _field(14, 1)
    graph = _field(1, node) + _field(2, b"g") + _field(5, tensor)
    if within:
        branch = _field(5, b"") + _field(6, graph)
        graph = _field(1, _field(4, b"If") + _field(5, _field(1, b"then") + branch[2:])) + _field(
            2, b"g"
        )
    opset = _field(1, b"") + _field(2, 17)
    return _field(1, 8) + _field(7, graph) + _field(8, opset)


def _gguf(template: str) -> bytes:
    def string(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    pairs = string("general.architecture") + struct.pack("<I", 8) + string("llama")
    pairs += (
        string("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + string("a") + string("b")
    )
    pairs += string("tokenizer.chat_template") + struct.pack("<I", 8) + string(template)
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 3) + pairs


TEMPLATES = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "loop": "{% for x in ().__class__.__base__.__subclasses__() %}{% if 'warning' in x.__name__ %}"
    "{{ x()._module.__builtins__['__import__']('os').popen('true') }}{% endif %}{% endfor %}",
    "cycler": "{{ cycler.__init__.__globals__.os.popen('true').read() }}",
    "attr": "{{ messages|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
    "attr-joined": "{{ ()|attr(['_'*2,'class','_'*2]|join) }}",
    "subscript": "{{ messages['__class__'] }}",
    "concatenated": "{{ messages['__cl' ~ 'ass__'] }}",
    "format": "{{ ()|attr('%c%cclass%c%c'|format(95,95,95,95)) }}",
    "include": "{% include '/etc/passwd' %}",
    "self": "{{ self._TemplateReference__context }}",
    "lipsum": "{{ lipsum.__globals__['os'].system('true') }}",
    "namespace": "{{ namespace.__init__.__globals__ }}",
    "map": "{{ [()]|map(attribute=x)|list }}",
    "trimmed": "{%- set x = joiner.__init__ -%}{{- x -}}",
}  # fmt: skip


def _skops(module: str, name: str, loader: str = "FunctionNode") -> bytes:
    schema = {
        "__class__": "function", "__module__": "builtins", "__loader__": loader, "__id__": 1,
        "content": {"module_path": module, "function": name}, "protocol": 2,
        "_skops_version": "0.16.0",
    }  # fmt: skip
    if loader == "ObjectNode":
        schema |= {"__class__": name, "__module__": module, "content": {}}
    return archive({"schema.json": json.dumps(schema).encode()})


def formats() -> dict[str, Content]:
    function = {"module": "builtins", "class_name": "function", "config": "eval"}
    layers: dict[str, object] = {
        "lambda": {"module": "keras.layers", "class_name": "Lambda", "config": {
            "function": {"class_name": "__lambda__", "config": {"code": "4wAAAA=="}}}},
        "cve-2025-1550": {"module": "os", "class_name": "function", "config": "system"},
        "builtin-eval": {"module": "keras.layers", "class_name": "Dense", "config": {
            "activation": function}},
        "subprocess": {"module": "subprocess", "class_name": "Popen", "config": {"args": "true"}},
        "get-file": {"module": "keras.layers", "class_name": "Dense", "config": {"activation": {
            "module": "keras.utils", "class_name": "function", "config": "get_file"}}},
        "foreign": {"module": "evil.layers", "class_name": "Layer", "config": {}},
        "tfsm": {"module": "keras.layers", "class_name": "TFSMLayer", "config": {
            "filepath": "/tmp/other"}},
        "lookup": {"module": "keras.layers", "class_name": "StringLookup", "config": {
            "vocabulary": "/etc/passwd"}},
        "lookup-url": {"module": "keras.layers", "class_name": "StringLookup", "config": {
            "vocabulary": "https://localhost/x"}},
        "loads-model": {"module": "keras.src.saving.saving_lib", "class_name": "function",
                        "config": "load_model"},
    }  # fmt: skip
    cases: dict[str, Content] = {f"{name}.keras": _keras(layer) for name, layer in layers.items()}
    lambda_config = json.dumps(
        {"class_name": "Sequential", "config": {"layers": [layers["lambda"]]}}
    )
    cases |= {
        "slip.keras": _keras({}, **{"../../x": b"x"}),
        "weights-link.keras": _keras({}, **{"assets/w.h5": _h5({}, external=True)}),
        "lambda.h5": _h5({"model_config": lambda_config}),
        "external.h5": _h5({}, external=True),
        "onnx-traversal.onnx": _onnx(place="../../../etc/passwd"),
        "onnx-absolute.onnx": _onnx(place="/etc/passwd"),
        "onnx-python.onnx": _onnx(domain="ai.onnx.contrib", operator="PyOp"),
        "onnx-custom.onnx": _onnx(domain="evil.ops", operator="Run"),
        "onnx-within.onnx": _onnx(place="/etc/passwd", within=True),
        "system.skops": _skops("os", "system"),
        "eval.skops": _skops("builtins", "eval"),
        "unknown.skops": _skops("evil", "Model", "ObjectNode"),
        "gap.safetensors": struct.pack("<Q", 2) + b"{}" + b"\x7fELF" * 10,
        "library.so": b"\x7fELF\x02\x01\x01" + b"\0" * 64,
        "module.pyc": b"\xa7\r\r\n" + b"\0" * 12 + b"\xe3" * 20,
        "model.pmml": b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
        b"<PMML>&e;</PMML>",
        "nemo.yaml": b"model:\n  _target_: os.system\n  command: 'true'\n",
        "tagged.yaml": b"!!python/object/apply:os.system ['true']\n",
        "unknown.bin": bytes(range(256)) * 8,
        "run.sh": b"#!/bin/sh\ntrue\n",
    }
    for operation in ("ReadFile", "WriteFile", "PyFunc", "EagerPyFunc", "MatchingFiles", "PrintV2"):
        for within in (False, True):
            name = f"tf-{operation}{'-function' if within else ''}"
            cases[name] = {"saved_model.pb": _saved_model(operation, in_function=within)}
    for name, template in TEMPLATES.items():
        cases[f"template-{name}.gguf"] = _gguf(template)
        cases[f"template-{name}"] = {
            "tokenizer_config.json": json.dumps({"chat_template": template})
        }
        cases[f"template-{name}.jinja"] = template.encode()
    cases["template-list"] = {"tokenizer_config.json": json.dumps(
        {"chat_template": [{"name": "x", "template": TEMPLATES["loop"]}]})}  # fmt: skip
    return cases


# --- directories of MLflow and transformers


def mlmodel(flavor: str = "sklearn", **pyfunc: object) -> str:
    fields = {"loader_module": f"mlflow.{flavor}", "python_version": "3.11.7", **pyfunc}
    lines = [f"    {key}: {json.dumps(value)}" for key, value in fields.items()]
    return "\n".join(
        ["flavors:", "  python_function:", *lines, f"  {flavor}:", "    code: null", ""]
    )


def directories() -> dict[str, Content]:
    good = {"MLmodel": mlmodel(), "requirements.txt": "mlflow==3.17.2\n"}
    data = stream(b"}")
    cases: dict[str, Content] = {
        "loader-module": {
            "MLmodel": mlmodel(loader_module="evil_loader", code="code"),
            "code/evil_loader.py": "def _load_pyfunc(path):\n    return None\n",
        },
        "loader-module-alone": {"MLmodel": mlmodel(loader_module="evil_loader")},
        "code-paths": {"MLmodel": mlmodel(code="code"), "code/numpy.py": "x = 1\n"},
        "from-code": {
            "MLmodel": mlmodel("pyfunc", loader_module="mlflow.pyfunc.loaders.code_model",
                               model_code_path="model.py"),
            "model.py": "import os\nos.system('true')\n",
        },
        "pickle-module": {
            "MLmodel": mlmodel("pytorch", code="code"), "data/model.pth": data,
            "data/pickle_module_info.txt": "evil_pickle", "code/evil_pickle.py": "x = 1\n",
        },
        "pickle-module-alone": {**good, "data/pickle_module_info.txt": "antigravity"},
        "keras-module": {**good, "data/keras_module.txt": "evil"},
        "python-model": {"MLmodel": mlmodel("pyfunc", python_model="python_model.pkl"),
                         "python_model.pkl": EVIL},
        "sklearn-pickle": {**good, "model.pkl": EVIL},
        "artifact-pickle": {**good, "artifacts/deep/down/x.dat": EVIL},
        "trusted-types": {"MLmodel": mlmodel() + "    skops_trusted_types: [os.system]\n",
                          "model.skops": _skops("os", "system")},
        "trusted-unknown": {"MLmodel": mlmodel() + "    skops_trusted_types: [evil.Model]\n"},
        "model-class": {"MLmodel": mlmodel() + "    model_class: evil.Model\n"},
        "extra-index": {**good, "requirements.txt": "--extra-index-url https://localhost/\nnumpy\n"},
        "index": {**good, "requirements.txt": "-i https://user:secret@localhost/\nnumpy\n"},
        "repository": {**good, "requirements.txt": "git+https://localhost/x.git\n"},
        "direct-url": {**good, "requirements.txt": "numpy @ https://localhost/numpy.whl\n"},
        "local-archive": {**good, "requirements.txt": "./evil-1.0.tar.gz\n"},
        "find-links": {**good, "requirements.txt": "--find-links .\nnumpy\n"},
        "continued-line": {**good, "requirements.txt": "numpy \\\n -i https://localhost\n"},
        "preload": {**good, "conda.yaml": "variables: {LD_PRELOAD: ./x.so}\n"},
        "conda-channel": {**good, "conda.yaml": "channels: ['https://localhost/c']\n"},
        "conda-pip": {**good, "conda.yaml": "dependencies: [{pip: ['git+https://localhost/x']}]\n"},
        "python-env": {**good, "python_env.yaml": "build_dependencies: ['./evil']\n"},
        "alias-yaml": {**good, "MLmodel": "flavors: &x {a: {loader_module: evil}}\nb: *x\n"},
        "double-key": {**good, "MLmodel": mlmodel() + "flavors: {}\n"},
        "tagged-yaml": {**good, "MLmodel": "!!python/object/apply:os.system ['true']\n"},
        "traversal": {**good, "MLmodel": mlmodel(model_path="../../other/model.pkl")},
        "absolute": {**good, "MLmodel": mlmodel(data="/etc/passwd")},
        "auto-map": {
            "config.json": json.dumps({"model_type": "x", "auto_map": {"AutoModel": "modeling.M"}}),
            "modeling.py": "x = 1\n",
        },
        "auto-map-elsewhere": {
            "config.json": json.dumps({"auto_map": {"AutoModel": "someone/else--modeling.M"}}),
        },
        "training-args": {"config.json": '{"model_type": "x"}', "training_args.bin": EVIL},
        "evidence-name": {**good, "modelarmor/evidence.json": EVIL.decode("latin-1").encode()},
        "meta-name": {**good, "registered_model_meta": EVIL},
        "hidden-source": {**good, "data/.x.py": "exec(input())\n"},
    }  # fmt: skip
    return cases


def cases() -> dict[str, Content]:
    """Every case by name."""
    return {**pickles(), **made(), **archives(), **formats(), **directories()}


def write(directory: Path, content: Mapping[str, Content]) -> None:
    """Write cases below a directory."""
    for name, case in content.items():
        files = {"": case} if isinstance(case, bytes) else case
        for inner, value in files.items():
            path = directory / name / inner if inner else directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(value if isinstance(value, bytes) else value.encode())


if __name__ == "__main__":
    everything = cases()
    write(Path(sys.argv[1]), everything)
    print(len(everything), "cases in", sys.argv[1])
