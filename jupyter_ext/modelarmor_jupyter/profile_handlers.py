"""Profiles over REST: what there is, what a kernel's record would add, and the user's own."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from jupyter_server.auth.decorator import authorized
from tornado import web

from modelarmor import profiles
from modelarmor.policy.document import PolicyError
from modelarmor.profiles import Profile, ProfileError
from modelarmor_jupyter import own_profiles, proposals
from modelarmor_jupyter.config import ModelArmor
from modelarmor_jupyter.handlers import MAX_LIMIT, Handler, refusals
from modelarmor_jupyter.state import facts

_MAX_TITLE: Final = 100
#: stand for the directories of a kernel that there is not
_NOWHERE: Final = Path("/modelarmor")


class ProfilesHandler(Handler):
    """``modelarmor/api/profiles``: list the profiles; save one from a kernel's record."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with each profile that is found."""
        self.answer(await asyncio.to_thread(_listed, self.extension.armor))

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Save a profile of one's own, with a kernelspec for it."""
        body = self.body("kernel_id", "seqs", "name", "title")
        provisioner = self.confined(body.get("kernel_id"))
        name, title = body.get("name"), body.get("title")
        if not isinstance(name, str) or not profiles.is_name(name):
            raise web.HTTPError(400, "name takes lower-case letters, digits and inner hyphens")
        if title is None:
            title = name
        if not isinstance(title, str) or not 0 < len(title.strip()) <= _MAX_TITLE:
            raise web.HTTPError(400, f"title is a text of at most {_MAX_TITLE} characters")
        if not title.isprintable():
            raise web.HTTPError(400, "title is one line of printable text")
        if not provisioner.settings.allows(name):
            allowed = "this server allows only what c.ModelArmor.allowed_profiles names"
            raise web.HTTPError(403, f"{allowed}, and {name} is not among it")
        spec = _kernel_spec(self.manager(body["kernel_id"]))
        try:
            with refusals():
                directory, found = await asyncio.to_thread(
                    proposals.save,
                    provisioner,
                    _seqs(body),
                    name=name,
                    title=title.strip(),
                    kernel_spec=spec,
                )
        except OSError as error:
            raise web.HTTPError(500, f"the profile cannot be saved: {error}") from error
        except ValueError as error:
            raise web.HTTPError(400, str(error)) from error
        self.log.info("the profile %s was saved in %s", name, directory)
        answer = {"name": name, "directory": str(directory), "proposal": found.proposal.to_json()}
        self.answer(answer, 201)


class PreviewHandler(Handler):
    """``POST modelarmor/api/profiles/preview``: what would be added, without adding it."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Answer with the change that permits what the alerts are about."""
        body = self.body("kernel_id", "seqs")
        provisioner = self.confined(body.get("kernel_id"))
        with refusals():
            found = await asyncio.to_thread(proposals.preview, provisioner, _seqs(body))
        self.answer(found.to_json())


class ProfileHandler(Handler):
    """``modelarmor/api/profiles/{name}``: one profile in full; delete one of one's own."""

    @web.authenticated
    @authorized
    async def get(self, name: str) -> None:
        """Answer with what the profile says."""
        try:
            self.answer(await asyncio.to_thread(_in_full, self.extension.armor, name))
        except (ProfileError, PolicyError) as error:
            raise web.HTTPError(404, str(error)) from error

    @web.authenticated
    @authorized
    async def delete(self, name: str) -> None:
        """Delete a profile of one's own, with its kernelspec."""
        try:
            await asyncio.to_thread(own_profiles.delete, name)
        except own_profiles.NotOwn as error:
            raise web.HTTPError(404, str(error)) from error
        except OSError as error:
            raise web.HTTPError(500, f"{name} cannot be deleted: {error}") from error
        self.log.info("the profile %s was deleted", name)
        self.set_status(204)
        self.finish()


def _seqs(body: dict[str, Any]) -> list[int] | None:
    """Which alerts a request is about; None for all.

    Raises
    ------
    tornado.web.HTTPError
        400 when that is no list of numbers.
    """
    seqs = body.get("seqs")
    if seqs is None:
        return None
    right = isinstance(seqs, list) and 0 < len(seqs) <= MAX_LIMIT
    if not right or any(type(seq) is not int or not 0 < seq < 10**15 for seq in seqs):
        raise web.HTTPError(400, f"seqs is null, or a list of 1 to {MAX_LIMIT} numbers of alerts")
    return list(dict.fromkeys(seqs))


def _kernel_spec(manager: Any) -> dict[str, Any]:
    return dict(manager.kernel_spec.to_dict())


# --- what there is


def _listed(armor: ModelArmor) -> list[dict[str, Any]]:
    found = []
    for name in profiles.names(armor.search_path()):
        try:
            found.append(_in_brief(armor, _load(armor, name)))
        except (ProfileError, PolicyError) as error:
            wrong = {"title": name, "description": f"It cannot be used: {error}"}
            brief = {"name": name, **wrong, "display_name": name}
            own = (profiles.user_directory() / name).exists()
            found.append({**brief, "own": own, "allowed": False})
    return found


def _in_brief(armor: ModelArmor, profile: Profile) -> dict[str, Any]:
    own = own_profiles.is_own(profile)
    return {**facts(profile), "own": own, "allowed": armor.allows(profile.name)}


def _in_full(armor: ModelArmor, name: str) -> dict[str, Any]:
    profile = _load(armor, name)
    return {
        **_in_brief(armor, profile),
        "policy": (profile.directory / "policy.yaml").read_text(encoding="utf-8"),
        "posture": asdict(profile.posture),
        "egress": profile.network.to_json(),
        "resources": profile.resources.to_json(),
    }


def _load(armor: ModelArmor, name: str) -> Profile:
    return armor.load(
        name, workspace=_NOWHERE / "work", scratch=_NOWHERE / "tmp", prefix=_NOWHERE / "env"
    )
