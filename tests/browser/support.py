"""A real JupyterLab in a process of its own, and a real browser that a user sits at.

Everything that a test writes lies in one directory: the user's home, the notebooks, and the
configuration, data and runtime directories of the server. Kernels are real and confined.

::

    lab = Lab(Home(tmp_path), config="c.ModelArmor.default_profile = 'notebook'")
    lab.write_notebook("n.ipynb", ["1 + 1"], kernel="modelarmor-notebook")
    with Browser() as browser, browser.user(lab) as user:
        user.open("n.ipynb")
        user.run_all()
        user.page.locator(".jp-OutputArea-output").wait_for()
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import requests

from ..jupyter.server import TOKEN, Server

if TYPE_CHECKING:
    import playwright.sync_api
    from playwright.sync_api import BrowserContext, Page

CONFINED = "modelarmor-notebook"
UNTRUSTED = "modelarmor-untrusted-model"

# Two applications, and what each calls the trait that lets a test reach into it
_APPLICATIONS = {"lab": "LabApp", "notebook": "JupyterNotebookApp"}
_PATIENCE_MS = 90_000  # the machine may be busy with something else
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def missing() -> str:
    """Why no browser can be driven here; empty where one can."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed (pip install 'modelarmor[test]')"
    if _chromium() is None:
        return f"no browser: none of {', '.join(_PROGRAMS)} is on the PATH (apt install chromium)"
    return ""


def _chromium() -> str | None:
    return next((found for name in _PROGRAMS if (found := shutil.which(name))), None)


class Home:
    """A user's home with secrets in it, the directory of the notebooks, and Jupyter's own."""

    def __init__(self, top: Path, path: Path | None = None) -> None:
        self.top = top
        self.path = path or top / "h"
        #: what the server serves and kernels work in
        self.root = self.path / "work"
        self.scratch = top / "s"  # sockets want a short path
        self.config = top / "etc"
        self.data = top / "data"
        self.runtime = top / "run"
        for directory in (self.root, self.config, self.data, self.runtime):
            directory.mkdir(parents=True, exist_ok=True)
        (self.path / ".ssh").mkdir(exist_ok=True)
        (self.path / ".ssh" / "id_ed25519").write_text("a private key\n")

    def environment(self) -> dict[str, str]:
        """The variables that keep a server, and the kernels it does not confine, in here."""
        return {
            "HOME": str(self.path),
            "IPYTHONDIR": str(self.top / "ipython"),
            "JUPYTER_CONFIG_DIR": str(self.config),
            "JUPYTER_DATA_DIR": str(self.data),
            "JUPYTER_RUNTIME_DIR": str(self.runtime),
            "JUPYTERLAB_SETTINGS_DIR": str(self.config / "lab" / "user-settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(self.config / "lab" / "workspaces"),
            "JUPYTER_PLATFORM_DIRS": "0",
            "PYTHONWARNINGS": "ignore",
            "SECRET_TOKEN": "the server's",
        }


class Lab(Server):
    """``jupyter lab`` (or ``jupyter notebook``) as a user starts it, on the root of a `Home`."""

    def __init__(
        self,
        home: Home,
        config: str = "",
        *,
        app: Literal["lab", "notebook"] = "lab",
        arguments: Sequence[str] = (),
        env: dict[str, str] | None = None,
    ) -> None:
        self.home = home
        self.app = app
        self.runtime = home.runtime
        self.log = home.top / "server.log"
        (home.config / "jupyter_server_config.py").write_text(
            f"c.ModelArmor.scratch_directory = {str(home.scratch)!r}\n"
            f"c.{_APPLICATIONS[app]}.expose_app_in_browser = True\n"  # `jupyterapp`, for the test
            "c.LabApp.news_url = None\n"
            "c.LabApp.check_for_updates_class = 'jupyterlab.NeverCheckForUpdate'\n" + config
        )
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "jupyterlab" if app == "lab" else "notebook",
                    "--no-browser",
                    "--allow-root",
                    f"--IdentityProvider.token={TOKEN}",
                    "--ServerApp.port=0",
                    f"--ServerApp.root_dir={home.root}",
                    *arguments,
                ],
                env={**os.environ, **home.environment(), **(env or {})},
                stdout=log,
                stderr=log,
            )
        try:
            self.url = self._url()
        except AssertionError:
            self.process.kill()
            self.process.wait()
            raise
        self.http = requests.Session()
        self.http.headers["Authorization"] = f"token {TOKEN}"

    def write_notebook(
        self,
        name: str,
        cells: Sequence[str],
        *,
        kernel: str = CONFINED,
        metadata: dict[str, Any] | None = None,
    ) -> Path:
        """Write a notebook of code cells below the root, as an attacker or a colleague would."""
        path = self.home.root / name
        document = {
            "nbformat": 4,
            "nbformat_minor": 5,
            "metadata": {
                "kernelspec": {"name": kernel, "display_name": kernel, "language": "python"},
                **(metadata or {}),
            },
            "cells": [
                {
                    "id": f"cell-{number}",
                    "cell_type": "code",
                    "source": source,
                    "metadata": {},
                    "outputs": [],
                    "execution_count": None,
                }
                for number, source in enumerate(cells)
            ],
        }
        path.write_text(json.dumps(document))
        return path

    def kernels(self) -> list[dict[str, Any]]:
        """The state of every kernel of this server, from the enforcer's side."""
        states: list[dict[str, Any]] = self.get("modelarmor/api/kernels")
        return states

    def unconfined(self) -> list[str]:
        """The ids of kernels that run outside of the sandbox."""
        return [state["kernel_id"] for state in self.kernels() if not state["confined"]]

    def end_kernels(self) -> None:
        """Shut every session and kernel down, for the next test."""
        for kernel in self.get("api/kernels"):
            self.http.delete(f"{self.url}api/kernels/{kernel['id']}", timeout=60)


class Browser:
    """A headless Chromium; a context manager."""

    def __init__(self) -> None:
        from playwright.sync_api import sync_playwright

        with pytest.MonkeyPatch.context() as patch:
            # what it says when it crashes is shown with the test that fails
            patch.setenv("DEBUG", "pw:browser")
            self._driver = sync_playwright().start()
        self._running = self._launched()

    def _launched(self) -> playwright.sync_api.Browser:
        return self._driver.chromium.launch(
            executable_path=_chromium(),
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )

    @property
    def _browser(self) -> playwright.sync_api.Browser:
        if not self._running.is_connected():  # it crashed, which is no test's fault but one's
            self._running = self._launched()
        return self._running

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._browser.close()
        self._driver.stop()

    def _context(self, width: int, height: int) -> BrowserContext:
        from playwright.sync_api import Error

        try:
            return self._browser.new_context(viewport={"width": width, "height": height})
        except Error:  # it crashed after the test before, and nobody had noticed
            self._running = self._launched()
            return self._running.new_context(viewport={"width": width, "height": height})

    def page(self, *, width: int, height: int) -> Page:
        """A tab that is logged in to nothing."""
        return self._browser.new_page(viewport={"width": width, "height": height})

    @contextmanager
    def user(self, lab: Lab, *, width: int = 1400, height: int = 900) -> Iterator[User]:
        """A user who is logged in to `lab` by cookie, in a browser profile of their own."""
        from playwright.sync_api import Error

        context = self._context(width, height)
        context.set_default_timeout(_PATIENCE_MS)
        try:
            user = User(lab, context)
            user.log_in()
            yield user
        finally:
            with suppress(Error):  # it went with the browser
                context.close()


@dataclass
class User:
    """Someone at the browser. `page` is the tab that they look at."""

    lab: Lab
    context: BrowserContext
    page: Page = field(init=False)
    #: what pages wrote to their consoles, as ``type: text``
    console: list[str] = field(default_factory=list)
    #: ``METHOD path status`` of every answer of any tab
    answers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.context.on("console", lambda message: self.console.append(_one_line(message)))
        self.context.on(
            "response",
            lambda answer: self.answers.append(
                f"{answer.request.method} {_path(answer.url)} {answer.status}"
            ),
        )
        self.page = self.context.new_page()

    def log_in(self) -> None:
        """Follow the link with the token, which leaves the session's cookie."""
        self.page.goto(f"{self.lab.url}api/status?token={TOKEN}")

    def open(self, name: str) -> None:
        """Open a file as the application does from its address, and wait until it is there.

        A notebook is ready once its kernel is.
        """
        place = "lab/tree" if self.lab.app == "lab" else "notebooks"
        query = "?reset" if self.lab.app == "lab" else ""
        self.page.goto(f"{self.lab.url}{place}/{name}{query}", wait_until="domcontentloaded")
        self.wait_for_application()
        if name.endswith(".ipynb"):
            self.page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for()
            self.wait_for_kernel()

    def open_in_tab(self, name: str, address: str = "/files/") -> Page:
        """Open a file below an address of the server in a tab of its own, as the menus do."""
        url = self.page.evaluate(
            "name => jupyterapp.serviceManager.contents.getDownloadUrl(name)", name
        )
        page = self.context.new_page()
        page.goto(url.replace("/files/", address))
        return page

    def wait_for_application(self) -> None:
        """Wait until the application answers commands and its layout is restored."""
        self.page.wait_for_function(
            "window.jupyterapp && jupyterapp.commands.hasCommand('docmanager:open')"
        )
        self.page.evaluate("jupyterapp.restored.then(() => true)")

    def wait_for_kernel(self) -> None:
        """Wait until the kernel of the notebook in front is idle."""
        self.page.wait_for_function(
            """() => {
                const context = jupyterapp.shell.currentWidget?.context;
                return context?.sessionContext?.session?.kernel?.status === 'idle';
            }"""
        )

    def kernel_id(self) -> str:
        """The id of the kernel of the notebook in front."""
        return str(
            self.page.evaluate(
                "jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.id"
            )
        )

    def command(self, name: str, arguments: dict[str, Any] | None = None) -> None:
        """Execute a command of the application, as its menu does, and wait for its end."""
        self.page.evaluate(
            "([name, args]) => jupyterapp.commands.execute(name, args).then(() => true)",
            [name, arguments or {}],
        )

    def run_all(self) -> None:
        """Run all cells of the notebook in front and wait until they are done."""
        self.command("notebook:run-all-cells")

    def execute(self, code: str) -> None:
        """Replace what the active cell of the notebook says by `code` and run it."""
        self.page.evaluate(
            """async code => {
                const main = [...jupyterapp.shell.widgets('main')];
                const panel = main.find(widget => widget.content?.activeCell);
                jupyterapp.shell.activateById(panel.id);
                panel.content.activeCell.model.sharedModel.setSource(code);
                await jupyterapp.commands.execute('notebook:run-cell');
            }""",
            code,
        )

    def outputs(self) -> list[str]:
        """The text of each output in the notebook in front."""
        return self.page.locator(".jp-OutputArea-output").all_inner_texts()

    def screenshot(self, path: Path) -> None:
        """Take a picture of the page."""
        self.page.screenshot(path=path)


def _path(url: str) -> str:
    return url.split("?", maxsplit=1)[0].split("/", 3)[-1] if "://" in url else url[:80]


def _one_line(message: Any) -> str:
    return f"{message.type}: {message.text}"
