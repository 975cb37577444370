"""Statements that nobody should be able to use."""

import base64
import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from modelarmor_mlflow import names, statements
from modelarmor_mlflow.statements import Waiver

from tests.mlflow.support import Reviewer, aliases, refused


def submit(server, version, envelope):
    text = envelope if isinstance(envelope, str) else json.dumps(envelope)
    server.client.set_model_version_tag(version.name, version.version, names.SUBMIT, text)


def signed(reviewer, statement):
    return statements.sign(statement, reviewer.signer)


@pytest.fixture
def good(server, ada, sample):
    """An approval of the sample that would be accepted; a test bends it."""
    return ada.statement(server, sample)


def unapproved(server):
    return "approved" not in server.client.get_model_version("sample", "1").tags[names.REVIEW]


def test_control_such_a_statement_is_accepted(server, ada, name):
    version = server.register(name)
    submit(server, version, signed(ada, ada.statement(server, version)))
    server.client.set_registered_model_alias(name, "champion", version.version)
    assert names.SUBMIT not in server.client.get_model_version(name, version.version).tags


def test_key_that_nobody_trusts(server, sample, mallory, good):
    with refused("does not trust"):
        submit(server, sample, signed(mallory, replace(good, reviewer="mallory")))
    with refused("does not trust"):
        submit(server, sample, signed(mallory, good))
    assert unapproved(server)


def test_keyid_of_somebody_else(server, sample, mallory, ada, good):
    envelope = json.loads(signed(mallory, good))
    envelope["signatures"][0]["keyid"] = ada.key.identifier
    with refused("signature does not fit"):
        submit(server, sample, envelope)


def _payload(envelope, change):
    body = json.loads(base64.b64decode(envelope["payload"]))
    change(body)
    return envelope | {"payload": base64.b64encode(json.dumps(body).encode()).decode()}


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["predicate"].update(expires="2099-01-01T00:00:00Z"),
        lambda body: body["predicate"].update(decision="revoke"),
        lambda body: body["predicate"].update(names=["champion"]),
        lambda body: body["subject"][0].update(name="models:/other/1"),
        lambda body: body.update(predicateType="https://slsa.dev/provenance/v1"),
    ],
)
def test_payload_changed_after_it_was_signed(server, sample, ada, good, change):
    with refused("signature does not fit"):
        submit(server, sample, _payload(json.loads(signed(ada, good)), change))
    assert unapproved(server)


def _twice(envelope):
    return envelope | {"signatures": envelope["signatures"] * 2}


MALFORMED = {
    "no json": lambda text, _: text[:-1],
    "empty": lambda _, __: "",
    "a list": lambda _, __: "[]",
    "a number": lambda _, __: "1",
    "deep": lambda _, __: "[" * 20000,
    "huge": lambda text, _: text + " " * statements.MAX_ENVELOPE,
    "bad base64": lambda _, body: body | {"payload": "!!!" + body["payload"]},
    "payload of a number": lambda _, body: body | {"payload": 7},
    "bad signature": lambda _, body: body | {"signatures": [{"keyid": "a", "sig": "ä"}]},
    "no signature": lambda _, body: body | {"signatures": []},
    "two signatures": lambda _, body: _twice(body),
    "other type": lambda _, body: body | {"payloadType": "text/plain"},
    "more fields": lambda _, body: body | {"approved": True},
    "name twice": lambda text, _: text.replace('"payload":', '"payload":"e30=","payload":', 1),
    "null": lambda text, _: text.replace("signatures", "signatures\0"),
    "surrogate": lambda _, __: '"\\ud800"',
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_envelope(server, sample, ada, good, kind):
    text = signed(ada, good)
    with refused(code="INVALID_PARAMETER_VALUE"):
        submit(server, sample, MALFORMED[kind](text, json.loads(text)))
    assert unapproved(server)


@pytest.mark.parametrize(
    "field, value",
    [
        ("registry", "00000000-0000-0000-0000-000000000000"),
        ("workspace", "other"),
        ("model", "other"),
        ("version", 2),
        ("created", 1),
        ("artifact", "sha256:" + "0" * 64),
        ("policy", "sha256:" + "0" * 64),
        ("evidence", "sha256:" + "0" * 64),
    ],
)
def test_statement_about_something_else(server, sample, ada, good, field, value):
    other = replace(good, subject=replace(good.subject, **{field: value}))
    with refused(f"another {field}"):
        submit(server, sample, signed(ada, other))
    assert unapproved(server)


def test_statement_sent_to_another_version_or_model(server, ada, name):
    first, second = server.register(name), server.register(name)
    text = signed(ada, ada.statement(server, first))
    with refused("another version"):
        submit(server, second, text)
    other = server.register(f"{name}-other")
    with refused("another model"):
        submit(server, other, text)
    submit(server, first, text)


def test_statement_of_another_registry(server, ada, name, tmp_path):
    """The same bytes under the same name elsewhere are something else."""
    from tests.mlflow.support import Server

    version = server.register(name)
    with Server(tmp_path / "other") as other:
        ada.trusted_by(other)
        there = other.register(name)
        with refused("another"):
            submit(other, there, signed(ada, ada.statement(server, version)))
        ada.decide(other, there)


@pytest.mark.parametrize(
    "seconds, told", [(-3600, "ago"), (3600, "in the future"), (86400 * 30, "in the future")]
)
def test_statement_signed_at_another_time(server, sample, ada, good, seconds, told):
    with refused(told, code="INVALID_PARAMETER_VALUE"):
        submit(server, sample, signed(ada, replace(good, time=good.time + seconds)))


@pytest.mark.parametrize(
    "changes, told",
    [
        (lambda now: {"expires": now - 1}, "has expired already"),
        (lambda now: {"expires": now + 86400 * 3660}, "holds longer"),
        (lambda now: {"waivers": (Waiver(finding="0" * 16, reason="r", expires=now - 1),)},
         "waiver of 0000000000000000 has expired"),
        (lambda now: {"waivers": (Waiver(finding="0" * 16, reason="r", expires=now + 10**9),)},
         "holds longer"),
        (lambda now: {"waivers": (Waiver(finding="every", reason="r", expires=now + 9),)},
         "one finding"),
        (lambda now: {"reason": "  "}, "a reason has"),
        (lambda now: {"reason": "x" * 3000}, "a reason has"),
        (lambda now: {"decision": "promote"}, "decision should be"),
    ],
)  # fmt: skip
def test_statement_that_cannot_be_meant(server, sample, ada, good, changes, told):
    with refused(told, code="INVALID_PARAMETER_VALUE"):
        submit(server, sample, signed(ada, replace(good, **changes(good.time))))
    assert unapproved(server)


def test_reviewer_who_says_to_be_another(server, sample, bob, good):
    with refused("the key is bob's"):
        submit(server, sample, signed(bob, good))


def test_same_statement_twice(server, ada, name):
    version = server.register(name)
    text = signed(ada, ada.statement(server, version))
    submit(server, version, text)
    with refused("was recorded before", code="RESOURCE_CONFLICT"):
        submit(server, version, text)


def test_approval_replayed_after_it_was_revoked(server, ada, bob, name):
    version = server.register(name)
    text = signed(ada, ada.statement(server, version))
    unused = signed(ada, ada.statement(server, version, reason="a second one, kept back"))
    submit(server, version, text)
    bob.decide(server, version, "revoke")
    for again in (text, unused):
        with refused(code="RESOURCE_CONFLICT"):
            submit(server, version, again)
    with refused("revoked by bob"):
        server.client.set_registered_model_alias(name, "champion", version.version)


def test_revocation_of_what_nobody_approved(server, ada, sample):
    with refused("no approval to revoke", code="RESOURCE_CONFLICT"):
        ada.decide(server, sample, "revoke")


def test_version_without_a_policy(server, ada, good, name, tmp_path):
    released = tmp_path / "go"
    held = server.register(name, {"hold.txt": str(released)}, wait=False)
    failed = server.register(name, {"fail.txt": "no such flavour"}, wait=False)
    try:
        for version, told in ((held, "is being generated"),):
            with refused(told):
                about = replace(good.subject, model=name, version=int(version.version))
                submit(server, version, signed(ada, replace(good, subject=about)))
            with refused(told):
                server.client.set_registered_model_alias(name, "champion", version.version)
    finally:
        released.touch()
    server.wait_generated(name, failed.version, state="failed")
    with refused("no such flavour"):
        server.client.set_registered_model_alias(name, "champion", failed.version)


def test_many_reviewers_at_once_lose_nothing(server, ada, bob, name):
    version = server.register(name)
    errors = []

    def decide(reviewer):
        try:
            reviewer.decide(server, version)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=decide, args=(who,)) for who in (ada, bob)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    told = server.client.get_model_version(name, version.version).tags
    assert len(json.loads(told[names.STATEMENTS])) == 2
    assert aliases(server, name) == {}


# --- servers with rules of their own


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """Two reviewers must approve; each test has reviewers of its own."""
    from tests.mlflow.support import Server

    config = {"quorum": 2, "approval_days": 30}
    with Server(tmp_path_factory.mktemp("strict"), config=config) as running:
        yield running


@pytest.fixture
def people(strict, tmp_path):
    """Makes and trusts a reviewer."""

    def make(name, **options):
        return Reviewer(tmp_path, name).trusted_by(strict, **options)

    return make


def in_days(days):
    return datetime.now(UTC) + timedelta(days=days)


def test_approval_holds_by_itself_no_longer_than_the_registry_allows(strict, people, name):
    version = strict.register(name)
    people(f"carl-{name}").decide(strict, version)
    told = strict.client.get_model_version(name, version.version).tags[names.STATEMENTS]
    approval = statements.read(json.dumps(json.loads(told)[0]))[0]
    assert approval.expires - approval.time == 30 * 86400


def test_quorum_needs_as_many_people(strict, people, name):
    carl, dora = people(f"carl-{name}"), people(f"dora-{name}")
    version = strict.register(name)
    carl.decide(strict, version, expires=in_days(9))
    with refused("1 more approval of 2"):
        strict.client.set_registered_model_alias(name, "champion", version.version)
    dora.decide(strict, version, expires=in_days(9))
    strict.client.set_registered_model_alias(name, "champion", version.version)


def test_two_keys_of_one_person_are_one_approval(strict, people, name, tmp_path):
    one = people(f"eve-{name}")
    other = Reviewer(tmp_path / "second", f"eve-{name}").trusted_by(strict)
    version = strict.register(name)
    one.decide(strict, version, expires=in_days(9))
    other.decide(strict, version, expires=in_days(9))
    with refused("1 more approval of 2"):
        strict.client.set_registered_model_alias(name, "champion", version.version)


def test_one_key_is_not_trusted_as_two_people(strict, people, name):
    eve = people(f"eve-{name}")
    with pytest.raises(ValueError, match="trusted already"):
        eve.trusted_by(strict, name=f"alias-{name}")


def test_key_that_has_expired_signs_nothing(strict, people, name):
    late = people(f"late-{name}", expires=in_days(-1))
    version = strict.register(name)
    with refused("had expired"):
        late.decide(strict, version, expires=in_days(9))


def test_approval_of_a_key_that_is_trusted_no_more_is_void(strict, people, name):
    from modelarmor_mlflow import trust

    carl, dora, erin = (people(f"{who}-{name}") for who in ("carl", "dora", "erin"))
    version = strict.register(name)
    carl.decide(strict, version, expires=in_days(9))
    dora.decide(strict, version, expires=in_days(9))
    trust.remove(strict.config, dora.key.identifier)
    with refused("1 more approval of 2"):
        strict.client.set_registered_model_alias(name, "champion", version.version)
    erin.decide(strict, version, expires=in_days(9))
    strict.client.set_registered_model_alias(name, "champion", version.version)


def test_revocation_outlives_its_reviewer(strict, people, name):
    from modelarmor_mlflow import trust

    carl, dora, erin = (people(f"{who}-{name}") for who in ("carl", "dora", "erin"))
    version = strict.register(name)
    carl.decide(strict, version, expires=in_days(9))
    dora.decide(strict, version, expires=in_days(9))
    erin.decide(strict, version, "revoke", expires=in_days(9))
    trust.remove(strict.config, erin.key.identifier)
    with refused("revoked by erin"):
        strict.client.set_registered_model_alias(name, "champion", version.version)


def test_author_does_not_approve(strict, people, name):
    # MLflow calls whoever started the run its user; here that is who runs the tests.
    source, run = strict.upload()
    user = strict.client.get_run(run).info.user_id
    author = people(f"author-{name}", users=[user])
    version = strict.register_source(name, source, run)
    with refused("another reviewer approves it"):
        author.decide(strict, version, expires=in_days(9))


def test_configuration_that_is_wrong_opens_nothing(strict, people, name):
    carl = people(f"carl-{name}")
    version = strict.register(name)
    before = strict.config.read_text()
    try:
        strict.config.write_text(before + "quorum: none\n")
        with refused("until the configuration is right"):
            strict.client.set_registered_model_alias(name, "champion", version.version)
        with refused("until the configuration is right"):
            carl.decide(strict, version, expires=in_days(9))
        strict.config.unlink()
        with refused("until the configuration is right"):
            strict.client.set_registered_model_alias(name, "champion", version.version)
    finally:
        strict.config.write_text(before)
    carl.decide(strict, version, expires=in_days(9))
