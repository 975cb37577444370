from __future__ import annotations

import json

import pytest

from modelarmor.alerts import Alert
from modelarmor.alerts.alert import MAX_JSON


def test_json_has_kubearmors_names_and_no_empty_field() -> None:
    alert = Alert(PolicyName="p", Operation="File", Resource="/etc/shadow", Action="Block", PID=7)

    assert alert.to_json() == {
        "PID": 7,
        "PolicyName": "p",
        "Type": "MatchedPolicy",
        "Operation": "File",
        "Resource": "/etc/shadow",
        "Action": "Block",
        "Enforcer": "ModelArmor",
    }


def test_every_field_survives_a_round_trip_through_text() -> None:
    alert = Alert(
        Timestamp=1_700_000_000,
        Severity="7",
        ATags=("MITRE", "T1059"),
        Owner={"Name": "pod", "Ref": "Pod"},
        EventData={"Lsm": "FILE_OPEN"},
        Resource='/tmp/"odd"\n\udce9',
    )

    assert Alert.from_json(json.dumps(alert.to_json())) == alert


def test_an_alert_of_kubearmor_is_read_without_our_defaults() -> None:
    alert = Alert.from_json({"Timestamp": "1700000000", "Operation": "File", "NewField": [1]})

    assert (alert.Timestamp, alert.Operation) == (1_700_000_000, "File")
    assert (alert.Enforcer, alert.Type) == ("", "")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("[]", "JSON object"),
        ("{", "Expecting"),
        ('{"PID": "x"}', "PID of an alert is a whole number"),
        ('{"PID": true}', "PID of an alert is a whole number"),
        ('{"PID": 1.5}', "PID of an alert is a whole number"),
        ('{"Source": 3}', "Source of an alert is a string"),
        ('{"ATags": "x"}', "ATags of an alert is a list"),
        ('{"ATags": [1]}', "ATags of an alert is a string"),
        ('{"EventData": {"a": 1}}', "EventData of an alert is a string"),
        ('{"EventData": []}', "EventData of an alert is an object"),
        ('{"a":' * 100_000, "nested too deeply"),
        (b"\xff\xfe{", "codec"),
        (" " * (MAX_JSON + 1), "refused"),
    ],
)
def test_what_is_not_an_alert_is_a_value_error(source: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Alert.from_json(source)
