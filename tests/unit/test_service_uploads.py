"""Uploads are received within bounds, of memory too."""

import asyncio
import tracemalloc
from typing import Any

from fastapi import Request

from secondlook.service.http.admission import Admission
from secondlook.service.routes.receive import receive
from tests.service_for_tests import settings

MIB = 1 << 20
FILES = 16


def test_what_is_sent_is_not_held_twice() -> None:
    opening = b'--end\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    left = iter([*(part for _ in range(FILES) for part in (opening, *[None] * 16, b"\r\n")), b"--end--\r\n"])

    async def chunks() -> Any:
        part = next(left)
        return {
            "type": "http.request",
            "body": bytes(MIB // 16) if part is None else part,
            "more_body": part != b"--end--\r\n",
        }

    headers = [(b"content-type", b"multipart/form-data; boundary=end")]
    request = Request({"type": "http", "method": "POST", "headers": headers}, chunks)

    async def read() -> int:
        with Admission(max_images=100, max_bytes=100 * MIB).admit() as ticket:
            form = await receive(request, settings(), ticket)
            return sum(len(upload.content) for upload in form.files)  # type: ignore[arg-type]

    tracemalloc.start()
    try:
        assert asyncio.run(read()) == FILES * MIB
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.4 * FILES * MIB
