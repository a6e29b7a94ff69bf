"""The answer that the README shows is the default model's."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.service_for_tests import create_app, files, serving, settings

ROOT = Path(__file__).parents[2]


def flat(answer: Any, where: str = "") -> dict[str, Any]:
    """Every value by the way to it."""
    if isinstance(answer, dict | list):
        inner = answer.items() if isinstance(answer, dict) else enumerate(answer)
        return {path: value for key, one in inner for path, value in flat(one, f"{where}/{key}").items()}
    return {where: answer}


def test_the_answer_in_the_readme_is_the_default_models() -> None:
    text = (ROOT / "README.md").read_text()
    (asked,) = re.findall(r"curl -s -F file=@(\S+) 'http://127\.0\.0\.1:8000(\S+)'", text)
    (shown,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    image = ROOT / asked[0]
    with serving(create_app(settings())) as call:
        answer = call("POST", asked[1], files=files((image.name, image.read_bytes()))).json()
    expected = {
        path: pytest.approx(value, abs=1e-3) if isinstance(value, float) else value
        for path, value in flat(json.loads(shown)).items()
    }
    assert flat(answer) == expected
