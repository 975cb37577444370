"""Profiles: found by name, filled in safely, and granting what they say."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelarmor import profiles
from modelarmor.policy.decide import Decision, Operation, decide
from modelarmor.policy.document import PolicyError
from modelarmor.policy.model import Outcome, PathRule, Policy, Posture
from modelarmor.profiles import Profile, ProfileError

SHIPPED = Path(__file__).parents[1] / "kernel_profiles"
NAMES = ["gpu", "notebook", "notebook-online", "untrusted-model"]
PYTHON = os.path.realpath(sys.executable)
POLICY = """\
apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: {name: mine}
spec:
  selector: {matchLabels: {app: x}}
  action: Allow
  message: "kept: ${HOME}"
"""
FACTS = {"title": "Mine", "displayName": "Mine", "description": "A profile."}


class Place:
    """Directories of a made-up user, and profiles of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.home = self.root / "home"
        self.profiles = self.root / "profiles"
        for name in ("home/work", "scratch", "env/bin", "profiles"):
            (self.root / name).mkdir(parents=True)

    def load(self, name: str = "mine", **changed: Any) -> Profile:
        given = {
            "workspace": self.home / "work",
            "home": self.home,
            "tmp": self.root / "scratch",
            "prefix": self.root / "env",
            "search_path": [self.profiles, SHIPPED],
        }
        return profiles.load(name, **(given | changed))

    def write(self, policy: str = "", name: str = "mine", **facts: Any) -> None:
        directory = self.profiles / name
        directory.mkdir(exist_ok=True)
        (directory / "profile.yaml").write_text(yaml.safe_dump(FACTS | facts))
        (directory / "policy.yaml").write_text(POLICY + policy)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def verdict(profile: Profile, kind: Any, path: object, **more: Any) -> Decision:
    operation = Operation(kind=kind, path=str(path), **({"source": PYTHON} | more))
    return decide(operation, profile.policies, profile.posture)


def allowed(profile: Profile, kind: Any, path: object, **more: Any) -> bool:
    return verdict(profile, kind, path, **more).verdict == "allow"


# --- the profiles that are shipped


def test_the_shipped_profiles_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MODELARMOR_PROFILES", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert profiles.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_profile_says_all_that_it_should(place: Place, name: str) -> None:
    profile = place.load(name)
    assert profile.title and profile.display_name
    assert len(profile.description) > 80
    assert profile.posture == Posture.all("block")
    assert profile.resources.processes and profile.resources.open_files and profile.resources.disk
    for policy in profile.policies:
        assert policy.name.startswith(f"modelarmor-{name}")
        assert policy.selector.match_labels == (("modelarmor.io/profile", name),)
        for rule in (*policy.process, *policy.file, *policy.network, *policy.capabilities):
            assert rule.outcome.message, rule
            assert rule.outcome.severity, rule
            assert rule.outcome.action == "Allow" or rule.outcome.tags, rule


@pytest.mark.parametrize("name", NAMES)
def test_credentials_and_dotfiles_are_blocked_by_a_rule_of_their_own(
    place: Place, name: str
) -> None:
    profile = place.load(name)
    for path in (".ssh/id_rsa", ".aws/credentials", ".kube/config", ".netrc", ".bashrc"):
        for kind in ("read", "write", "create"):
            decision = verdict(profile, kind, place.home / path)
            assert decision.verdict == "block"
            assert decision.rule is not None, (path, kind)
    for path in (".config/anything", "other/notes.txt", ".local/share/jupyter/runtime/k.json"):
        assert not allowed(profile, "read", place.home / path)
    assert not allowed(profile, "read", "/etc/shadow")
    assert not allowed(profile, "read", "/etc/sudoers")
    assert not allowed(profile, "read", "/root/notes.txt")
    assert not allowed(profile, "read", "/var/lib/x")


@pytest.mark.parametrize("name", NAMES)
def test_what_python_needs_is_granted_and_not_writable(place: Place, name: str) -> None:
    profile = place.load(name, prefix=Path(sys.prefix))
    stdlib = os.path.realpath(os.__file__)
    for path in (stdlib, f"{sys.prefix}/lib/x.py", "/usr/lib/x.so", "/etc/passwd", "/proc/meminfo"):
        assert allowed(profile, "read", path), path
        for kind in ("write", "create", "delete", "metadata"):
            assert not allowed(profile, kind, path), (kind, path)
    assert allowed(profile, "exec", PYTHON)
    for writable in (place.root / "scratch" / "x", "/dev/shm/x"):
        assert allowed(profile, "create", writable)


@pytest.mark.parametrize("name", ["notebook", "notebook-online", "gpu"])
def test_a_notebook_writes_its_workspace_and_runs_shells(place: Place, name: str) -> None:
    profile = place.load(name)
    for kind in ("read", "write", "create", "delete", "metadata", "list"):
        assert allowed(profile, kind, place.home / "work" / "a.csv")
    for program in ("/usr/bin/bash", "/usr/bin/ls", place.root / "env/bin/pip"):
        assert allowed(profile, "exec", program)
    for program in ("/usr/bin/sudo", "/usr/bin/apt", "/usr/bin/ssh", "/usr/local/bin/docker"):
        assert not allowed(profile, "exec", program)
    # What can be written cannot be run.
    assert not allowed(profile, "exec", place.home / "work" / "payload")
    assert not allowed(profile, "exec", place.root / "scratch" / "payload")


def test_an_untrusted_model_reads_its_workspace_and_runs_python_alone(place: Place) -> None:
    (place.home / "model").mkdir()
    profile = place.load("untrusted-model", model=place.home / "model", prefix=Path(sys.prefix))
    for directory in ("work", "model"):
        path = place.home / directory / "weights.pkl"
        assert allowed(profile, "read", path)
        for kind in ("write", "create", "delete", "metadata"):
            assert not allowed(profile, kind, path)
    assert allowed(profile, "exec", PYTHON)
    for program in ("/usr/bin/dash", "/usr/bin/curl", "/usr/bin/ls", "/usr/bin/sudo"):
        assert not allowed(profile, "exec", program)
    shell = verdict(profile, "exec", "/usr/bin/dash")
    assert shell.policy is not None
    assert shell.policy.name == "modelarmor-untrusted-model-programs"


def test_a_gpu_is_for_the_interpreter_alone(place: Place) -> None:
    profile = place.load("gpu", prefix=Path(sys.prefix))
    for device in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dri/renderD128"):
        assert allowed(profile, "write", device)
        assert not allowed(profile, "write", device, source="/usr/bin/bash")
        assert not allowed(place.load("notebook"), "write", device)


def test_only_the_online_profile_has_a_network(place: Place) -> None:
    assert [name for name in NAMES if not place.load(name).network.is_none] == ["notebook-online"]


@pytest.mark.parametrize("name", NAMES)
def test_what_stays_out_of_reach_is_the_same_in_every_profile(place: Place, name: str) -> None:
    def blocks(profile: Profile) -> dict[str, Any]:
        return {
            policy.name.removeprefix(f"modelarmor-{profile.name}"): (
                policy.process,
                policy.file,
                policy.network,
                policy.capabilities,
                policy.presets,
            )
            for policy in profile.policies[1:]
            if not policy.name.endswith("-programs")
        }

    assert blocks(place.load(name)) == blocks(place.load("notebook"))


# --- templates


def test_a_path_cannot_become_yaml(place: Place) -> None:
    workspace = place.root / 'it\'s "mine": {a: b}\n      - {dir: /, recursive: true}\n#'
    workspace.mkdir(parents=True)
    profile = place.load("notebook", workspace=workspace)
    assert allowed(profile, "write", workspace / "x")
    assert not allowed(profile, "read", "/var/lib/x")


def test_a_rule_keeps_the_line_it_was_written_in(place: Place) -> None:
    place.write('  file:\n    matchDirectories:\n    - {dir: "${PREFIX}/"}\n')
    rules = place.load().policies[0].file
    assert [rule.place.line for rule in rules] == [10]
    assert rules[0].place.file == str(place.profiles / "mine" / "policy.yaml")
    assert rules[0].outcome.message == "kept: ${HOME}"


def test_the_environment_is_also_the_installation_behind_it(place: Place) -> None:
    base = place.root / "python3"
    (base / "bin").mkdir(parents=True)
    (base / "bin" / "python3.11").touch()
    (place.root / "env/bin/python").symlink_to(base / "bin" / "python3.11")
    (place.root / "env/pyvenv.cfg").write_text(f"version = 3.11\nhome = {base}/bin\n")
    place.write(
        '  file:\n    matchDirectories:\n    - {dir: "${PREFIX}/"}\n'
        '    matchPaths:\n    - {path: /x, fromSource: [{path: "${PREFIX}/bin/python"}]}\n'
    )
    rules = {rule.value: rule.from_source for rule in place.load().policies[0].file}
    assert set(rules) == {f"{place.root}/env/", f"{base}/", "/x"}
    assert f"{base}/bin/python3.11" in rules["/x"]
    assert f"{place.root}/env/bin/python" not in rules["/x"]


def test_a_link_of_the_system_is_followed(place: Place) -> None:
    real = place.root / "real"
    real.mkdir()
    (place.root / "link").symlink_to(real)
    (place.home / ".ssh").symlink_to(real)
    place.write(
        f"  file:\n    matchDirectories:\n    - {{dir: {place.root}/link/}}\n"
        '    - {dir: "${HOME}/.ssh/", action: Block}\n    - {dir: /proc/self/fd/}\n'
    )
    values = [rule.value for rule in place.load().policies[0].file]
    assert values == [f"{real}/", f"{real}/", "/proc/self/fd/"]


def test_a_link_that_the_workload_left_behind_is_not_followed(place: Place) -> None:
    (place.home / "work" / "data").symlink_to(place.home / ".ssh")
    place.write('  file:\n    matchDirectories:\n    - {dir: "${WORKSPACE}/data/"}\n')
    assert [rule.value for rule in place.load().policies[0].file] == [f"{place.home}/work/data/"]


def test_a_rule_for_a_model_falls_away_without_one(place: Place) -> None:
    place.write(
        '  file:\n    matchPaths:\n    - {path: "${MODEL}"}\n'
        '    - {path: /x, fromSource: [{path: "${MODEL}/run"}]}\n    - {path: /y}\n'
    )
    assert [rule.value for rule in place.load().policies[0].file] == ["/y"]
    with_model = place.load(model=place.root / "m").policies[0].file
    assert [rule.value for rule in with_model] == [f"{place.root}/m", "/x", "/y"]


def test_a_pattern_takes_a_directory_literally(place: Place) -> None:
    workspace = place.root / "a[b]*"
    workspace.mkdir()
    place.write('  file:\n    matchPatterns:\n    - {pattern: "${WORKSPACE}/*.csv"}\n')
    profile = place.load(workspace=workspace)
    assert allowed(profile, "read", workspace / "x.csv")
    assert not allowed(profile, "read", place.root / "ab" / "x.csv")


def test_for_another_machine_no_link_of_this_one_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/elsewhere")
    text = POLICY + (
        '  file:\n    matchPaths:\n    - {path: "${PREFIX}/bin/python"}\n'
        f'    - {{path: {tmp_path}/link, fromSource: [{{path: "${{PREFIX}}/bin/python"}}]}}\n'
    )
    values = {**dict.fromkeys(profiles.TEMPLATES, "/there"), "PREFIX": "/opt"}
    (policy,) = profiles.fill_elsewhere(
        text, name="<text>", values=values, links={"/opt/bin/python": "/opt/bin/python3.11"}
    )
    python = "/opt/bin/python3.11"
    assert [rule.value for rule in policy.file] == [python, f"{tmp_path}/link"]
    assert policy.file[1].from_source == (python,)


@pytest.mark.parametrize(
    "path", ["/data/${WORKSPACE}/x", "/data/${OTHER}/x", "${TMP}x", "${TMP}/${HOME}"]
)
def test_a_template_that_means_nothing_is_refused(place: Place, path: str) -> None:
    place.write(f'  file:\n    matchPaths:\n    - {{path: "{path}"}}\n')
    with pytest.raises(ProfileError) as caught:
        place.load()
    assert path in str(caught.value)
    assert "policy.yaml" in str(caught.value)


@pytest.mark.parametrize("template", ["workspace", "tmp", "prefix", "model"])
@pytest.mark.parametrize("directory", ["home", ".", "/"])
def test_the_home_directory_is_never_granted_whole(
    place: Place, template: str, directory: str
) -> None:
    with pytest.raises(
        ProfileError, match=f"^{template}: .* (contains the|is your) home directory"
    ):
        place.load("notebook", **{template: place.root / directory})


def test_an_environment_cannot_name_the_home_as_its_installation(place: Place) -> None:
    (place.root / "env/pyvenv.cfg").write_text(f"home = {place.home}/bin\n")
    with pytest.raises(ProfileError, match=r"prefix: .* is your home directory"):
        place.load("notebook")


# --- profiles of one's own


def test_ones_own_profiles_come_first(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write(name="notebook")
    assert place.load("notebook").title == "Mine"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place.root / "config"))
    monkeypatch.setenv("MODELARMOR_PROFILES", f"{place.profiles}:/nowhere")
    place.write()
    assert profiles.names() == sorted([*NAMES, "mine"])
    assert profiles.search_path()[:2] == [place.profiles, Path("/nowhere")]
    shutil.copytree(place.profiles, place.root / "config/modelarmor/profiles")
    monkeypatch.delenv("MODELARMOR_PROFILES")
    assert profiles.names() == sorted([*NAMES, "mine"])


def test_a_relative_search_path_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELARMOR_PROFILES", "profiles")
    with pytest.raises(ProfileError, match="'profiles' should be an absolute path"):
        profiles.names()


@pytest.mark.parametrize("name", ["../profiles/mine", "", ".", "Mine", "mine/", "/mine", "mine\n"])
def test_a_name_does_not_leave_the_search_path(place: Place, name: str) -> None:
    place.write()
    with pytest.raises(ProfileError, match="no profile"):
        place.load(name)


def test_a_misspelt_name_gets_a_suggestion(place: Place) -> None:
    with pytest.raises(ProfileError, match="no profile 'notbook'; did you mean notebook"):
        place.load("notbook")


def test_a_profile_without_network_file_limits_no_network(place: Place) -> None:
    place.write()
    assert place.load().network.is_unrestricted


def test_the_environment_is_what_is_listed_and_given(place: Place) -> None:
    place.write(environment={"inherit": ["PATH", "LC_*"], "set": {"TMPDIR": "${TMP}/x", "A": "1"}})
    inherited = {"PATH": "/bin", "LC_ALL": "C", "AWS_SECRET": "s", "XPATH": "", "TMPDIR": "/tmp"}
    assert place.load().environ(inherited) == {
        "PATH": "/bin",
        "LC_ALL": "C",
        "TMPDIR": f"{place.root}/scratch/x",
        "A": "1",
    }


@pytest.mark.parametrize("name", NAMES)
def test_no_shipped_profile_passes_secrets_on(place: Place, name: str) -> None:
    secrets = {
        "AWS_SECRET_ACCESS_KEY": "s",
        "HF_TOKEN": "s",
        "GITHUB_TOKEN": "s",
        "HTTPS_PROXY": "s",
        "JPY_API_TOKEN": "s",
        "JUPYTER_TOKEN": "s",
        "LD_PRELOAD": "s",
        "MLFLOW_TRACKING_PASSWORD": "s",
        "PYTHONPATH": "s",
        "PYTHONSTARTUP": "s",
        "SSH_AUTH_SOCK": "s",
    }
    profile = place.load(name)
    assert set(profile.environ(secrets)) == set(profile.variables)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"tittle": "x"}, "document: 'tittle' is no field"),
        ({"title": ""}, "title: should be a text"),
        ({"title": ["x"]}, "title: should be a text"),
        ({"posture": "allow"}, "posture.file: 'allow' should be block or audit"),
        ({"posture": {"files": "block"}}, "posture: 'files' is no field"),
        ({"posture": 1}, "posture: should be a mapping"),
        (
            {"resources": {"memory": "1Gi"}},
            "resources: 'memory' is no field here; known are limits",
        ),
        ({"resources": {"limits": {"memory": "1GB"}}}, "resources.limits: memory: '1GB'"),
        ({"environment": {"inherit": "PATH"}}, "environment.inherit: should be a list"),
        ({"environment": {"inherit": ["A=B"]}}, "environment.inherit: 'A=B' should be"),
        ({"environment": {"set": {"A B": "1"}}}, "environment.set: 'A B' is no variable"),
        ({"environment": {"set": {"A": 1}}}, "environment.set.A: should be a text"),
        ({"environment": {"set": {"A": "${MODEL}"}}}, "environment.set.A: ${MODEL} stands for"),
        ({"environment": {"set": {"A": "${FOO}"}}}, "environment.set.A: ${FOO} stands for"),
    ],
)
def test_a_bad_field_is_refused_by_file_and_name(
    place: Place, facts: dict[str, Any], message: str
) -> None:
    place.write(**facts)
    with pytest.raises(ProfileError) as caught:
        place.load()
    assert str(caught.value).startswith(f"{place.profiles}/mine/profile.yaml: ")
    assert message in str(caught.value)


def test_a_posture_may_differ_by_class(place: Place) -> None:
    place.write(posture={"file": "audit"})
    assert place.load().posture == Posture(file="audit")


def test_a_bad_policy_is_an_error_of_the_policy(place: Place) -> None:
    place.write("  file:\n    matchPath: []\n")
    with pytest.raises(PolicyError) as caught:
        place.load()
    assert "policy.yaml" in str(caught.value)


def test_a_missing_policy_is_named(place: Place) -> None:
    place.write()
    (place.profiles / "mine" / "policy.yaml").unlink()
    with pytest.raises(ProfileError, match=r"policy\.yaml: cannot be read"):
        place.load()


def test_what_a_template_stands_for_is_written_as_that_template_again(tmp_path: Path) -> None:
    places = {
        "workspace": tmp_path / "home" / "ws",
        "home": tmp_path / "home",
        "tmp": tmp_path / "tmp",
        "prefix": tmp_path / "home" / "ws" / "env",
    }
    allow = Outcome("Allow")
    paths = ["home/ws/a b", "home/ws/env/bin/x", "home/.x", "tmp/y", "home/wsx", "other"]
    rules = tuple(PathRule(allow, match="path", value=f"{tmp_path}/{path}") for path in paths)
    policy = Policy("KubeArmorPolicy", "added", outcome=allow, file=rules)

    text = profiles.templated([policy], **places)

    for line in ("${WORKSPACE}/a b", "${PREFIX}/bin/x", "${HOME}/.x", "${TMP}/y", "${HOME}/wsx"):
        assert f"- path: {line}\n" in text
    assert f"- path: {tmp_path}/other\n" in text


@pytest.mark.parametrize("path", ["/.modelarmor-template-HOME/.ssh/id", "/data/${HOME}"])
def test_a_path_that_would_become_a_template_is_refused(tmp_path: Path, path: str) -> None:
    allow = Outcome("Allow")
    policy = Policy("KubeArmorPolicy", "x", file=(PathRule(allow, match="path", value=path),))

    with pytest.raises(ProfileError, match="cannot be written"):
        profiles.templated(
            [policy], workspace=tmp_path / "w", home=tmp_path, tmp=tmp_path / "t",
            prefix=tmp_path / "p",
        )  # fmt: skip
