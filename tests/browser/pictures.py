"""Take the pictures of the documentation: ``python -m tests.browser.pictures [--home DIR]``.

A real JupyterLab, a real confined kernel, a real MLflow server and a real browser; the notebook is
that of ``examples/malicious-model``, run from top to bottom, so the pictures show what users get.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, expect

from .support import Browser, Home, Lab, User, missing

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "malicious-model" / "malicious-model.ipynb"
IMAGES = ROOT / "docs" / "images"
_WIDTH, _HEIGHT = 1280, 720


class Film:
    """An animated picture: a frame each time that something has changed on the page."""

    def __init__(self, user: User) -> None:
        self._user = user
        self._frames: list[tuple[Image.Image, int]] = []

    def take(self, milliseconds: int) -> None:
        """Show what the page shows now, for so long."""
        picture = Image.open(BytesIO(self._user.page.screenshot(scale="css")))
        self._frames.append((picture.convert("RGB"), milliseconds))

    def write(self, file: Path) -> None:
        """One palette for all frames, so that what did not change does not flicker."""
        palette = self._frames[-1][0].quantize(128)
        frames = [picture.quantize(palette=palette, dither=0) for picture, _ in self._frames]
        frames[0].save(
            file,
            save_all=True,
            append_images=frames[1:],
            duration=[milliseconds for _, milliseconds in self._frames],
            loop=0,
            optimize=True,
        )


def take(home: Home) -> None:
    """Start JupyterLab in `home`, run the example, and write all pictures."""
    asks = home.config / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    asks.mkdir(parents=True)
    (asks / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    (home.path / ".ssh" / "id_rsa").write_text("a private key\n")
    shutil.copy(EXAMPLE, home.root)
    lab = Lab(home)
    try:
        with Browser() as browser, browser.user(lab, width=_WIDTH, height=_HEIGHT) as user:
            user.open(EXAMPLE.name)
            user.command("application:toggle-left-area")
            _film(user)
    finally:
        lab.stop()


def _film(user: User) -> None:
    page = user.page
    film = Film(user)
    cells = page.locator(".jp-NotebookPanel .jp-Cell")
    film.take(1200)
    for number in range(cells.count()):
        page.evaluate("n => { jupyterapp.shell.currentWidget.content.activeCellIndex = n }", number)
        user.command("notebook:run-cell")
    loading = cells.filter(has_text="pickle.load(file)").last
    loading.scroll_into_view_if_needed()
    page.evaluate("document.activeElement.blur()")
    expect(page.locator(".jp-ModelArmor-badge").first).to_be_visible()
    film.take(2500)
    page.locator(".Toastify__toast").get_by_role("button", name="Show").first.click()
    panel = page.locator("#modelarmor-violations")
    rows = panel.locator(".jp-ModelArmor-row")
    expect(rows.filter(has_text="id_rsa")).to_be_visible()
    expect(page.locator(".Toastify__toast")).to_have_count(0)
    film.take(3000)
    user.screenshot(IMAGES / "malicious-model.png")
    rows.filter(has_text="id_rsa").click()
    film.take(1500)
    panel.get_by_role("button", name="Explain").click()
    explain: Locator = panel.locator(".jp-ModelArmor-explain")
    expect(explain.get_by_role("heading", name="Why")).to_be_visible()
    explain.evaluate("element => element.scrollIntoView({block: 'end'})")
    film.take(4000)
    user.screenshot(IMAGES / "explain.png")
    film.write(IMAGES / "panel.gif")


# In a process of its own, as MLflow warns of much: a model in a pickle, which is a finding.
_REGISTER = """
import mlflow
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
data, kinds = load_wine(return_X_y=True, as_frame=True)
with mlflow.start_run():
    mlflow.sklearn.log_model(
        RandomForestClassifier(20).fit(data, kinds), name="model", registered_model_name="wine",
        input_example=data.head(3), pip_requirements=["scikit-learn"],
        serialization_format="cloudpickle",
    )
"""


def take_review(top: Path) -> None:
    """Register a model with a real server, and take the page of its review."""
    from tests.mlflow.support import Server

    worker = {"generator": "modelarmor.generate.pipeline:generate"}
    options = ["--app-name", "modelarmor"]
    with Server(top / "registry", config={"worker": worker}, options=options) as server:
        environ = {**os.environ, "MLFLOW_TRACKING_URI": server.uri}
        command = [sys.executable, "-W", "ignore", "-c", _REGISTER]
        subprocess.run(command, env=environ, check=True, capture_output=True)
        server.wait_generated("wine", "1")
        with Browser() as browser:
            page = browser.page(width=_WIDTH, height=900)
            page.goto(f"{server.uri}/modelarmor/review?name=wine&version=1")
            page.screenshot(path=IMAGES / "review-page.png")


def main() -> None:
    """Take them, in a home that is made for it and removed."""
    parser = argparse.ArgumentParser(description="Take the pictures of the README.")
    parser.add_argument(
        "--home", type=Path, help="the user's home in the pictures; must not exist yet"
    )
    home: Path | None = parser.parse_args().home
    if reason := missing():
        parser.exit(1, f"no pictures: {reason}\n")
    if home is not None:
        home.mkdir()  # or it is somebody's
    try:
        with tempfile.TemporaryDirectory() as top:
            take(Home(Path(top), home))
            take_review(Path(top))
    finally:
        if home is not None:
            shutil.rmtree(home)


if __name__ == "__main__":
    main()
