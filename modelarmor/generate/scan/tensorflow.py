"""TensorFlow's SavedModel: which operations its graphs have.

Fields: tensorflow/core/protobuf/{saved_model,meta_graph}.proto and framework/{graph,function,
node_def}.proto. A graph is a program; most operations compute, these reach outside.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from modelarmor.generate.artifact.data import Data
from modelarmor.generate.scan import keras, wire
from modelarmor.generate.scan.budget import Budget
from modelarmor.generate.scan.report import EXECUTE, READ, WRITE, Report

#: run Python
_PYTHON: Final = re.compile(r"(Eager)?PyFunc(Stateless)?|NumpyFunction")
_WRITES: Final = re.compile(
    r"WriteFile|PrintV2|WriteSummary|Write\w+Summary|CreateSummary(File|Db)Writer|SaveDataset(V2)?|"
    r"DebugIdentity(V[23])?|DebugNumericSummary(V2)?|DebugNanCount|SaveSlices|.*Recorder|"
    r"(Delete|Rename|Copy)File\w*|.*CheckpointCallback|DumpTensor\w*|SnapshotDataset(V2)?"
)
_READS: Final = re.compile(
    r"ReadFile|MatchingFiles(Dataset)?|WholeFileReader(V2)?|TextLineReader(V2)?|TextLineDataset|"
    r"TFRecord(Reader(V2)?|Dataset(V2)?)|FixedLengthRecord(Reader(V2)?|Dataset(V2)?)|ImmutableConst|"
    r"LMDB\w+|SqlDataset|LoadDataset(V2)?|CSVDataset(V2)?|Experimental\w*(CSV|Sql|Lmdb)\w*"
)
_NETWORK: Final = re.compile(
    r"Rpc\w+|TryRpc|RemoteCall|DataService\w+|.*BigQuery\w*|Grpc\w+|.*Kafka\w*|Worker\w*|"
    r"GcsConfigure\w+|.*Http\w*"
)
_LOADS: Final = re.compile(r"LoadLibrary|.*CustomCall\w*|.*NativeCall\w*|TritonKernel\w*")
_MAX_NODES: Final = 3_000_000


def look(report: Report, data: Data, location: str, budget: Budget) -> None:
    """Find the operations of every graph and function, and Keras's layers beside them."""
    found: Counter[str] = Counter()
    try:
        for meta in wire.fields(data, budget.tick):
            if meta.number == 2:
                _meta_graph(meta.part, found, budget)
    except wire.WireError as error:
        report.incomplete(location, f"it is no SavedModel: {error}")
        return
    _tell(report, found, location)
    keras.look_within(report, data, location, budget)
    report.inspected.add(location)


def look_graph(report: Report, data: Data, location: str, budget: Budget) -> None:
    """The same for bytes that may be a bare graph (GraphDef)."""
    try:
        found = Counter(name for name in _operations(data, budget) if name.isidentifier())
    except wire.WireError:
        return
    _tell(report, found, location)


def _meta_graph(data: Data, found: Counter[str], budget: Budget) -> None:
    for item in wire.fields(data, budget.tick):
        if item.number == 2:
            for operation in _operations(item.part, budget):
                found[operation] += 1
                if sum(found.values()) > _MAX_NODES:
                    raise wire.WireError(f"it has more than {_MAX_NODES} operations")


def _operations(graph: Data, budget: Budget) -> Iterator[str]:
    for item in wire.fields(graph, budget.tick):
        if item.number == 1:
            yield _operation(item.part)
        elif item.number == 2:
            for function in wire.fields(item.part, budget.tick):
                if function.number == 1:
                    for node in wire.fields(function.part, budget.tick):
                        if node.number == 3:
                            yield _operation(node.part)


def _operation(node: Data) -> str:
    for item in wire.fields(node):
        if item.number == 2:
            return item.text
    return ""


def _tell(report: Report, found: Counter[str], location: str) -> None:
    for operation, count in found.items():
        told = f"{operation}, {count} times"
        if _PYTHON.fullmatch(operation):
            report.add("tf-python-op", "critical", "An operation runs Python code",
                       location=location, detail=told, techniques=EXECUTE)  # fmt: skip
        elif _LOADS.fullmatch(operation):
            report.add("tf-native-op", "high", "An operation runs code from elsewhere",
                       location=location, detail=told, techniques=EXECUTE)  # fmt: skip
        elif _WRITES.fullmatch(operation):
            report.add("tf-write-op", "critical" if operation == "WriteFile" else "high",
                       "An operation writes files", location=location, detail=told,
                       techniques=WRITE)  # fmt: skip
        elif _READS.fullmatch(operation):
            report.add("tf-read-op", "critical" if operation == "ReadFile" else "high",
                       "An operation reads files", location=location, detail=told,
                       techniques=READ)  # fmt: skip
        elif _NETWORK.fullmatch(operation):
            report.add("tf-network-op", "high", "An operation uses the network",
                       location=location, detail=told, techniques=READ)  # fmt: skip
