"""The names that are ours, and when two names are the same one.

Databases disagree on that: SQLite and PostgreSQL tell ``Champion`` from ``champion``, MySQL's
default collations do not, and take ``chämpion`` for the same too. What is protected is therefore
compared without case, accents, width, white space and invisible characters: to protect a name too
many refuses a promotion, to protect one too few is a way in.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final

#: every tag that begins with this word is the server's
NAMESPACE: Final = "modelarmor"

#: what a client submits: one signed statement (a DSSE envelope, JSON)
SUBMIT: Final = "modelarmor.submit"
#: what a client asks for: `GENERATE`
REQUEST: Final = "modelarmor.request"
GENERATE: Final = "generate"

#: ``queued``, ``running``, ``failed`` or ``generated``
STATE: Final = "modelarmor.state"
#: what is being done, or why it failed
PROGRESS: Final = "modelarmor.progress"
#: what a review is about: `modelarmor_mlflow.statements.Subject` as JSON
SUBJECT: Final = "modelarmor.subject"
#: KubeArmorPolicy documents, one NetworkPolicy, and limits (JSON)
POLICY: Final = "modelarmor.policy"
NETWORK: Final = "modelarmor.network"
RESOURCES: Final = "modelarmor.resources"
#: how many findings of each severity
FINDINGS: Final = "modelarmor.findings"
#: how the review stands, for people
REVIEW: Final = "modelarmor.review"
#: the signed statements, oldest first: a JSON list of envelopes
STATEMENTS: Final = "modelarmor.statements"

#: what only the version itself shows, and no list of versions
NOT_LISTED: Final = (STATE, SUBJECT, POLICY, NETWORK, RESOURCES, STATEMENTS)

#: the longest value of a tag, in bytes: what MySQL's TEXT holds, with some room
MAX_TAG: Final = 60_000


def fold(name: str) -> str:
    """`name` as it is compared: what any database or reader might take for the same."""
    plain = unicodedata.normalize("NFKD", name).casefold()
    kept = (
        character
        for character in unicodedata.normalize("NFKD", plain)
        if unicodedata.category(character) not in ("Mn", "Me", "Cf", "Cc", "Zs", "Zl", "Zp")
    )
    return "".join(kept)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern (``*`` and ``?``, nothing else) covers `name`."""
    folded = fold(name)
    return any(fnmatchcase(folded, _literal_brackets(fold(pattern))) for pattern in patterns)


def is_reserved(key: str) -> bool:
    """Whether a tag's key is ours, or could be taken for ours by a person or a database."""
    folded = fold(key)
    if re.match(NAMESPACE + r"(?![a-z0-9])", folded):
        return True
    return _looks_like_namespace(re.split(r"[\W_]", folded, maxsplit=1)[0])


def _looks_like_namespace(word: str) -> bool:
    """Letters of other alphabets between ours: `modelarmor` with a Cyrillic o."""
    if len(word) != len(NAMESPACE) or word.isascii() or not any(map(str.isascii, word)):
        return False
    return all(
        not mine.isascii() or mine == ours for mine, ours in zip(word, NAMESPACE, strict=True)
    )


def _literal_brackets(pattern: str) -> str:
    return pattern.replace("[", "[[]")
