"""Answers that are never finished flow as they are made: WebSocket and server-sent events.

Promptness is proven by order and not by a clock: each next message is sent only
after the one before has been seen at the other end.  A tunnel that held one
back would stand still.
"""

from __future__ import annotations

import subprocess
from functools import partial

import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket, wrap_client_stream

from tests.e2e.origins import Exchange, serve_web
from tests.e2e.programs import PATIENCE, Programs
from tests.e2e.visitors import curl_command, open_visit

EVENTS = 20


async def test_each_server_sent_event_arrives_before_the_next_is_sent(
    programs: Programs, nursery: trio.Nursery
) -> None:
    seen_by_visitor, seen = trio.open_memory_channel[bytes](0)

    async def tell(exchange: Exchange) -> None:
        await exchange.begin(kind="text/event-stream")
        for number in range(EVENTS):
            await exchange.send(f"data: {number}\n\n".encode())
            assert await seen.receive() == f"data: {number}".encode()

    agent = await programs.expose(await serve_web(nursery, tell), await programs.serve())
    command = curl_command(agent.site, "--no-buffer")
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as visit:
            curl = await visit.start(partial(trio.run_process, command, stdout=subprocess.PIPE))
            arrived = b""
            async for chunk in curl.stdout:
                arrived += chunk
                *events, arrived = arrived.split(b"\n\n")
                for event in events:
                    await seen_by_visitor.send(event)
    assert arrived == b""
    closed = await agent.program.event("stream_closed")
    assert closed["visitor_end"] == closed["origin_end"] == "fin"


async def test_a_websocket_carries_text_and_bytes_both_ways_and_its_close(
    programs: Programs, nursery: trio.Nursery
) -> None:
    tell_code, codes = trio.open_memory_channel[int](1)

    async def echo(request: WebSocketRequest) -> None:
        websocket = await request.accept()
        try:
            while True:
                await websocket.send_message(await websocket.get_message())
        except ConnectionClosed as closed:
            await tell_code.send(closed.reason.code if closed.reason is not None else 0)

    server = await nursery.start(partial(serve_websocket, echo, "127.0.0.1", 0, None))
    agent = await programs.expose(server.port, await programs.serve())
    host = f"{agent.site.hostname}:{agent.site.port}"
    with trio.fail_after(PATIENCE):
        stream = await open_visit(agent.site, alpn=["http/1.1"])
        async with trio.open_nursery() as visit:
            websocket = await wrap_client_stream(visit, stream, host, "/")
            for message in ("hello", b"\x00\xff" * 100_000, "é" * 10):
                await websocket.send_message(message)
                assert await websocket.get_message() == message
            await websocket.ping(b"still there")
            await websocket.aclose(code=1000, reason="done")
        assert await codes.receive() == 1000
