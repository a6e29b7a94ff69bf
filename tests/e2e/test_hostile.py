"""Bodies made to hurt: whatever comes, the answer is a problem document or an image's, and memory goes back."""

import asyncio
import random
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence

import httpx
import pytest

from benchmarks.client import Client, Reply, hang_up, head, receive
from tests.e2e.conftest import Server, generation
from tests.e2e.load import held
from tests.images_for_tests import COLOURS, make_image

Serve = Callable[..., Server]
Figures = Callable[[str], None]
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")
CONNECTIONS = 8
LARGEST = 64
"""Images in a request, and in a batch."""
MIB = 1 << 20
QUERIES = ("?top=0", "?lam=nan", "?k=-1", "?theta=1e400", "?neighbors=50", "?k=all", "?k=9" + "9" * 17, "?x=%00")
TYPES = ("image/png", "image/jpeg", "image/*", "application/json", "text/plain", "", "multipart/form-data", "image")


def chunk(name: bytes, content: bytes) -> bytes:
    """A PNG's chunk, its checksum right."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_bomb(width: int, height: int) -> bytes:
    """A small PNG that says it is large, and starts to be."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * MIB, 9)) + chunk(b"IEND", b"")


def gif_bomb() -> bytes:
    """A GIF of 65,535 x 65,535 in a few bytes."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + b"\0" * 6
    return screen + b"\x2c" + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x08\x02\x4c\x01\0;"


def text_bomb() -> bytes:
    """A PNG whose comment unpacks to 64 MiB."""
    content = b"Comment\0\0" + zlib.compress(b"\0" * (64 * MIB), 9)
    image = make_image("red")
    return image[:33] + chunk(b"zTXt", content) + image[33:]  # after the signature and IHDR


BOMBS = (png_bomb(50_000, 50_000), png_bomb(2**31 - 1, 2**31 - 1), png_bomb(0, 0), gif_bomb(), text_bomb())


def originals() -> list[bytes]:
    """Real images of all formats that are taken."""
    return [
        make_image(c, size, f, i) for i, c in enumerate(COLOURS) for f in FORMATS for size in ((32, 32), (300, 200))
    ]


def mutate(image: bytes, chance: random.Random) -> bytes:
    """One to eight things that go wrong with a file."""
    content = bytearray(image)
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(content) + 1)
        match chance.randrange(7):
            case 0 if content:
                content[at % len(content)] ^= 1 << chance.randrange(8)
            case 1:
                content[at:at] = chance.randbytes(chance.randint(1, 64))
            case 2:
                del content[at : at + chance.randint(1, 64)]
            case 3:
                del content[at:]
            case 4:
                content[at:at] = content[at : at + chance.randint(1, 512)]
            case 5:  # sizes and counts stand near the start
                at = chance.randrange(64)
                content[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"))
            case _:
                other = chance.choice((b"IDAT", b"IHDR", b"PLTE", b"acTL", b"\xff\xd8", b"\xff\xc0", b"VP8X", b"RIFF"))
                content[at : at + len(other)] = other
    return bytes(content)


def multipart(contents: list[bytes], chance: random.Random) -> tuple[bytes, str]:
    """The images as a form, in one out of four cases a broken one."""
    boundary = b"b" * chance.randint(1, 80)
    parts = [
        b"--"
        + boundary
        + b'\r\nContent-Disposition: form-data; name="file"; filename="'
        + name
        + b'"\r\n\r\n'
        + content
        for content, name in zip(contents, (b"a.png", b"..", b"", b"\xff\0x", b"a" * 3000), strict=False)
    ]
    body = b"\r\n".join([*parts, b"--" + boundary + b"--\r\n"])
    if chance.random() < 0.25:
        body = mutate(body, chance)
    return body, f"multipart/form-data; boundary={boundary.decode()}"


def multipart_of(images: list[bytes]) -> tuple[bytes, str]:
    """The images as a sound form, and its type."""
    form = httpx.Request("POST", "http://a", files=[("file", ("a.png", image)) for image in images])
    return form.read(), form.headers["Content-Type"]


async def slow(url: str, body: bytes, chance: random.Random) -> int:
    """Send a part, wait, and either send the rest or leave; the status, 0 for none."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        request = head("POST", "/v1/predict", len(body), {"Content-Type": "image/png"}) + body
        cut = chance.randrange(len(request))
        writer.write(request[:cut])
        await asyncio.sleep(chance.uniform(0, 0.3))
        if chance.random() < 0.5:
            return 0
        writer.write(request[cut:])
        async with asyncio.timeout(60):
            return (await receive(reader))[0]
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0
    finally:
        await hang_up(writer)


async def attack(url: str, images: list[bytes], count: int, seed: int, queries: Sequence[str]) -> Counter[str]:
    """So many hostile requests over one connection after another; what came of them."""
    chance, seen = random.Random(seed), Counter[str]()
    async with Client(url) as client:
        for _ in range(count):
            kind = chance.random()
            body = mutate(chance.choice(images), chance)
            if kind < 0.02:
                seen[f"slow {await slow(url, body, chance)}"] += 1
                continue
            if kind < 0.04:
                body = chance.choice(BOMBS)
            headers = {"Content-Type": "image/png"}
            if 0.04 < kind < 0.3:
                body, headers["Content-Type"] = multipart([body, *chance.sample(images, 2)], chance)
            elif kind > 0.9:
                headers["Content-Type"] = chance.choice(TYPES)
            query = chance.choice(queries) if queries and chance.random() < 0.1 else ""
            try:
                reply = await client.request("POST", f"/v1/predict{query}", body, headers, half_close=kind > 0.97)
            except ConnectionError:
                # Half closed, a client may pass for one that has left; any other is owed an answer.
                assert kind > 0.97, (query, headers, len(body))
                seen["left"] += 1
                continue
            expect_fair(reply)
            seen[str(reply.status)] += 1
    return seen


def expect_fair(reply: Reply) -> None:
    """An answer to an image, or a problem that is the client's."""
    assert reply.status < 500, reply.body
    body = reply.json()
    if reply.status == 200:
        for prediction in body["predictions"]:
            assert prediction.get("status", 400) < 500, prediction
    else:
        assert body["status"] == reply.status
        assert body["type"].startswith("urn:secondlook:problem:")


async def everyone(url: str, count: int, seed: int, queries: Sequence[str] = QUERIES) -> Counter[str]:
    """The attack over several connections at once."""
    shares = [count // CONNECTIONS + (i < count % CONNECTIONS) for i in range(CONNECTIONS)]
    images = originals()
    outcomes = await asyncio.gather(*(attack(url, images, share, seed + i, queries) for i, share in enumerate(shares)))
    return sum(outcomes, Counter[str]())


async def every_kind(url: str) -> None:
    """Each kind of request once, and the largest: what is made with the first of a kind is there from then on."""
    chance = random.Random(0)
    images = originals()
    async with Client(url) as client:
        for query in ("", *QUERIES):
            body, kind = multipart_of(chance.choices(images, k=LARGEST))
            expect_fair(await client.request("POST", f"/v1/predict{query}", body, {"Content-Type": kind}))
        for body in (*BOMBS, *images):
            expect_fair(await client.request("POST", "/v1/predict", body, {"Content-Type": "image/png"}))


@pytest.mark.parametrize("count", [1_500, pytest.param(20_000, marks=pytest.mark.soak)])
def test_hostile_bodies_cost_nobody_else_anything(serve: Serve, figures: Figures, count: int) -> None:
    server = serve()
    named = generation(server.url)
    asyncio.run(every_kind(server.url))
    # What small things take of the heap rises slowly, as they come to lie between others.
    asyncio.run(everyone(server.url, 2 * count // 5, seed=10**6))
    before, started = held(server.process.pid), time.monotonic()
    seen = asyncio.run(everyone(server.url, count, seed=count))
    seconds = time.monotonic() - started
    assert sum(seen.values()) == count
    assert seen["200"], seen
    assert seen["400"] + seen["413"] + seen["415"] + seen["422"] > count / 3, seen
    assert generation(server.url) == named
    assert server.process.poll() is None
    after = held(server.process.pid)
    figures(
        f"{count:,} hostile requests in {seconds:.0f} s: {', '.join(f'{k} x {n:,}' for k, n in sorted(seen.items()))}; "
        f"0 of 5xx, 0 hangs; memory {before / MIB:.1f} -> {after / MIB:.1f} MiB"
    )
    assert after < before + 16 * MIB
    log = server.log.read_text()
    assert "Traceback" not in log, log[log.index("Traceback") :][:3000]


def test_what_large_requests_took_is_given_back(serve: Serve, figures: Figures) -> None:
    server = serve()
    asyncio.run(everyone(server.url, 300, seed=1, queries=()))
    levels = [held(server.process.pid)]
    for seed in range(4):  # all entries: 16 MiB of keys at a time, and two such parts at once
        asyncio.run(everyone(server.url, 160, seed, queries=("?k=all",)))
        levels.append(held(server.process.pid))
    figures(f"requests of all entries: memory {' -> '.join(f'{level / MIB:.1f}' for level in levels)} MiB")
    assert max(levels) < levels[0] + 16 * MIB


async def ask(url: str, count: int, pngs: list[bytes]) -> None:
    async with Client(url) as client:
        for i in range(count):
            reply = await client.predict(pngs[i % len(pngs)])
            assert reply.status == 200, reply.body


@pytest.mark.soak
def test_a_hundred_thousand_requests_leave_memory_where_it_was(serve: Serve, figures: Figures) -> None:
    server = serve()
    pngs = [make_image(colour, seed=seed) for colour in COLOURS for seed in range(20)]

    async def load(count: int) -> None:
        await asyncio.gather(*(ask(server.url, count // CONNECTIONS, pngs) for _ in range(CONNECTIONS)))

    asyncio.run(load(10_000))
    levels, started = [held(server.process.pid)], time.monotonic()
    for _ in range(10):
        asyncio.run(load(10_000))
        levels.append(held(server.process.pid))
    seconds = time.monotonic() - started
    growth = 100 * (levels[-1] / levels[0] - 1)
    figures(
        f"100,000 requests in {seconds:.0f} s ({100_000 / seconds:.0f}/s): memory {levels[0] / MIB:.1f} -> "
        f"{levels[-1] / MIB:.1f} MiB, {growth:+.2f} % (by tenths: {', '.join(f'{x / MIB:.1f}' for x in levels)})"
    )
    assert growth < 2
