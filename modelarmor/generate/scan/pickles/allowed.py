"""Which names a model may import: an allow-list, since lists of what is bad are never complete.

A name is allowed because of what it is, not because it was seen: a constructor of plain data; a
class of a library's models, which unpickling fills without running it; a function of numbers.
Whatever takes a path, a name, a command or code is not, wherever it is defined. Names with a dot in
them lead from one object to another and are allowed only between classes.

Two grades: `construct`, which may be called with any arguments, and `fill`, of which an empty
instance may be made and filled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, Literal

Grade = Literal["construct", "fill", "code", "danger", "unknown"]

#: module -> names that may be called with anything
_NAMES: Final[Mapping[str, str]] = {
    "builtins":
        "set frozenset list dict tuple int float str bytes bytearray complex slice range "
        "bool object NoneType Ellipsis NotImplemented",
    "collections": "OrderedDict defaultdict deque Counter",
    "copyreg": "_reconstructor",
    "datetime": "datetime date time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "uuid": "UUID SafeUUID",
    "pathlib": "PosixPath PurePosixPath PureWindowsPath WindowsPath Path",
    "pathlib._local": "PosixPath PurePosixPath PureWindowsPath WindowsPath Path",
    "zoneinfo": "ZoneInfo._unpickle",
    "_codecs": "encode",
    "array": "array _array_reconstructor",
    "numpy":
        "ndarray dtype matrix recarray record generic bool_ bool int8 int16 int32 int64 "
        "uint8 uint16 uint32 uint64 intc uintc intp uintp longlong ulonglong float16 "
        "float32 float64 longdouble float128 complex64 complex128 complex256 clongdouble "
        "str_ bytes_ void object_ datetime64 timedelta64 RankWarning",
    "numpy._core.multiarray": "_reconstruct scalar ndarray dtype",
    "numpy._core.numeric": "_frombuffer",
    "numpy._core.records": "recarray record",
    "numpy.ma": "MaskedArray",
    "numpy.ma.core": "_mareconstruct MaskedArray MaskedConstant",
    "numpy.matrixlib.defmatrix": "matrix",
    "numpy.rec": "recarray record",
    "numpy.random._pickle": "__randomstate_ctor __generator_ctor __bit_generator_ctor",
    "numpy.random._mt19937": "MT19937 __pyx_unpickle_MT19937",
    "numpy.random._pcg64": "PCG64 PCG64DXSM",
    "numpy.random._philox": "Philox",
    "numpy.random._sfc64": "SFC64",
    "numpy.random._generator": "Generator",
    "numpy.random.mtrand": "RandomState",
    "numpy.random.bit_generator": "SeedSequence __pyx_unpickle_SeedSequence",
    "numpy.polynomial.polynomial": "Polynomial",
    "numpy.polynomial.chebyshev": "Chebyshev",
    "joblib.numpy_pickle": "NumpyArrayWrapper",
    "scipy.interpolate._bsplines": "BSpline",
    "scipy.interpolate._interpolate": "interp1d PPoly BPoly",
    "scipy.interpolate._cubic": "CubicSpline PchipInterpolator Akima1DInterpolator",
    "scipy.interpolate._fitpack2":
        "UnivariateSpline InterpolatedUnivariateSpline LSQUnivariateSpline",
    "scipy.stats._kde": "gaussian_kde",
    "scipy.spatial._ckdtree": "cKDTree cKDTreeNode",
    "scipy.spatial._kdtree": "KDTree",
    "scipy.optimize._optimize": "OptimizeResult",
    "scipy._lib._util": "_RichResult",
    "pandas":
        "DataFrame Series Index RangeIndex MultiIndex DatetimeIndex TimedeltaIndex "
        "PeriodIndex CategoricalIndex IntervalIndex Categorical CategoricalDtype "
        "StringDtype BooleanDtype DatetimeTZDtype PeriodDtype IntervalDtype SparseDtype "
        "Int8Dtype Int16Dtype Int32Dtype Int64Dtype UInt8Dtype UInt16Dtype UInt32Dtype "
        "UInt64Dtype Float32Dtype Float64Dtype Interval Timestamp Timedelta Period",
    "pandas.arrays":
        "ArrowStringArray StringArray DatetimeArray TimedeltaArray PeriodArray "
        "IntervalArray IntegerArray FloatingArray BooleanArray SparseArray "
        "NumpyExtensionArray",
    "pandas.core.internals.managers": "BlockManager SingleBlockManager",
    "pyarrow.lib": "_restore_array type_for_alias py_buffer",
    "pandas._libs.arrays": "__pyx_unpickle_NDArrayBacked NDArrayBacked",
    "pandas._libs.internals": "_unpickle_block BlockPlacement __pyx_unpickle_BlockPlacement",
    "pandas._libs.tslibs.timestamps": "_unpickle_timestamp Timestamp",
    "pandas._libs.tslibs.timedeltas": "_timedelta_unpickle Timedelta",
    "pandas._libs.tslibs.period": "_unpickle_period Period",
    "pandas._libs.tslibs.nattype": "_nat_unpickle NaTType",
    "pandas._libs.missing": "NAType",
    "pandas.core.indexes.base": "_new_Index Index",
    "pandas.core.indexes.datetimes": "_new_DatetimeIndex DatetimeIndex",
    "pandas.core.internals.blocks": "new_block Block",
    "torch":
        "ScriptObject Size device Tensor dtype layout memory_format finfo iinfo BoolStorage "
        "ByteStorage CharStorage ShortStorage IntStorage LongStorage HalfStorage "
        "FloatStorage DoubleStorage BFloat16Storage ComplexFloatStorage "
        "ComplexDoubleStorage QInt8Storage QUInt8Storage QInt32Storage QUInt4x2Storage "
        "QUInt2x4Storage UntypedStorage TypedStorage Generator FloatTensor DoubleTensor "
        "HalfTensor BFloat16Tensor ByteTensor CharTensor ShortTensor IntTensor LongTensor "
        "BoolTensor float16 float32 float64 half float double bfloat16 int8 int16 int32 "
        "int64 uint8 uint16 uint32 uint64 short int long bool complex32 complex64 "
        "complex128 cfloat cdouble qint8 quint8 qint32 quint4x2 quint2x4 float8_e4m3fn "
        "float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2 "
        "strided sparse_coo sparse_csr contiguous_format preserve_format channels_last "
        "channels_last_3d per_tensor_affine per_channel_affine per_tensor_symmetric "
        "per_channel_symmetric",
    "torch._utils":
        "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter "
        "_rebuild_parameter_with_state _rebuild_qtensor _rebuild_sparse_tensor "
        "_rebuild_sparse_csr_tensor _rebuild_nested_tensor _rebuild_meta_tensor_no_storage "
        "_rebuild_wrapper_subclass _rebuild_device_tensor_from_numpy _rebuild_xla_tensor",
    "torch._tensor": "_rebuild_from_type_v2 Tensor",
    "torch.storage": "UntypedStorage TypedStorage _LegacyStorage",
    "torch.nn.parameter": "Parameter Buffer UninitializedParameter UninitializedBuffer",
    "torch.serialization": "_get_layout",
    "torch.jit._pickle":
        "build_intlist build_tensorlist build_doublelist build_boollist "
        "build_tensor_from_id restore_type_tag",
    "torch.nn.modules.module": "_WrappedHook",
    "torch.utils.hooks": "RemovableHandle unserializable_hook",
    "torch.nn.quantizable.modules.activation": "MultiheadAttention",
    "mlflow.pyfunc.model": "PythonModel",
    "mlflow.pyfunc.utils.data_validation": "FuncInfo _validate_model_input",
    "mlflow.exceptions": "MlflowException",
    "mlflow.models.signature": "_TypeHints ModelSignature",
    "sklearn.utils._bunch": "Bunch",
    "sklearn.utils._metadata_requests":
        "MetadataRequest MethodMetadataRequest MetadataRouter MethodMapping "
        "RouterMappingPair MethodPair",
}  # fmt: skip

#: modules whose classes are parts of models: their `__init__` keeps arguments, and does no more
_CONSTRUCTED: Final = (
    "sklearn", "scipy.stats", "torch.nn.modules", "torch.ao.nn", "torch.nn.quantized",
    "torch.optim", "torch.nn.utils", "torchvision.models", "torchvision.ops", "imblearn", "hdbscan",
)  # fmt: skip
#: modules whose classes may be filled: their `__init__` can read files or start things
_FILLED: Final = (
    "xgboost.core", "xgboost.sklearn", "lightgbm.basic", "lightgbm.sklearn", "catboost.core",
    "_catboost", "pandas.core.frame", "pandas.core.series", "pandas.core.indexes",
    "pandas.core.internals", "pandas.core.arrays", "pandas.core.dtypes.dtypes",
    "pandas._libs", "pandas.offsets", "transformers.models", "transformers.training_args",
    "transformers.trainer_utils", "transformers.trainer_pt_utils",
    "transformers.configuration_utils", "transformers.generation.configuration_utils",
    "transformers.tokenization_utils", "transformers.tokenization_utils_base",
    "transformers.tokenization_utils_fast", "transformers.activations", "tokenizers",
    "statsmodels", "prophet.forecaster", "pmdarima", "sentence_transformers.models",
    "mlflow.types", "mlflow.models.signature", "category_encoders", "timm.models", "timm.layers",
    "peft.tuners", "peft.utils.peft_types", "accelerate.utils.dataclasses", "skorch",
    "sklearn_pandas", "umap", "pytorch_lightning.callbacks", "gensim.models", "spacy.vocab",
)  # fmt: skip
#: below those, what is no part of a model: it fetches, writes, tests or starts things
_NEVER: Final = re.compile(
    r"sklearn\.(datasets|externals|_build_utils|conftest|experimental|"
    r"utils(?!\._(bunch|metadata_requests|tags)))"
    r"|statsmodels\.(datasets|iolib|tools\.(testing|web))|pmdarima\.datasets"
    r"|.*\.(tests?|testing|conftest|_testing|benchmarks?|setup)(\.|$)"
)
#: `_LIB` and its like are handles of libraries, not classes
_CLASS: Final = re.compile(r"(?!_+[A-Z0-9_]+$)_{0,2}[A-Z][A-Za-z0-9_]*")
#: what such modules import for themselves: it acts when it is called, or makes classes or modules
_ACTS: Final = frozenset({
    "F", "Parallel", "Memory", "Path", "Popen", "Thread", "Process", "Pool", "Queue", "Lock",
    "Event", "Client", "Listener", "Connection", "ThreadPoolExecutor", "ProcessPoolExecutor",
    "NamedTemporaryFile", "TemporaryFile", "TemporaryDirectory", "SpooledTemporaryFile",
    "ExcelWriter", "HDFStore", "DataSource", "Session", "Console", "Progress", "Any",
    "Callable", "NamedTuple", "TypedDict", "TypeVar", "ParamSpec", "NewType", "ABCMeta", "Enum",
    "IntEnum", "EnumMeta", "Generic", "Protocol", "Parameter", "Generator", "Template",
    "Environment", "Logger", "StringIO", "BytesIO", "CDLL",
})  # fmt: skip

#: functions of numbers: module -> names
_FUNCTIONS: Final[Mapping[str, re.Pattern[str]]] = {
    module: re.compile(names)
    for module, names in {
        r"numpy": r"mean|median|sum|prod|min|max|amin|amax|std|var|abs|absolute|fabs|sqrt|square|"
        r"cbrt|exp|exp2|expm1|log|log2|log10|log1p|sin|cos|tan|tanh|sinh|cosh|arcsinh|sign|floor|"
        r"ceil|rint|round|clip|isnan|isfinite|nan_to_num|reciprocal|average|nanmean|nanmedian|"
        r"argmax|argmin|maximum|minimum|add|subtract|multiply|divide|power|identity|ravel|squeeze|"
        r"asarray|array|ones|zeros|arange|linspace|logaddexp|percentile|quantile|dot|cumsum|diff",
        r"scipy\.special(\._ufuncs)?": r"(?!(tests?|np|scipy|\w*(basic|orthogonal|sf_error|specfun|"
        r"stats|special|newdocs))$)[a-z][a-z0-9_]*",
        r"scipy\.stats(\._\w+)?": r"[a-z0-9_]+_gen|rv_(continuous_|discrete_)?frozen|"
        r"rv_histogram",
        r"scipy\.sparse(\._\w+|\.\w+)?": r"(csr|csc|coo|lil|dok|dia|bsr)_(matrix|array)",
        r"scipy\._lib\.array_api_compat\.\w+\._aliases": r"asarray",
        r"sklearn\.metrics(\.[\w.]+)?": r"[a-z0-9_]+_(score|scores|loss|error|curve|deviance|index|"
        r"distance|distances|kernel|kernels|similarity|matrix|coefficient|coverage)|newObj",
        r"sklearn\.neighbors\._\w+": r"newObj",
        r"sklearn\.feature_selection\._\w+": r"f_classif|f_regression|f_oneway|chi2|r_regression|"
        r"mutual_info_(classif|regression)",
        r"sklearn\.cluster\._\w+": r"_kmeans_single_\w+|lloyd_iter_\w+|elkan_iter_\w+",
        r"sklearn\.gaussian_process\.kernels": r"_approx_fprime",
        r"sklearn\._loss\._loss": r"__pyx_unpickle_Cy\w+",
        r"sklearn\.[\w.]*_\w+": r"__pyx_unpickle_[A-Z]\w+",
        r"torch\.nn\.functional|torch(\._C\._nn)?": r"relu6?|gelu|silu|"
        r"elu|selu|celu|glu|leaky_relu|rrelu|prelu|tanh|sigmoid|logsigmoid|softmax|log_softmax|"
        r"softmin|softplus|softsign|mish|hardtanh|hardswish|hardsigmoid|tanhshrink|hardshrink|"
        r"[a-z0-9_]+_loss|cross_entropy|nll_loss|kl_div|cosine_similarity|pairwise_distance",
    }.items()
}  # fmt: skip

#: what carries code by design: a function's bytecode, or source
_CODE: Final = re.compile(
    r"cloudpickle(\.cloudpickle(_fast)?)?\.(?!loads?$|dumps?$)\w+"
    r"|dill(\._dill)?\.(?!loads?$|dumps?$)\w+|types\.(CodeType|FunctionType|LambdaType)"
    r"|torch\.fx\.(_\w+\.)?(graph_module\.)?\w+|torch\.package\.\w+(\.\w+)*"
    r"|torch\.jit\.(?!_pickle\.)\w+(\.\w+)*"
)

#: what acts on the world: severities rest on this, the verdict does not
_DANGER: Final = re.compile(
    r"(os|posix|nt|subprocess|commands|popen2|pty|socket|ctypes|runpy|pip|ensurepip|importlib|imp|"
    r"webbrowser|shutil|socketserver|code|codeop|pdb|bdb|cProfile|profile|timeit|trace|sys|signal|"
    r"_posixsubprocess|_winapi|winreg|msvcrt|pexpect|paramiko|ftplib|smtplib|telnetlib|imaplib|"
    r"poplib|nntplib|http|urllib|requests|httpx|aiohttp|asyncio|multiprocessing|threading|_thread|"
    r"zipimport|pydoc|idlelib|lib2to3|doctest|_osx_support|_aix_support|_pyrepl|py_compile|IPython|"
    r"fileinput|linecache|tempfile|sqlite3|dbm|shelve|marshal|git|boto3)\..+"
    r"|builtins\.(exec|eval|execfile|compile|open|file|input|__import__|getattr|setattr|delattr|"
    r"globals|locals|vars|breakpoint|type|apply|map|filter)"
    r"|(_)?operator\.(attrgetter|methodcaller|itemgetter|call|getitem|setitem)"
    r"|functools\.(partial|reduce|partialmethod)|(_)?io\.(open|open_code|FileIO|TextIOWrapper)"
    r"|(_)?pickle\.(loads?|Unpickler|_Unpickler|_loads?)|cloudpickle\.loads?|dill\.loads?"
    r"|joblib\.(load|dump|Memory)|torch\.(load|save|hub\..+|ops\..+|storage\._load_from_bytes"
    r"|serialization\.(load|save).*|utils\.(cpp_extension|bottleneck|collect_env|_config_module)\..+"
    r"|_dynamo\..+|_inductor\..+|distributed\..+|multiprocessing\..+)"
    r"|numpy\.(load|save|savez|fromfile|memmap|genfromtxt|loadtxt|savetxt|DataSource|testing\..+|"
    r"f2py\..+|distutils\..+|lib\..+|compat\..+)"
    r"|pandas\.(eval|read_\w+|io\..+|core\.computation\..+|HDFStore|ExcelWriter)"
    r"|pkgutil\..+|types\.(CodeType|FunctionType|ModuleType)|logging\.(FileHandler|config\..+)"
    r"|uuid\._.+|platform\.(popen|_syscmd.*)|gc\..+|atexit\..+|pathlib\.Path\..+"
)  # fmt: skip


@lru_cache(maxsize=20_000)
def grade(module: str, name: str) -> Grade:
    """What may be done with `module.name`; `code` and `danger` are what nothing may be done with.

    Args:
        module: as the pickle names it.
        name: with dots, where it leads from one object to another.
    """
    path = f"{module}.{name}"
    if len(path) > 300 or not all(part.isidentifier() for part in path.split(".")):
        return "unknown"
    plain = module.replace("numpy.core", "numpy._core")
    if name in _NAMES.get(plain, "").split():
        return "construct"
    if _CODE.fullmatch(path):
        return "code"
    if _DANGER.fullmatch(path):
        return "danger"
    if _is_class(name) and not _NEVER.match(plain):
        if _below(plain, _CONSTRUCTED):
            return "construct"
        if _below(plain, _FILLED):
            return "fill"
    for where, names in _FUNCTIONS.items():
        if re.fullmatch(where, plain) and names.fullmatch(name):
            return "construct"
    return "unknown"


def _below(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _is_class(name: str) -> bool:
    """Whether it looks like a class, or a class within one, and is none that acts."""
    parts = name.split(".")
    return all(_CLASS.fullmatch(part) and part not in _ACTS for part in parts)
