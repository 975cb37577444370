"""The configuration says what is protected, and is refused where it cannot be meant."""

import pytest
import yaml
from modelarmor_mlflow import keys, names, settings, trust
from modelarmor_mlflow.settings import SettingsError

from modelarmor.cli import main


@pytest.fixture
def write(tmp_path):
    """Writes a configuration and reads it."""

    def load(text):
        file = tmp_path / "registry.yaml"
        file.write_text(text if isinstance(text, str) else yaml.safe_dump(text))
        return settings.load(file)

    return load


@pytest.fixture
def pair(tmp_path):
    return keys.new("ada", passphrase=None, place=tmp_path / "keys")


def test_without_a_file_the_defaults_protect(monkeypatch, tmp_path):
    monkeypatch.delenv(settings.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    found = settings.load()
    assert found.protects_alias("any", "champion")
    assert found.protects_alias("any", "PRODUCTION")
    assert found.protects_stage("any", "Production")
    assert not found.protects_alias("any", "staging")
    assert not found.protects_stage("any", "Staging")
    assert found.reviewers == ()


def test_file_that_is_named_and_missing_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv(settings.VARIABLE, str(tmp_path / "missing.yaml"))
    with pytest.raises(SettingsError, match=r"missing\.yaml"):
        settings.load()


def test_wildcards(write):
    found = write({"protected": [{"models": ["prod.*"], "aliases": ["rel?ase", "[x]"]}]})
    assert found.protects_alias("prod.a", "release")
    assert found.protects_alias("Prod.a", "RELEASE")
    assert found.protects_alias("prod.a", "[x]")
    assert not found.protects_alias("prod.a", "x")
    assert not found.protects_alias("dev.a", "release")
    assert not found.protects_alias("prod.a", "champion")


WRONG = {
    "protect: []": "protect",
    "protected: champion": "should be a list",
    "protected: [{alias: [a]}]": "alias",
    "protected: [{aliases: [1]}]": "should be a text",
    "quorum: 0": "quorum",
    "quorum: true": "quorum",
    "quorum: 1.5": "quorum",
    "refuse_findings: bad": "refuse_findings",
    "review_url: 'http://x/{secret}'": "review_url",
    "review_url: 'http://x/{model.secret}'": "review_url",
    "approval_days: 0": "approval_days",
    "clock_skew: -1": "clock_skew",
    "reviewers: [ada]": "reviewers",
    "reviewers: {ada: {keys: [{key: nonsense}]}}": "no public key",
    "reviewers: {ada: {keys: [{file: none.pub}]}}": "cannot be read",
    "reviewers: {ada: {keys: [{}]}}": "either key",
    "reviewers: {ada: {}, Ada: {}}": "differ only in case",
    "reviewers: {'a b': {}}": "should be a name",
    "worker: {generator: os.system}": "module:function",
    "worker: {enabled: maybe}": "true or false",
    "worker: {attempts: 0}": "attempts",
    "worker: {lease_seconds: 0}": "lease_seconds: should be a number from 4",
    "worker: {memory_gib: 0}": "memory_gib",
    "worker: {timeout_minutes: 0}": "timeout_minutes",
    "worker: {model_size_gib: 0}": "model_size_gib",
    "a: 1\na: 2": "twice",
    "- 1": "mapping",
    "a: [": "YAML",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_field_is_named(write, text):
    with pytest.raises(SettingsError, match=WRONG[text]) as raised:
        write(text)
    assert "registry.yaml" in str(raised.value)


def test_names_are_compared_as_any_database_might():
    for other in ("Champion", "ch\u00e4mpion", "champion\u200b", " champion", "\uff43hampion"):
        assert names.fold(other) == "champion"
    assert names.fold("champions") != "champion"


# --- keys


def test_private_key_is_private(pair):
    secret, public = pair
    assert secret.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in public.read_text()
    with pytest.raises(keys.KeyFileError, match="never overwritten"):
        keys.new("ada", passphrase=None, place=secret.parent)
    secret.chmod(0o644)
    with pytest.raises(keys.KeyFileError, match="others can read"):
        keys.signer(secret)


def test_passphrase(tmp_path):
    secret, public = keys.new("ada", passphrase="right", place=tmp_path)
    assert "ENCRYPTED" in secret.read_text()
    with pytest.raises(keys.NeedsPassphrase):
        keys.signer(secret)
    with pytest.raises(keys.KeyFileError, match="cannot be read"):
        keys.signer(secret, "wrong")
    signer = keys.signer(secret, "right")
    assert signer.public_key.keyid == keys.PublicKey.from_file(public).identifier


@pytest.mark.parametrize("name", ["", "../ada", "a/b", "ada\n", ".ada", "x" * 200])
def test_name_that_names_no_file(tmp_path, name):
    with pytest.raises(keys.KeyFileError):
        keys.new(name, passphrase=None, place=tmp_path)


def test_other_kinds_of_keys_are_refused(tmp_path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with pytest.raises(keys.KeyFileError, match="not Ed25519"):
        keys.PublicKey.from_pem(pem.decode())


# --- trust


def test_key_is_trusted_and_no_more(tmp_path, pair, capsys):
    _, public = pair
    file = tmp_path / "registry.yaml"
    file.write_text("# ours\nquorum: 1  # for now\n\nreviewers:\n  zoe:\n    users: [zoe]\n")
    config = ["--config", str(file)]
    assert main(["keys", "trust", str(public), "--user", "ada@x", "--expires", "2099-01-01",
                 *config]) == 0  # fmt: skip
    assert file.read_text().startswith("# ours\nquorum: 1  # for now\n")
    found = {reviewer.name: reviewer for reviewer in settings.load(file).reviewers}
    assert found["ada"].users == ("ada@x",)
    assert found["zoe"].users == ("zoe",)
    identifier = keys.PublicKey.from_file(public).identifier
    assert main(["keys", "list", *config]) == 0
    assert f"trusted  {identifier[:16]}  ada  until 2099-01-01" in capsys.readouterr().out
    assert main(["keys", "trust", str(public), "--reviewer", "eve", *config]) == 2
    assert main(["keys", "distrust", identifier[:16], *config]) == 0
    assert settings.load(file).by_key == {}
    assert main(["keys", "distrust", identifier[:16], *config]) == 2


def test_key_that_is_exchanged_in_its_file_counts_no_more(tmp_path, pair):
    named, config = tmp_path / "ada.pub", tmp_path / "registry.yaml"
    named.write_bytes(pair[1].read_bytes())
    config.write_text("reviewers: {ada: {keys: [{file: ada.pub}]}}\n")
    current = settings.Current(config)
    before = keys.PublicKey.from_file(named).identifier
    assert set(current.get().by_key) == {before}
    _, other = keys.new("new", passphrase=None, place=tmp_path / "keys")
    other.replace(named)
    after = keys.PublicKey.from_file(named).identifier
    assert set(current.get().by_key) == {after} != {before}
    named.unlink()
    for _ in range(2):
        with pytest.raises(SettingsError, match=r"ada\.pub"):
            current.get()


def test_keys_that_were_trusted_for_a_moment_are_not_remembered(tmp_path, pair):
    """What is read of a file is kept by its content, and the same content may be there again."""
    file = tmp_path / "registry.yaml"
    before = "reviewers:\n  ada:\n    keys: []\n"
    file.write_text(before)
    trust.add(file, "ada", keys.PublicKey.from_file(pair[1]), users=[], expires=None)
    assert settings.load(file).by_key
    file.write_text(before)
    assert settings.load(file).by_key == {}


def test_private_key_is_not_left_without_its_public_half(tmp_path):
    (tmp_path / "ada.pub").write_text("another's\n")
    with pytest.raises(keys.KeyFileError, match="never overwritten"):
        keys.new("ada", passphrase=None, place=tmp_path)
    assert keys.own(tmp_path) == []
    assert (tmp_path / "ada.pub").read_text() == "another's\n"


def test_configuration_that_is_wrong_is_not_written_over(tmp_path, pair):
    file = tmp_path / "registry.yaml"
    file.write_text("quorum: many\n")
    with pytest.raises(SettingsError):
        trust.add(file, "ada", keys.PublicKey.from_file(pair[1]), users=[], expires=None)
    assert file.read_text() == "quorum: many\n"
    assert list(tmp_path.glob(".registry*")) == []


def test_new_key_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv(settings.VARIABLE, raising=False)
    assert main(["keys", "new", "ada", "--no-passphrase"]) == 0
    assert "keep it to yourself" in capsys.readouterr().out
    assert main(["keys", "list"]) == 0
    told = capsys.readouterr().out
    assert "ada.pem" in told
    assert "nobody is trusted" in told


# --- MLflow


@pytest.mark.parametrize("version", ["3.16.0", "3.19.0", "4.0.0", "2.22.5"])
def test_mlflow_that_nobody_tried_is_refused(version):
    from modelarmor_mlflow import compatibility

    compatibility.check("3.17.2")
    compatibility.check("3.18.0")
    with pytest.raises(compatibility.UnknownMlflowError, match=r"known are 3\.17"):
        compatibility.check(version)


@pytest.mark.parametrize("uri", ["modelarmor:", "modelarmor:mlflow.db", "sqlite:///x", ""])
def test_store_uri_without_a_database(uri):
    from modelarmor_mlflow import plugin

    with pytest.raises(ValueError, match="modelarmor: and a database"):
        plugin.database(uri)
    assert plugin.database("modelarmor:sqlite:////srv/x.db") == "sqlite:////srv/x.db"
