"""The command line as its users meet it: in a process of its own."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from modelarmor import __version__
from modelarmor.policy import document

ROOT = Path(__file__).parents[1]
NAMES = ["gpu", "notebook", "notebook-online", "untrusted-model"]


def modelarmor(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from modelarmor.cli import main; sys.exit(main())"
    clean = {key: value for key, value in os.environ.items() if key != "MODELARMOR_PROFILES"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**clean, "XDG_CONFIG_HOME": "/nowhere", **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("imported", ["modelarmor.cli", "yaml", "modelarmor.generate.commands"])
def test_ctrl_c_ends_it_quietly_while_it_is_still_imported(imported: str) -> None:
    program = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = program["modelarmor"].partition(":")
    interrupt = f"""
import os, signal, sys
def hook(event, details):
    if event == "import" and details[0] == {imported!r}:
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(hook)
from {module} import {function}
sys.exit({function}())
"""
    command = [sys.executable, "-c", interrupt, "profiles"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_it_tells_its_version() -> None:
    assert modelarmor("--version").stdout == f"modelarmor {__version__}\n"


def test_help_names_every_command_and_shows_examples() -> None:
    done = modelarmor("--help")
    assert done.returncode == 0
    for command in ("doctor", "run", "lint", "explain", "profiles"):
        assert f"\n    {command} " in done.stdout, command
        assert modelarmor(command, "--help").returncode == 0
    assert "modelarmor run --profile notebook -- python train.py" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["fly"], ["profiles", "--format", "xml"], ["generate", "m", "--predictions", "0"],
        ["deploy", "m", "--image", "i", "--timeout", "nan"], ["doctor", "--format", "yaml"],
    ],
)  # fmt: skip
def test_a_mistake_in_the_command_line_is_status_2(arguments: list[str]) -> None:
    done = modelarmor(*arguments)
    assert done.returncode == 2
    assert "modelarmor" in done.stderr.splitlines()[-1]


def test_without_a_command_it_shows_which_there_are() -> None:
    done = modelarmor()
    assert done.returncode == 2
    assert "\n    doctor " in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("compliance", "no.json"), ("review", "no.json")],
)
def test_a_file_that_is_not_there_is_named(arguments: tuple[str, ...]) -> None:
    done = modelarmor(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("modelarmor: error: no.json: No such file or directory")


def test_profiles_are_listed_with_what_they_are_for() -> None:
    done = modelarmor("profiles")
    assert done.returncode == 0
    headings = [line.partition(":")[0] for line in done.stdout.splitlines() if line[:1].strip()]
    assert headings == NAMES
    listed = json.loads(modelarmor("profiles", "--format", "json").stdout)
    assert [profile["name"] for profile in listed] == NAMES


def test_a_profile_is_shown_as_a_policy_that_can_be_applied() -> None:
    done = modelarmor("profiles", "notebook", "--workspace", "/srv/work")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# name: notebook\n")
    policies = document.load(done.stdout)
    assert policies[0].name == "modelarmor-notebook"
    assert "/srv/work/" in [rule.value for rule in policies[0].file]
    assert "${" not in "".join(line for line in done.stdout.splitlines() if line[0] != "#")


def test_a_profile_as_json_holds_all_that_it_says() -> None:
    shown = json.loads(modelarmor("profiles", "notebook-online", "--format", "json").stdout)
    assert shown["name"] == "notebook-online"
    assert shown["posture"] == {"file": "block", "network": "block", "capabilities": "block"}
    assert ["tcp", 443, 443] in shown["egress"][0]["ports"]
    assert shown["resources"]["processes"] == 1024
    assert "PATH" in shown["environment"]["inherit"]
    assert document.load(yaml.safe_dump_all(shown["policies"]))[0].process


def test_an_unknown_profile_is_an_error_with_a_suggestion() -> None:
    done = modelarmor("profiles", "notbook")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("modelarmor: error: no profile 'notbook'; did you mean notebook?")


def test_a_bad_profile_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "profile.yaml").write_text("title: [")
    done = modelarmor("profiles", MODELARMOR_PROFILES=str(tmp_path))
    assert done.returncode == 2
    assert f"modelarmor: error: profile bad: {tmp_path}/bad/" in done.stderr
    assert "notebook-online:" in done.stdout


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    code = "import sys; from modelarmor.cli import main; sys.exit(main(['profiles', 'gpu']))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert done.returncode == 0
    assert done.stderr == b""


def test_a_network_policy_in_a_policys_place_is_pointed_to_its_own(tmp_path: Path) -> None:
    (tmp_path / "n.yaml").write_text(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: n}\n"
        "spec: {podSelector: {}, policyTypes: [Egress]}\n"
    )
    assert "run --network FILE" in modelarmor("lint", str(tmp_path / "n.yaml")).stdout
    done = modelarmor("run", "--policy", str(tmp_path / "n.yaml"), "--", "true")
    assert (done.returncode, "run --network FILE" in done.stderr) == (2, True)


def test_alerts_into_a_directory_that_is_not_there_name_the_option_and_the_directory() -> None:
    done = modelarmor("run", "--alerts", "/nowhere/at/all", "--", "true")
    assert done.returncode == 2
    assert "--alerts /nowhere/at/all: cannot be written: there is no directory" in done.stderr


def test_alerts_go_where_the_command_does_not_write(tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    (tmp_path / "p.yaml").write_text(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: p}\n"
        "spec: {selector: {matchLabels: {a: b}}, action: Block,"
        f" file: {{matchPaths: [{{path: {tmp_path}/secret}}]}}}}\n"
    )
    command = ["--policy", str(tmp_path / "p.yaml"), "--", "sh", "-c",
               f"echo mine; cat {tmp_path}/secret"]  # fmt: skip
    done = modelarmor("run", "--alerts", str(tmp_path / "alerts"), *command)
    assert done.stdout == "mine\n"
    [line] = (tmp_path / "alerts").read_text().splitlines()
    assert json.loads(line)["Resource"] == f"{tmp_path}/secret"
    assert "modelarmor:" not in done.stderr
    mixed = modelarmor("run", "--alerts", "-", *command)
    assert {line.startswith('{"') for line in mixed.stdout.splitlines()} == {True, False}
    assert "modelarmor:" not in mixed.stderr


def test_a_disk_that_is_full_of_alerts_is_told_and_ends_nothing(tmp_path: Path) -> None:
    command = ["--workspace", str(tmp_path), "--", "sh", "-c", "cat /etc/shadow; cat /etc/gshadow;"
               " exit 7"]  # fmt: skip
    done = modelarmor("run", "--alerts", "/dev/full", *command)
    assert done.returncode == 7
    assert done.stderr.count("--alerts /dev/full: cannot be written: No space left on device") == 1
    assert re.search(r"--alerts /dev/full: \d+ alerts are not in it", done.stderr)


def test_alerts_beyond_what_is_listed_are_summed_up_in_the_file_too(tmp_path: Path) -> None:
    code = "for n in range(20_000):\n  try: open('/etc/shadow')\n  except OSError: pass"
    done = modelarmor(
        "run", "--workspace", str(tmp_path), "--alerts", str(tmp_path / "alerts"), "--",
        "python", "-c", code,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "alerts").read_text().splitlines()]
    one_by_one = sum(line.get("Resource") == "/etc/shadow" for line in lines)
    more = [int(line["EventData"]["Suppressed"]) for line in lines
            if line["Operation"] == "AlertThreshold"]  # fmt: skip
    assert more and one_by_one + sum(more) == 20_000


def test_the_home_directory_as_workspace_is_refused_with_the_option_to_use(tmp_path: Path) -> None:
    done = modelarmor("run", "--workspace", str(tmp_path), "--", "true", HOME=str(tmp_path))
    assert (done.returncode, "--workspace DIR" in done.stderr) == (2, True)


@pytest.mark.parametrize("again", [["modelarmor", "run"], ["python3", "-m", "modelarmor", "run"]])
def test_a_sandbox_inside_a_sandbox_is_refused_in_words(again: list[str]) -> None:
    done = modelarmor("run", "--", *again, "--", "true")
    assert (done.returncode, "inside of a sandbox" in done.stderr) == (2, True)


def test_the_scratch_directory_of_a_run_that_was_killed_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    run = ["run", "--workspace", str(tmp_path / "w"), "--"]
    code = "import sys; from modelarmor.cli import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", code, *run, "sh", "-c", "echo up; read line"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as killed:  # fmt: skip
        assert killed.stdout is not None
        assert killed.stdout.readline() == "up\n"
        killed.kill()
    [base] = tmp_path.glob("modelarmor-*")
    assert any(base.iterdir())
    assert modelarmor(*run, "true", TMPDIR=str(tmp_path)).returncode == 0
    assert not any(base.iterdir())


def test_templates_are_filled_in_where_a_policy_is_looked_at() -> None:
    policy = "kernel_profiles/notebook/policy.yaml"
    linted = modelarmor("lint", policy)
    assert linted.returncode == 0, linted.stdout
    done = modelarmor("explain", policy, "--read", "/home/ada/.ssh/id_rsa", HOME="/home/ada")
    assert done.returncode == 1
    assert "Block directory /home/ada/.ssh/" in done.stdout
    assert modelarmor("explain", policy, "--write", "/workspace/x").returncode == 0


def test_a_policy_of_a_model_is_enforced_once_it_says_where_the_model_is(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    text = (ROOT / "kernel_profiles" / "untrusted-model" / "policy.yaml").read_text()
    policy.write_text(text)
    command = ("run", "--policy", str(policy), "--workspace", str(tmp_path), "--", "true")
    refused = modelarmor(*command)
    assert refused.returncode == 2
    assert "--fill MODEL=DIR" in refused.stderr
    policy.write_text(text.replace("${MODEL}", str(tmp_path)))
    assert modelarmor(*command).returncode == 0


def test_a_template_that_nobody_knows_is_a_mistake(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    text = (ROOT / "examples" / "pytorch-app" / "policy.yaml").read_text()
    policy.write_text(text.replace("/etc/gshadow", "${NOWHERE}/gshadow"))
    done = modelarmor("explain", str(policy), "--read", "/etc/shadow")
    assert done.returncode == 2
    assert "${NOWHERE}" in done.stderr
