"""Somebody at a browser without scripts: follows links, keeps cookies, fills forms in."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urlencode, urljoin, urlsplit

import requests


def address(server, path="", **query):
    """One of our pages."""
    return f"{server.uri}/modelarmor/{path}" + (f"?{urlencode(query)}" if query else "")


class Visitor:
    """One person's browser, as far as a server can tell."""

    def __init__(self, server, user="", password=""):
        self.server = server
        self.http = requests.Session()
        self.http.trust_env = False
        if user:
            self.http.auth = (user, password)

    def get(self, path="", **query):
        return self.http.get(address(self.server, path, **query), timeout=60)

    def review(self, version):
        return self.get("review", name=version.name, version=version.version)

    def form(self, answer, action):
        """The form of a page that is sent to `action`, as it stands."""
        found = [form for form in forms(answer.text) if form.action.endswith(action)]
        assert found, f"there is no form for {action} in:\n{answer.text}"
        return Filled(found[0], answer.url, dict(found[0].fields))

    def send(self, filled, *, origin=None, **changes):
        """Send a form as a browser does; `origin` is another page than its own."""
        url = urljoin(filled.page, filled.form.action)
        own = "{0.scheme}://{0.netloc}".format(urlsplit(filled.page))
        return self.http.post(
            url,
            data={**filled.values, **changes},
            headers={"Origin": own if origin is None else origin},
            timeout=60,
        )

    def draft(self, version, decision="approve", **answers):
        filled = self.form(self.review(version), "/draft")
        answers = {"reason": "looked at it", "reviewer": "ada", **answers}
        return self.send(filled, decision=decision, **answers)


@dataclass
class Form:
    action: str
    fields: dict[str, str] = field(default_factory=dict)


@dataclass
class Filled:
    form: Form
    page: str
    values: dict[str, str]


class _Forms(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        told = dict(attrs)
        if tag == "form":
            self.found.append(Form(told.get("action", "")))
        elif tag == "input" and self.found and told.get("type") != "radio" and "name" in told:
            self.found[-1].fields[told["name"]] = told.get("value", "")


def forms(text):
    parser = _Forms()
    parser.feed(text)
    return parser.found


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = set()
        self.attributes = set()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.addresses += [value for name, value in attrs if name in ("href", "action")]


def assert_harmless(text):
    """Nothing in a page runs, loads or leads anywhere that is not ours to begin with."""
    parser = _Tags()
    parser.feed(text)
    assert not parser.tags & {"script", "svg", "img", "iframe", "object", "embed", "style", "base"}
    assert not {name for name in parser.attributes if name.startswith("on") or name == "style"}
    for place in parser.addresses:
        assert place.startswith(("/modelarmor", "/#/models", "#")), place
