"""What a reviewer's machine downloads of a registry is bounded, whatever the registry says."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from modelarmor_mlflow import deciding, names
from modelarmor_mlflow.statements import Subject

from modelarmor.generate.artifact import own

DIGEST = "sha256:" + 64 * "0"
SUBJECT = Subject(
    registry="r", workspace="default", model="m", version=1, created=1,
    artifact=DIGEST, policy=DIGEST, evidence=DIGEST,
)  # fmt: skip


class Endless(BaseHTTPRequestHandler):
    """Evidence that never ends."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        while True:
            try:
                self.wfile.write(bytes(1 << 16))
            except OSError:
                return

    def log_message(self, *_):
        pass


class Client:
    """A registry whose versions' files are where it likes."""

    def __init__(self, location):
        self.location = location
        self.tracking_uri = None

    def get_model_version_download_uri(self, *_):
        return self.location


class Version:
    name, version = "m", "1"


@pytest.fixture
def endless():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def little(monkeypatch):
    monkeypatch.setattr(deciding, "MAX_BYTES", 1 << 20)


def test_evidence_without_an_end_is_refused(endless, little, tmp_path):
    with pytest.raises(deciding.NothingToReviewError, match=f"more than {1 << 20} bytes"):
        deciding.evidence_of(Client(endless), Version, SUBJECT)
    (tmp_path / "more").write_bytes(bytes(2 << 20))  # nothing else is limited afterwards


def test_evidence_that_is_too_large_is_refused(little, tmp_path):
    file = Path(tmp_path, own.evidence(SUBJECT.evidence))
    file.parent.mkdir()
    with file.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(deciding.NothingToReviewError, match="more than"):
        deciding.evidence_of(Client(str(tmp_path)), Version, SUBJECT)


def test_directory_in_place_of_evidence_is_refused(tmp_path):
    for number in range(20):
        folder = Path(tmp_path, own.evidence(SUBJECT.evidence), str(number))
        folder.mkdir(parents=True)
        (folder / "x").write_text("{}")
    with pytest.raises(deciding.NothingToReviewError, match="cannot be read"):
        deciding.evidence_of(Client(str(tmp_path)), Version, SUBJECT)


def test_evidence_that_is_missing_can_be_made_anew(tmp_path):
    with pytest.raises(deciding.NothingToReviewError, match=f"{names.REQUEST} to 'generate'"):
        deciding.evidence_of(Client(str(tmp_path)), Version, SUBJECT)


@pytest.mark.parametrize(
    "told", ["", "[]", "null", "[" * 4000, '{"registry": 1}', '["ab"]', '{"approval_days": -1}']
)
def test_tags_that_say_nonsense_are_no_subject(told):
    version = Version()
    version.tags = {names.SUBJECT: told}
    with pytest.raises(deciding.NothingToReviewError, match="models:/m/1: its tags are not"):
        deciding.offer_of(version)
