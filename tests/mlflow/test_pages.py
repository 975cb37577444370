"""The review page of a real server, without authentication, as a browser without scripts has it."""

import html
import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import quote

import pytest
import requests
from modelarmor_mlflow import names, statements

from tests.mlflow.pages import Visitor, address, assert_harmless
from tests.mlflow.support import Reviewer, Server, aliases, refused

SEVERE = {"findings.txt": "critical it opens a socket\nlow it is large\n"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    config = {"review_url": "https://ml.example/modelarmor/review?name={model}&version={version}"}
    with Server(
        tmp_path_factory.mktemp("pages"), config=config, options=["--app-name", "modelarmor"]
    ) as running:
        yield running


@pytest.fixture(scope="module")
def ada(server, tmp_path_factory):
    return Reviewer(tmp_path_factory.mktemp("ada"), "ada").trusted_by(server)


@pytest.fixture(scope="module")
def mallory(tmp_path_factory):
    return Reviewer(tmp_path_factory.mktemp("mallory"), "mallory")


@pytest.fixture
def visitor(server):
    return Visitor(server)


def signed(draft, reviewer, tmp_path, visitor):
    """Download the statement that a page prepared, and sign it as its reviewer does."""
    answer = visitor.send(visitor.form(draft, "/statement"))
    assert answer.headers["Content-Disposition"].startswith("attachment")
    file = tmp_path / "statement.json"
    file.write_bytes(answer.content)
    command = [sys.executable, "-m", "modelarmor", "sign", str(file), "--yes"]
    command += ["--key", reviewer.secret]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def run_command(draft, reviewer):
    """Paste the command of a draft into a shell, as its reviewer does."""
    (command,) = re.findall(r'<pre id="command">(.*?)</pre>', draft.text, re.DOTALL)
    program = f"{sys.executable} -m modelarmor "
    line = html.unescape(command).replace("modelarmor ", program, 1)
    line += f" --quiet --key {reviewer.secret}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def fingerprints(page):
    return re.findall(r'name="waive-([0-9a-f]{16})"', page.text)


def test_waiting_version_is_reviewed_approved_and_promoted(server, ada, visitor, name, tmp_path):
    version = server.register(name, SEVERE)
    assert f"review?name={name}&amp;version=1" in visitor.get().text

    page = visitor.review(version)
    assert page.status_code == 200
    for told in ("it opens a socket", "it is large", "What the policy permits", "unreviewed"):
        assert told in page.text
    (severe,) = fingerprints(page)

    draft = visitor.draft(version, reason="needed", **{f"waive-{severe}": "it is the metrics'"})
    envelope, told = signed(draft, ada, tmp_path, visitor)
    assert f"models:/{name}/1" in told and "it is the metrics'" in told
    done = visitor.send(visitor.form(draft, "/submit"), envelope=envelope)
    assert "The decision is recorded." in done.text
    assert "Approved by" in done.text

    server.client.set_registered_model_alias(name, "champion", "1")
    assert aliases(server, name) == {"champion": "1"}
    assert f"review?name={name}&amp;version=1" in visitor.get(state="approved").text
    assert f"review?name={name}&amp;version=1" not in visitor.get().text
    assert "alias champion" in visitor.review(version).text


def test_rejected_version_is_not_promoted_and_the_record_says_who_and_why(
    server, ada, visitor, name, tmp_path
):
    version = server.register(name)
    draft = visitor.draft(version, "reject", reason="it phones <home>")
    envelope, _ = signed(draft, ada, tmp_path, visitor)
    visitor.send(visitor.form(draft, "/submit"), envelope=envelope)

    with refused("rejected by ada"):
        server.client.set_registered_model_alias(name, "champion", "1")
    record = visitor.get("audit", name=name, version="1").text
    for told in ("generated", "reject", "<bdi>ada</bdi>", "it phones &lt;home&gt;", "<time "):
        assert told in record
    assert record.index(">reject<") < record.index(">generated<")


def test_record_shows_promotions_and_statements_that_count_no_more(server, visitor, name, tmp_path):
    eve = Reviewer(tmp_path, "eve").trusted_by(server)
    version = server.register(name)
    eve.decide(server, version)
    server.client.set_registered_model_alias(name, "champion", "1")
    assert "does not trust" not in visitor.get("audit", name=name, version="1").text

    from modelarmor_mlflow import trust

    trust.remove(server.config, eve.key.identifier)
    record = visitor.get("audit", name=name, version="1").text
    assert "promoted" in record and "alias &#x27;champion&#x27;" in record
    assert "a key that this registry does not trust" in record
    assert "more approval" in visitor.review(version).text  # as it is now, not as the tag says


def test_the_command_of_a_draft_signs_and_sends_the_same(server, ada, visitor, name):
    version = server.register(name, SEVERE)
    (severe,) = fingerprints(visitor.review(version))
    draft = visitor.draft(
        version, reason="it's $(true) `needed`", **{f"waive-{severe}": 'a "reason"'}
    )
    run_command(draft, ada)
    (envelope,) = json.loads(server.client.get_model_version(name, "1").tags[names.STATEMENTS])
    told, _ = statements.read(json.dumps(envelope))
    assert told.reason == "it's $(true) `needed`"
    assert [item.reason for item in told.waivers] == ['a "reason"']


def test_a_name_that_a_terminal_would_act_on_is_in_no_command(server, ada, visitor):
    version = server.register("paste\x1b[201~; true")
    draft = visitor.draft(version)
    assert draft.status_code == 200
    assert "modelarmor approve" not in draft.text
    assert "a terminal could act on" in draft.text
    assert "\x1b" not in _shown(draft.text)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"decision": "deploy"}, "Choose what you have decided"),
        ({"reviewer": "mallory"}, "a reviewer whom this registry trusts"),
        ({"reason": " "}, "a reason has 1 to"),
        ({"reason": "x" * 2001}, "a reason has 1 to"),
        ({"expires": "soon"}, "should be a date"),
        ({"expires": "2020-01-01"}, "has expired already"),
        ({"expires": "2999-01-01"}, "holds longer than"),
        ({"evidence": "sha256:" + 64 * "0"}, "has changed since it was shown"),
        ({}, "leaves findings unanswered"),
    ],
)
def test_draft_says_what_would_be_refused(server, ada, visitor, severe_version, changes, told):
    draft = visitor.draft(severe_version, **{"reviewer": "ada", **changes})
    assert draft.status_code == 409
    assert told in draft.text


@pytest.fixture(scope="module")
def severe_version(server):
    return server.register("severe", SEVERE)


def test_only_what_a_trusted_reviewer_signed_is_recorded(
    server, ada, mallory, visitor, name, tmp_path
):
    version = server.register(name)
    draft = visitor.draft(version)
    form = visitor.form(draft, "/submit")
    good, _ = signed(draft, ada, tmp_path, visitor)
    forged = json.loads(good) | {"signatures": [{"keyid": ada.key.identifier, "sig": "AAAA"}]}
    other = mallory.statement(server, version)
    for envelope in (
        "", "{}", "not JSON", json.dumps(forged), statements.sign(other, mallory.signer),
        "x" * 100_000,
    ):  # fmt: skip
        answer = visitor.send(form, envelope=envelope)
        assert answer.status_code == 409, envelope[:50]
        assert "This was not recorded" in answer.text
        assert "x" * 100 not in answer.text
    with refused("1 more approval"):
        server.client.set_registered_model_alias(name, "champion", "1")


def test_envelope_for_another_version_or_a_second_time_is_refused(
    server, ada, visitor, name, tmp_path
):
    first, second = server.register(name), server.register(name)
    envelope, _ = signed(visitor.draft(first), ada, tmp_path, visitor)
    form = visitor.form(visitor.draft(second), "/submit")
    assert "the statement is about" in visitor.send(form, envelope=envelope).text
    assert visitor.send(form, version="1", envelope=envelope).status_code == 200
    assert (
        "another decision was recorded" in visitor.send(form, version="1", envelope=envelope).text
    )


def test_changes_are_shown_against_the_version_that_was_approved(server, ada, visitor, name):
    first = server.register(name, {"data.bin": "old"})
    ada.decide(server, first)
    second = server.register(name, {"data.bin": "new", "policy.txt": "  severity: 5\n"})
    page = visitor.review(second).text
    assert "Version 1 is the last one before that was approved." in page
    assert 'id="changes"' in page and "data.bin" in page
    assert visitor.get("review", name=name, version="2", against="7").status_code == 404
    # A version that is not what it was keeps nobody from the review of the next.
    server.evidence(first).unlink()
    page = visitor.review(second)
    assert page.status_code == 200
    assert "It is not compared with version 1" in page.text


def test_failed_generation_is_told_and_asked_for_again(server, visitor, name):
    version = server.register(name, {"fail.txt": "no such flavour"}, wait=False)
    server.wait_generated(name, "1", state="failed")
    assert name in visitor.get(state="failed").text
    page = visitor.review(version)
    assert "no such flavour" in page.text
    assert not [form for form in re.findall(r'action="([^"]*)"', page.text) if "draft" in form]
    (server.stored(version) / "fail.txt").unlink()
    done = visitor.send(visitor.form(page, "/generate"))
    assert "The policy is being generated." in done.text
    server.wait_generated(name, "1")


def test_changed_evidence_is_not_shown(server, visitor, name):
    version = server.register(name)
    file = server.evidence(version)
    file.write_text(file.read_text().replace('"predictions": 1', '"predictions": 2'))
    page = visitor.review(version)
    assert page.status_code == 409
    assert "is not what the registry recorded" in page.text
    file.write_text("{")
    assert "The evidence cannot be read" in visitor.review(version).text
    file.unlink()
    assert "The evidence is not there beside the model" in visitor.review(version).text


def test_queue_is_paged(server, visitor):
    source, run = server.upload()
    for number in range(53):
        server.register_source(f"page-{number}", source, run, wait=False)
    for number in range(53):
        server.wait_generated(f"page-{number}", "1")
    seen = set()
    page = visitor.get()
    while True:
        rows = re.findall(r"review\?name=(page-\d+)&amp;", page.text)
        assert len(re.findall(r"<tr>", page.text)) <= 51
        seen.update(rows)
        following = re.search(r'rel="next" href="([^"]*)"', page.text)
        if not following:
            break
        page = visitor.http.get(server.uri + html.unescape(following[1]), timeout=60)
    assert seen == {f"page-{number}" for number in range(53)}


def test_record_is_paged(server, ada, visitor, name):
    version = server.register(name)
    for _ in range(26):
        ada.decide(server, version)
        ada.decide(server, version, "revoke")
    page = visitor.get("audit", name=name, version="1")
    assert page.text.count(">approve<") + page.text.count(">revoke<") == 50
    (older,) = re.findall(r'rel="next" href="([^"]*)"', page.text)
    rest = visitor.http.get(server.uri + html.unescape(older), timeout=60).text
    assert rest.count(">approve<") + rest.count(">revoke<") == 2
    assert ">generated<" in rest


@pytest.mark.parametrize("nonsense", ["{}", "[" * 4000])
def test_record_that_was_tampered_with_says_so(server, ada, visitor, name, nonsense):
    version = server.register(name)
    ada.decide(server, version, "reject", reason="it phones home")
    place = server.database.removeprefix("sqlite:///")
    with closing(sqlite3.connect(place, timeout=60)) as database, database:
        database.execute(
            "UPDATE modelarmor_records SET time = time + 1 WHERE model = ? AND kind = 'reject'",
            (name,),
        )
        database.execute(
            "UPDATE modelarmor_records SET body = ? WHERE model = ? AND kind = 'generated'",
            (nonsense, name),
        )
        database.execute(
            "UPDATE model_version_tags SET value = ? WHERE name = ? AND key = ?",
            (nonsense, name, names.FINDINGS),
        )
    record = visitor.get("audit", name=name, version="1")
    assert record.status_code == 200
    assert "It was changed after it was written." in record.text
    assert "It cannot be read" in record.text
    assert visitor.get("", state="rejected").status_code == 200


def test_wrong_configuration_is_not_shown(server, visitor, severe_version):
    good = server.config.read_text()
    try:
        server.config.write_text("a secret: of the operator\n")
        page = visitor.review(severe_version)
    finally:
        server.config.write_text(good)
    assert page.status_code == 503
    assert "configuration is wrong" in page.text and "secret" not in page.text
    assert "a secret" in server.log.read_text()


# --- hostile input

HOSTILE = [
    "<svg onload=document.title='owned'>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "x&version=2#y?z=%3Cb%3E",
    "%252e%252e;a=b+c",
    "{{7*7}}{% raw %}",
    "abc\u202etxt\u200b",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_names_stay_names(server, ada, visitor, hostile):
    version = server.register(hostile)
    assert visitor.review(version).status_code == 200
    for page in (visitor.get(), visitor.review(version), visitor.draft(version),
                 visitor.get("audit", name=hostile, version="1")):  # fmt: skip
        assert page.status_code == 200
        assert_harmless(page.text)
        assert "\u202e" not in _shown(page.text)
    link = f"{server.uri}/#/models/{quote(hostile, safe='')}/versions/1"
    assert html.escape(link.removeprefix(server.uri)) in visitor.review(version).text
    # And from MLflow's page to this one: the description that it renders.
    told = server.client.get_model_version(hostile, "1").description
    ours = f"https://ml.example/modelarmor/review?name={quote(hostile, safe='')}&version=1"
    assert f"[Review this version](<{ours}>)" in told


def _shown(text):
    """A page without what forms send back as it was."""
    return re.sub(r'<input type="hidden"[^>]*>', "", text)


def test_hostile_findings_and_file_names_are_text(server, visitor, name):
    evil = "<script>document.title='owned'</script>"
    version = server.register(
        name, {"findings.txt": f"high {evil}\n", "<img src=x onerror=alert(1)>.bin": "1"}
    )
    page = visitor.review(version).text
    assert_harmless(page)
    assert "&lt;script&gt;document.title" in page and "&lt;img src=x" in page


@pytest.mark.parametrize(
    "query",
    [
        {}, {"name": "severe"}, {"name": "severe", "version": "1e3"},
        {"name": "severe", "version": "99999999999"}, {"name": "severe", "version": "-1"},
        {"name": "severe", "version": "\u0661"}, {"name": "x" * 5000, "version": "1"},
        {"name": "nobody's", "version": "1"}, {"name": "severe", "version": "7"},
        {"name": "severe", "version": "1", "against": "<script>"},
        {"name": "severe", "version": "1", "workspace": "../x"},
        {"name": "severe", "version": "1", "workspace": "other"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["review", "audit", "download"])
def test_what_makes_no_sense_is_refused_without_being_repeated(
    visitor, severe_version, path, query
):
    if path == "audit" and "against" in query:
        query = {"before": "<script>", **query}
    answer = visitor.get(path, **query)
    assert 400 <= answer.status_code < 500
    assert "Traceback" not in answer.text and "<script" not in answer.text
    assert "nobody" not in answer.text and "xxxxx" not in answer.text


def test_unknown_queue_and_page_token_are_refused(visitor):
    for query in ({"state": "<b>"}, {"page": "x" * 2000}, {"page": "not a token"}):
        answer = visitor.get("", **query)
        assert answer.status_code in (400, 404), query
        assert "<b>" not in answer.text


# --- what browsers are told


def test_every_answer_says_what_a_browser_may_do_with_it(server, visitor, severe_version):
    for path, query in (
        ("", {}), ("page.css", {}), ("review", {"name": "severe", "version": "1"}),
        ("review", {"name": "none", "version": "1"}), ("audit", {}), ("submit", {}),
        ("download", {"name": "severe", "version": "1", "what": "review"}),
    ):  # fmt: skip
        answer = visitor.get(path, **query)
        told = answer.headers
        assert "frame-ancestors 'none'" in told["Content-Security-Policy"]
        assert "script-src" not in told["Content-Security-Policy"]
        assert "default-src 'none'" in told["Content-Security-Policy"]
        assert "unsafe" not in told["Content-Security-Policy"]
        assert told["X-Frame-Options"] == "DENY"
        assert told["X-Content-Type-Options"] == "nosniff"
        assert told["Cross-Origin-Opener-Policy"] == "same-origin"
        if path != "page.css" and answer.status_code != 405:
            assert told["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/modelarmor/", "//modelarmor/", "/modelarmor//review"])
def test_no_spelling_of_a_page_is_open_to_localhost(server, path):
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("GET", path, headers={"Origin": "http://localhost:9"})
        told = connection.getresponse().headers
    finally:
        connection.close()
    assert told.get_all("X-Frame-Options") == ["DENY"]
    assert "Access-Control-Allow-Origin" not in told


def test_mlflow_keeps_its_own_headers(server):
    answer = requests.get(f"{server.uri}/", timeout=60)
    assert answer.headers.get("X-Frame-Options") == "SAMEORIGIN"
    assert "Content-Security-Policy" not in answer.headers


def test_token_is_kept_from_scripts_and_other_sites(visitor):
    told = visitor.get().headers["Set-Cookie"]
    assert "HttpOnly" in told and "SameSite=Lax" in told and "Path=/modelarmor" in told


@pytest.mark.parametrize(
    "what", ["other origin", "null origin", "no origin", "wrong token", "no cookie", "cross-site"]
)
def test_forms_of_other_sites_change_nothing(server, ada, visitor, name, tmp_path, what):
    version = server.register(name)
    draft = visitor.draft(version)
    form = visitor.form(draft, "/submit")
    envelope, _ = signed(draft, ada, tmp_path, visitor)
    origin = {"other origin": "https://evil.example", "null origin": "null", "no origin": ""}
    if what == "wrong token":
        form.values["token"] = "x" * 43
    if what == "no cookie":
        visitor.http.cookies.clear()
    if what == "cross-site":
        visitor.http.headers["Sec-Fetch-Site"] = "cross-site"
    answer = visitor.send(form, envelope=envelope, origin=origin.get(what))
    assert answer.status_code == 403
    with refused("1 more approval"):
        server.client.set_registered_model_alias(name, "champion", "1")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate",
          "Sec-Fetch-Dest": "document"}, 200),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate",
          "Sec-Fetch-Dest": "iframe"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "http://["}, 403),
    ],
)  # fmt: skip
def test_other_sites_may_link_here_and_nothing_else(server, headers, status):
    answer = requests.get(address(server), headers=headers, timeout=60)
    assert answer.status_code == status


def test_large_forms_are_refused(visitor, severe_version):
    form = visitor.form(visitor.review(severe_version), "/draft")
    assert visitor.send(form, reason="x" * 500_000).status_code == 413


def test_downloads_are_files_with_names_of_ours(visitor, severe_version):
    for what, kind in (
        ("policy", "application/yaml"), ("evidence", "application/json"), ("review", "text/html"),
    ):  # fmt: skip
        answer = visitor.get("download", name="severe", version="1", what=what)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith(kind)
        assert re.fullmatch(
            r'attachment; filename="modelarmor-\w+\.\w+"', answer.headers["Content-Disposition"]
        )


def test_statement_download_gives_back_statements_only(visitor, severe_version):
    form = visitor.form(visitor.review(severe_version), "/draft")
    form.form.action = form.form.action.replace("draft", "statement")
    answer = visitor.send(form, statement="<script>")
    assert answer.status_code == 409
    assert "<script" not in answer.text


def test_without_our_registry_the_server_does_not_start(tmp_path):
    server = Server(tmp_path, plugin=False, options=["--app-name", "modelarmor"])
    try:
        with pytest.raises(AssertionError):
            server.start()
        assert "the review page needs ModelArmor's registry" in server.log.read_text()
    finally:
        server.stop()
