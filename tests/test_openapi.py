"""What schemathesis makes of /openapi.json: no answer beyond what is described there, no failure of the server."""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

pytest.importorskip("fastapi")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    schemathesis = pytest.importorskip("schemathesis")

import fakes
from gpa.server.app import create_app
from gpa.server.settings import Settings

# A description cannot say which texts can be spoken, which voices there are and what is a sound: legal requests are refused, too.
BEYOND = [schemathesis.checks.positive_data_acceptance]
OPERATIONS = [
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/metrics"),
    ("POST", "/v1/audio/speech"),
    ("POST", "/v1/audio/transcriptions"),
    ("POST", "/v1/audio/translations"),
    ("POST", "/v1/audio/conversions"),
    ("GET", "/audio/voices"),
    ("GET", "/v1/audio/voices"),
    ("POST", "/v1/audio/voices"),
    ("GET", "/v1/audio/voices/{id}"),
    ("DELETE", "/v1/audio/voices/{id}"),
    ("POST", "/v1/audio/voice_consents/phrases"),
    ("GET", "/v1/audio/voice_consents"),
    ("POST", "/v1/audio/voice_consents"),
    ("GET", "/v1/audio/voice_consents/{id}"),
    ("POST", "/v1/audio/voice_consents/{id}"),
    ("DELETE", "/v1/audio/voice_consents/{id}"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
    ("GET", "/audio/models"),
    ("GET", "/v1/audio/models"),
]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("openapi")
    app = create_app(fakes.model(folder / "fake"), Settings(voices=folder / "voices"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return schemathesis.openapi.from_asgi("/openapi.json", app)


def ask(api: Any, method: str, path: str, examples: int) -> None:
    """So many requests that the description allows, and as many that it does not."""
    for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
        @given(api[path][method].as_strategy(generation_mode=mode))
        def send(case: schemathesis.Case) -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                case.call_and_validate(excluded_checks=BEYOND)

        with suppress(Unsatisfiable):  # nothing to send that would be illegal
            send()


def test_every_operation_is_asked(api: Any) -> None:
    assert sorted((found.ok().method.upper(), found.ok().path) for found in api.get_all_operations()) == sorted(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_some_requests(api: Any, method: str, path: str) -> None:
    ask(api, method, path, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_many_requests(api: Any, method: str, path: str) -> None:
    ask(api, method, path, 150)
