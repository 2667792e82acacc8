"""/v1/audio/voices and /v1/audio/voice_consents: who can be spoken with, and making a voice from a recording.

Where the operator asks for consent (beyond loopback, by default), a voice is made in three steps: ask for a random phrase,
record somebody saying it, give that recording's id along with the sample. Elsewhere a consent may be given and need not be.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from gpa.results import Segment
from gpa.server import consent, forms, jobs
from gpa.server.access import caller
from gpa.server.desk import OPENAI_VOICES, Desk, desk
from gpa.server.failures import Refusal
from gpa.server.shelf import Consent, Made, new_id, now
from gpa.server.transcription import spoken_language
from gpa.voice import MAX_NAME, Voice

router = APIRouter()
TheDesk = Annotated[Desk, Depends(desk)]
Who = Annotated[str, Depends(caller)]
PHRASES = "/v1/audio/voice_consents/phrases"


class VoiceForm(BaseModel):
    """The form beside `audio_sample`."""

    model_config = ConfigDict(extra="ignore")
    name: str = Field(min_length=1, max_length=MAX_NAME)
    consent: str = ""
    type: str = "audio_sample"


class ConsentForm(BaseModel):
    """The form beside `recording`. `phrase`: the id of the phrase that was asked for (ours; OpenAI's phrases are fixed)."""

    model_config = ConfigDict(extra="ignore")
    name: str = Field(min_length=1, max_length=MAX_NAME)
    language: str = "en"
    phrase: str = ""


class Renamed(BaseModel):
    """A new name for a consent."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=MAX_NAME)


# ---- voices ----


@router.get("/v1/audio/voices")
@router.get("/audio/voices")  # Open WebUI asks below its base address, whatever that is
async def list_voices(desk: TheDesk, who: Who) -> dict[str, Any]:
    """Every name that `voice` may have. Without a key, of the voices made here only those of nobody are listed."""
    shipped = [{"id": name, "name": name} for name in desk.voices]
    known = [{"id": name, "name": f"{name} ({desk.alias(name)})"} for name in OPENAI_VOICES if desk.voices]
    return {"object": "list", "voices": shipped + known + [{"id": made.id, "name": made.name} for made in desk.made(who)]}


@router.get("/v1/audio/voices/{id}")
async def get_voice(id: str, desk: TheDesk, who: Who) -> dict[str, Any]:
    """One voice that was made here."""
    return _voice(_own(desk, Made, id, who))


@router.post("/v1/audio/voices")
async def create_voice(request: Request, desk: TheDesk, who: Who) -> dict[str, Any]:
    """Make a voice from 3 to 10 seconds of one person."""
    form, data = await forms.read(request, VoiceForm, "audio_sample")
    if form.type != "audio_sample":
        raise Refusal(400, "voices are made of a recording here (legal: audio_sample)", "type", "unsupported_value")
    given = _own(desk, Consent, form.consent, who, "consent") if form.consent else None
    if desk.settings.asks_consent and (given is None or not given.phrase):
        raise Refusal(
            403, f"a voice needs a recorded consent: POST {PHRASES}, then /v1/audio/voice_consents", "consent", "consent_required"
        )
    async with desk.runner.slot("voice", who) as slot:
        voice: Voice = await slot.call(jobs.make_voice, data, form.name, desk.limits)
    if given is not None and desk.settings.asks_consent:
        _same_voice(given.voice, voice)
    made = Made(new_id(Made), form.name, now(), desk.owner(who), form.consent, voice)
    desk.shelf.put(made)
    return _voice(made)


@router.delete("/v1/audio/voices/{id}")
async def delete_voice(id: str, desk: TheDesk, who: Who) -> dict[str, Any]:
    """Forget a voice."""
    desk.shelf.drop(_own(desk, Made, id, who).id)
    return {"id": id, "object": "audio.voice.deleted", "deleted": True}


def _voice(made: Made) -> dict[str, Any]:
    return {"id": made.id, "object": "audio.voice", "name": made.name, "created_at": made.created_at, "type": "audio_sample"}


def _same_voice(consenting: Voice, sample: Voice) -> None:
    alike = consent.likeness(consenting, sample)
    if alike < consent.ALIKE:
        said = f"the consent is spoken in another voice than the sample: likeness {alike:.2f} (legal: {consent.ALIKE:g} and more)"
        raise Refusal(403, said, "consent", "consent_mismatch")


# ---- consents ----


@router.post(PHRASES)
async def new_phrase(desk: TheDesk, who: Who) -> dict[str, Any]:
    """A random phrase to be recorded; it may be used once, within ten minutes. `required`: no voice is made without."""
    phrase = desk.phrases.new(who)
    facts = {"id": phrase.id, "text": phrase.text, "expires_in": round(consent.LIFE), "required": desk.settings.asks_consent}
    return {"object": "audio.voice_consent_phrase", **facts}


@router.post("/v1/audio/voice_consents")
async def create_consent(request: Request, desk: TheDesk, who: Who) -> dict[str, Any]:
    """Keep that somebody said the phrase: their name and voice, not the recording."""
    form, data = await forms.read(request, ConsentForm, "recording")
    spoken_language(desk, form.language)
    phrase = desk.phrases.take(form.phrase, who) if form.phrase else None
    if phrase is None and (form.phrase or desk.settings.asks_consent):
        found = "an unknown, used or expired phrase" if form.phrase else "no phrase"
        raise Refusal(400, f"found {found} (legal: the id of one from POST {PHRASES}, read aloud)", "phrase", "invalid_value")
    heard: list[str] = []
    async with desk.runner.slot("voice", who) as slot:
        async for item in slot.stream(jobs.listen, data, desk.limits):
            heard += [item.text] if isinstance(item, Segment) else []
        voice: Voice = await slot.call(jobs.make_voice, data, form.name, desk.limits)
    if phrase is not None:
        wrong = consent.misheard(phrase.text, " ".join(heard))
        if not wrong <= consent.WRONG:  # NaN is refused too
            said = (
                f"{wrong:.0f} % of the phrase was heard otherwise (legal: up to {consent.WRONG:g} %): ask for a new one and read it again"
            )
            raise Refusal(403, said if math.isfinite(wrong) else "nothing was heard", "recording", "consent_not_understood")
    kept = Consent(new_id(Consent), form.name, form.language, now(), desk.owner(who), voice, phrase.text if phrase else "")
    desk.shelf.put(kept)
    return _consent(kept)


@router.get("/v1/audio/voice_consents")
async def list_consents(desk: TheDesk, who: Who, after: str = "", limit: Annotated[int, Field(ge=1, le=100)] = 20) -> dict[str, Any]:
    """Those of the caller, the oldest first."""
    mine = [entry for entry in desk.shelf.all(Consent) if desk.visible(entry, who)]
    ids = [entry.id for entry in mine]
    start = ids.index(after) + 1 if after in ids else 0
    page = mine[start : start + limit]
    ends = {"first_id": page[0].id, "last_id": page[-1].id} if page else {"first_id": None, "last_id": None}
    return {"object": "list", "data": [_consent(entry) for entry in page], **ends, "has_more": start + limit < len(mine)}


@router.get("/v1/audio/voice_consents/{id}")
async def get_consent(id: str, desk: TheDesk, who: Who) -> dict[str, Any]:
    """One of the caller's."""
    return _consent(_own(desk, Consent, id, who))


@router.post("/v1/audio/voice_consents/{id}")
async def rename_consent(id: str, body: Renamed, desk: TheDesk, who: Who) -> dict[str, Any]:
    """Give it another name."""
    kept = replace(_own(desk, Consent, id, who), name=body.name)
    desk.shelf.put(kept)
    return _consent(kept)


@router.delete("/v1/audio/voice_consents/{id}")
async def delete_consent(id: str, desk: TheDesk, who: Who) -> dict[str, Any]:
    """Withdraw it: the voices that were made with it go, too."""
    kept = _own(desk, Consent, id, who)
    for made in desk.shelf.all(Made):
        if made.consent == kept.id:
            desk.shelf.drop(made.id)
    desk.shelf.drop(kept.id)
    return {"id": id, "object": "audio.voice_consent", "deleted": True}


def _consent(kept: Consent) -> dict[str, Any]:
    shown = {"id": kept.id, "object": "audio.voice_consent", "name": kept.name, "language": kept.language}
    return shown | {"created_at": kept.created_at}


def _own(desk: Desk, kind: Any, id: str, who: str, param: str = "id") -> Any:
    """What the caller may see. Raises Refusal: 404."""
    found = desk.shelf.get(kind, id)
    if found is None or not desk.visible(found, who):
        raise Refusal(404, f"found no {kind.__name__.lower()} with the id {id[:80]!r}", param, "not_found")
    return found
