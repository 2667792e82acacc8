"""The server: `gpa serve` (extra `server`). Request -> job -> bytes.

    app.py       create_app(model, settings): routers, middleware, lifespan
    access.py    keys, origins, body limits, request ids, the log: plain ASGI in front of every route, WebSockets too
    runner.py    Runner and Slot: the only door from the event loop to the model; bounds what runs and what waits
    work.py      Threads: jobs on threads, stopped between two ids; process.py: the same in a process of the model's own
    jobs.py      what runs at the model: generator functions (model, *args) of plain values
    desk.py      Desk: runner, settings, voices, metrics and checkpoint in one value, handed to every route
    pour.py      Pour: an answer that is made while it is sent
    failures.py  Refusal, and every other exception, in OpenAI's shape
    speech, transcription, conversion, voices, models, health: the routes. forms.py: multipart. consent.py: phrases and likeness
    shelf.py: voices and consents on disk. metrics.py, settings.py. main.py: uvicorn, signals, draining
    realtime, sockets, wyoming: protocols beside HTTP, with their own files

A new protocol is one file with `router = APIRouter()`, added to ROUTERS in app.py (or, beyond HTTP, a server started in the
lifespan with the Desk). A route asks for what it needs:

    @router.websocket("/v1/realtime")
    async def realtime(socket: WebSocket, desk: Annotated[Desk, Depends(desk)], who: Annotated[str, Depends(caller)]) -> None:
        async with desk.runner.slot("asr", who) as slot:      # raises Busy; runs in order of arrival
            blocks = slot.inlet()                             # what is put in arrives as an iterator in the job
            async for item in slot.stream(jobs.some_generator_function, blocks, ...):
                await socket.send_json(...)

Leaving the `async with`, for whatever reason, stops the job at its next id and frees its slot. Jobs live in jobs.py (or in
the protocol's own file): module-level generator functions whose first argument is the GPA; they may run in another
process, so arguments and items must pickle (str, bytes, arrays, Voice, Segment). `desk.voice(name, who)` turns a client's word into
a voice and never into a path. What is made leaves through `jobs.Writer`. `failures.refusal(error)` gives any
exception a `.body()` in OpenAI's shape. Keys and origins were checked before a route runs; `caller` names who asks.
"""
