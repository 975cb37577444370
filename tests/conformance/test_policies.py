"""Policies that are published or made here, on KubeArmor's own code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelarmor.policy import document
from modelarmor.policy.lint import entry_cost

from . import enforcer, policies
from .test_enforcer import CODE_VARIABLE

_POLICY = """
apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: {name: p, namespace: default}
spec:
  selector: {matchLabels: {a: b}}
  process: {matchPaths: [{execname: nc, fromSource: [{path: /opt/tool}]}], action: Block}
  file: {matchDirectories: [{dir: /srv/, recursive: true, readOnly: true}], action: Allow}
  network: {matchDNSQueries: [{domain: example.com}], action: Block}
  capabilities: {matchCapabilities: [{capability: chown}], action: Block}
"""


def test_what_a_policy_names_is_asked_for_by_who_it_names_and_by_others() -> None:
    asked = policies.probes(document.load(_POLICY))
    assert {op.source for op in asked} >= {"/opt/tool", "/usr/bin/bash"}
    of_paths = {(op.kind, op.path) for op in asked}
    assert of_paths >= {("exec", "/usr/bin/nc"), ("list", "/srv"), ("delete", "/srv/x/y")}
    assert ("exec", "/srv") not in of_paths
    assert {op.dns for op in asked} == {"", "example.com", "www.example.com"}
    assert {op.capability for op in asked} == {"", "chown"}


@pytest.mark.skipif(CODE_VARIABLE not in os.environ, reason=f"{CODE_VARIABLE} is not set")
def test_a_profile_differs_on_kubearmors_code_only_as_the_page_says() -> None:
    asked = policies.case("untrusted-model")
    with enforcer.enforcer(Path(os.environ[CODE_VARIABLE])) as real:
        answers = real.answers(asked)
    found = {difference.reason for difference in enforcer.differences(asked, answers)}
    assert found == {"MA312", "MA416"}
    assert answers.entries == entry_cost(asked.policies)
