"""The Wyoming port, told to the neighbourhood by mDNS: Home Assistant then proposes it by itself. Needs the package `zeroconf`."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from gpa.server.settings import LOOPBACK

log = logging.getLogger("gpa.server")
_KIND = "_wyoming._tcp.local."
_MDNS = ("224.0.0.251", 1)


@asynccontextmanager
async def announced(host: str, port: int) -> AsyncIterator[None]:
    """Announce for as long as the block runs; at loopback, without the package, or where the network refuses, do nothing."""
    service = None if host in LOOPBACK else await _register(host, port)
    try:
        yield
    finally:
        if service is not None:
            await service.async_close()


async def _register(host: str, port: int) -> Any:
    try:
        zeroconf = import_module("zeroconf.asyncio")
    except ImportError:
        return None
    name = f"gpa-{socket.gethostname().partition('.')[0]}.{_KIND}"
    service = None
    try:
        service = zeroconf.AsyncZeroconf()
        address = socket.inet_aton(_own_address() if host in ("0.0.0.0", "::", "") else host)
        await service.async_register_service(zeroconf.AsyncServiceInfo(_KIND, name, addresses=[address], port=port), allow_name_change=True)
    except (OSError, RuntimeError) as error:
        log.warning("Wyoming is not announced: %s", error)
        if service is not None:
            await service.async_close()
        return None
    log.info("Wyoming is announced as %s", name)
    return service


def _own_address() -> str:
    """Of the interface that leads to the neighbourhood; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(_MDNS)
        return str(probe.getsockname()[0])
