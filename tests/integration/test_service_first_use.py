"""What a server needs, it has from its start on: a call that imports something fails where open files are few."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

CODE = """
import asyncio, json, sys, pathlib
import httpx
from tests.images_for_tests import make_image
from tests.service_for_tests import create_app, ADMIN, KEY, add_generation, settings

root = pathlib.Path(sys.argv[1])

async def run():
    new = add_generation(root)
    app = create_app(settings(bundles=root, admin_key=KEY, data=root.parent))
    found = {}
    async with app.router.lifespan_context(app), httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://localhost", headers=ADMIN
    ) as client:
        # What the client itself imports with its first call.
        await client.post("/nothing", files=[("file", ("a.png", b"x"))])
        image = {"content": make_image("red"), "headers": {"Content-Type": "image/png"}}
        many = {"files": [("file", ("a.png", make_image("red"))), ("file", ("b.png", b"no image"))]}
        calls = [
            ("GET", "/", {}), ("GET", "/docs", {}), ("GET", "/openapi.json", {}), ("GET", "/nothing", {}),
            ("GET", "/livez", {}), ("GET", "/readyz", {}), ("GET", "/metrics", {}), ("GET", "/v1/model", {}),
            ("POST", "/v1/predict?neighbors=5&votes=10&coverage=0.9&abstain=true", image),
            ("POST", "/v1/predict?k=all", many), ("POST", "/v1/predict?top=x", image),
            *(
                ("POST", "/v1/predict", {"content": make_image("red", (40, 40), form), "headers": image["headers"]})
                for form in ("JPEG", "PNG", "GIF", "BMP", "WEBP")
            ),
            ("GET", "/v1/entries?label=red", {}), ("GET", "/v1/entries/3", {}), ("GET", "/v1/entries/3/thumbnail", {}),
            ("POST", "/v1/entries?label=scarlet", image),
            ("PATCH", "/v1/entries/3", {"json": {"label": "scarlet"}}), ("DELETE", "/v1/entries/4", {}),
            ("GET", "/v1/admin/changes", {}), ("GET", "/v1/admin/jobs", {}), ("GET", "/v1/admin/generations", {}),
            ("GET", "/v1/admin/map", {}), ("GET", "/v1/admin/audit", {}),
            ("POST", "/v1/entries/5/confirm", {"json": {"label": "blue"}}),
            ("DELETE", "/v1/entries/5/confirm", {}), ("POST", "/v1/entries/4/restore", {"json": {"label": "blue"}}),
            ("POST", f"/v1/admin/generations/{new}/activate", {}),
            ("POST", "/v1/admin/rebuild", {"json": {"dataset": "nothing"}}),
        ]
        known = set(sys.modules)
        for method, path, options in calls:
            answered = await client.request(method, path, **options)
            assert answered.status_code < 500, (path, answered.text)
            for name in sorted(set(sys.modules) - known):
                found.setdefault(f"{method} {path}", []).append(name)
            known = set(sys.modules)
    print(json.dumps(found))

asyncio.run(run())
"""


def test_no_call_imports_anything(tiny_bundle: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))
    ended = subprocess.run([sys.executable, "-c", CODE, str(root)], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == {}
