"""What the panel in JupyterLab costs, and how soon it shows a refusal.

``python -m benchmarks.panel`` starts JupyterLab and a headless Chromium and prints a table. The
kernel, the server and the browser share the machine and its clock, so a time that the kernel noted
can be subtracted from one that the page did.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from tests.browser.support import CONFINED, Browser, Home, Lab, User, missing

_FLOOD = 100_000
# Notes when each row is painted first: the frame after the change of the document.
_WATCH = """() => {
    window.painted = {};
    const look = () => {
        for (const node of document.querySelectorAll('.jp-ModelArmor-resource')) {
            const path = node.textContent;
            if (!(path in painted)) {
                painted[path] = 0;
                requestAnimationFrame(() => setTimeout(() => { painted[path] = Date.now(); }));
            }
        }
    };
    new MutationObserver(look).observe(
        document.querySelector('#modelarmor-violations'),
        {childList: true, subtree: true, characterData: true});
}"""
_FRAMES = """() => {
    window.frames_ = [];
    let last = performance.now();
    const next = now => { frames_.push(now - last); last = now; requestAnimationFrame(next); };
    requestAnimationFrame(next);
}"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.panel", description=__doc__)
    parser.add_argument("--refusals", type=int, default=200, help="for the latency (200)")
    parser.add_argument("--idle", type=int, default=60, help="seconds of doing nothing (60)")
    arguments = parser.parse_args(argv)
    if reason := missing():
        print(f"benchmarks.panel: {reason}", file=sys.stderr)
        return 1
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    with Browser() as browser:
        with _user(browser) as user:
            _latency(user, arguments.refusals)
        for extension in (False, True):
            with _user(browser, extension=extension) as user:
                _idle(user, arguments.idle, extension=extension)
        for rows in (20_000, 200_000):
            with _user(browser, rows=rows) as user:
                _flood(user, rows)
    return 0


@contextmanager
def _user(browser: Browser, *, extension: bool = True, rows: int = 20_000) -> Iterator[User]:
    with tempfile.TemporaryDirectory(prefix="ma-") as top:
        home = Home(Path(top))
        settings = home.config / "lab" / "user-settings" / "@modelarmor" / "labextension"
        settings.mkdir(parents=True)
        (settings / "plugin.jupyterlab-settings").write_text(json.dumps({"rowsKept": rows}))
        config = home.config / "labconfig"
        config.mkdir()
        disabled = {} if extension else {"@modelarmor/labextension": True}
        (config / "page_config.json").write_text(json.dumps({"disabledExtensions": disabled}))
        lab = Lab(home, f"c.ModelArmor.record_capacity = {_FLOOD}\n")
        try:
            with browser.user(lab) as user:
                yield user
        finally:
            lab.stop()


def _open(user: User, cell: str, *, panel: bool = True) -> None:
    user.lab.write_notebook("n.ipynb", [cell], kernel=CONFINED)
    user.open("n.ipynb")
    if panel:
        user.command("modelarmor:open-panel")
        user.page.locator("#modelarmor-violations").wait_for()


def _latency(user: User, refusals: int) -> None:
    cell = (
        "import json, time\ntimes = {}\n"
        f"for i in range({refusals}):\n"
        f"    path = '{_keys(user)}/' + str(i)\n"
        "    times[path] = time.time() * 1000\n"
        "    try: open(path)\n    except OSError: pass\n"
        "    time.sleep(0.25)\n"
        "print(json.dumps(times))"
    )
    _open(user, cell)
    user.page.evaluate(_WATCH)
    user.run_all()
    refused: dict[str, float] = json.loads(user.outputs()[0])
    user.page.wait_for_function(f"painted['{_keys(user)}/{refusals - 1}'] > 0")
    painted: dict[str, float] = user.page.evaluate("painted")
    waits = sorted(painted[path] - at for path, at in refused.items() if painted.get(path))
    print(f"refused call to painted row, {len(waits)} of {refusals}: {_spread(waits)}")


def _idle(user: User, seconds: int, *, extension: bool) -> None:
    _open(user, "1 + 1", panel=extension)
    user.page.wait_for_timeout(10_000)
    asked = len(user.answers)
    session: Any = user.context.new_cdp_session(user.page)
    session.send("Performance.enable")
    before = _read(session)
    user.page.wait_for_timeout(seconds * 1000)
    after = _read(session)
    requests = [line for line in user.answers[asked:] if "modelarmor/api" in line]
    per_minute = 60 / seconds
    busy = (after["TaskDuration"] - before["TaskDuration"]) * 1000 * per_minute
    which = "with the panel open" if extension else "without the extension"
    print(
        f"idle {which}: {busy:.0f} ms of the page's thread and"
        f" {len(requests) * per_minute:.0f} requests of the panel a minute,"
        f" heap {after['JSHeapUsedSize'] / 2**20:.1f} MiB"
    )


def _flood(user: User, rows: int) -> None:
    cell = (
        f"for i in range({_FLOOD}):\n"
        f"    try: open('{_keys(user)}/' + str(i))\n    except OSError: pass"
    )
    _open(user, cell)
    user.page.wait_for_timeout(2000)
    before = _metrics(user)["JSHeapUsedSize"]
    user.page.evaluate(_FRAMES)
    user.run_all()
    # in a flood the enforcer only counts some, so the last path need not be listed
    user.page.wait_for_function(
        f"document.querySelector('.jp-ModelArmor-counts').innerText.includes('{_FLOOD // 1000},0')"
    )
    frames = sorted(user.page.evaluate("frames_.splice(0)"))
    held = _metrics(user)["JSHeapUsedSize"] - before
    print(
        f"{_FLOOD:,} alerts, {rows:,} rows kept: heap +{held / 2**20:.1f} MiB;"
        f" frames meanwhile: {_spread(frames)}"
    )
    user.page.evaluate("document.querySelector('.jp-ModelArmor-list').focus()")
    user.page.evaluate("frames_.length = 0")
    for _ in range(60):
        user.page.keyboard.press("PageDown")
    print(f"  frames while paging down: {_spread(sorted(user.page.evaluate('frames_')))}")


def _keys(user: User) -> Path:
    """A directory that no profile opens."""
    return user.lab.home.path / ".ssh"


def _metrics(user: User) -> dict[str, float]:
    session: Any = user.context.new_cdp_session(user.page)
    session.send("Performance.enable")
    session.send("HeapProfiler.collectGarbage")
    metrics = _read(session)
    session.detach()
    return metrics


def _read(session: Any) -> dict[str, float]:
    answer = session.send("Performance.getMetrics")
    return {item["name"]: item["value"] for item in answer["metrics"]}


def _spread(values: Sequence[float]) -> str:
    """Of sorted milliseconds."""
    p99 = values[min(len(values) - 1, int(len(values) * 0.99))]
    return f"p50 {median(values):.0f} ms, p99 {p99:.0f} ms, longest {values[-1]:.0f} ms"


if __name__ == "__main__":
    sys.exit(main())
