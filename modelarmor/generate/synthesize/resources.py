"""How much of the machine a served model may use: what it used when watched, and room."""

from __future__ import annotations

from typing import Final

from modelarmor.generate.evidence import Observation

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30

#: what MLflow's scoring server needs besides the model, measured with two workers' imports
_SERVER_MEMORY: Final = 512 * _MIB
#: threads of libraries grow with the processors of the machine, and these are another's
_LEAST_PROCESSES: Final = 256


def limits(observation: Observation | None) -> dict[str, str]:
    """Limits in Kubernetes' words.

    Memory is half as much again as was used, and the server; processes twice as many; scratch
    twice as much; each rounded up, so that the figures of two runs are the same. Where the model
    was not seen to predict they are the profile's own.
    """
    memory, processes, disk = 8 * _GIB, 256, 2 * _GIB
    if observation is not None and "serve" in observation.completed:
        usage = observation.usage
        memory = _up(usage.memory * 3 // 2 + _SERVER_MEMORY, 512 * _MIB)
        processes = max(_LEAST_PROCESSES, _up(usage.processes * 2 + 64, 64))
        disk = _up(usage.disk * 2 + 256 * _MIB, 256 * _MIB)
    return {
        "cpu": "2",
        "memory": f"{memory // _MIB}Mi",
        "pids": str(processes),
        "open-files": "4096",
        "ephemeral-storage": f"{disk // _MIB}Mi",
    }


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
