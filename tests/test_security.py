"""What SECURITY.md promises, held to: nothing from outside runs code, writes where it should not, or speaks to the terminal."""

import ast
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.config import ConfigError, load
from pipeline.sources import SourceError, find_sources
from schemas.show import redact, show, valid
from tests.conftest import ROOT, Clip

OURS = ("schemas", "transforms", "training", "pipeline", "benchmarks", "examples", "setup.py", "requirements")


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """(place, dotted name, call) of every call in the project's own code."""
    for part in OURS:
        for path in [ROOT / part] if part.endswith(".py") else sorted((ROOT / part).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", ast.unparse(node.func), node


@pytest.fixture
def antiphon(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command, and give what it prints."""

    def run(*args: str) -> str:
        main(args)
        return "".join(capfd.readouterr())

    return run


def keyword(call: ast.Call, name: str) -> object:
    return next((ast.literal_eval(k.value) for k in call.keywords if k.arg == name), None)


def judge(name: str, call: ast.Call) -> str:
    """What is wrong with a call, or nothing."""
    if name == "torch.load" and keyword(call, "weights_only") is not True:
        return "torch.load without weights_only=True"
    if re.fullmatch(r"(c?[Pp]ickle|dill|cloudpickle|joblib|marshal|shelve)\.(loads?|open|Unpickler)", name):
        return "unpickles"
    if name in ("np.load", "numpy.load") and keyword(call, "allow_pickle") is not False:
        return "np.load without allow_pickle=False"
    if name.startswith("yaml.") and "load" in name and name != "yaml.safe_load":
        return "a YAML loader that makes objects"
    if any(k.arg == "trust_remote_code" for k in call.keywords) and keyword(call, "trust_remote_code") is not False:
        return "trust_remote_code"
    if name in ("eval", "exec", "os.system", "os.popen", "builtins.eval", "builtins.exec"):
        return "runs a string"
    if any(k.arg == "shell" and getattr(k.value, "value", True) for k in call.keywords):
        return "runs a shell"
    if name.endswith((".extractall", ".extract")):
        return "writes an archive's members under the names that the archive gives them"
    return ""


def test_no_code_of_the_project_unpickles_runs_strings_or_unpacks_archives() -> None:
    wrong = [f"{place}: {judge(name, call)}" for place, name, call in calls() if judge(name, call)]
    assert wrong == []


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "pickle.loads(b)",
        "np.load(p)",
        "yaml.load(s, Loader=yaml.Loader)",
        "yaml.unsafe_load(s)",
        "A.from_pretrained(p, trust_remote_code=True)",
        "eval(s)",
        "subprocess.run(c, shell=True)",
        "t.extractall(f)",
    ],
)
def test_the_scan_sees_what_it_looks_for(code: str) -> None:
    (call,) = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call))
    assert judge(ast.unparse(call.func), call)


@pytest.mark.parametrize(
    "text",
    [
        "sources: !!python/object/apply:os.system ['touch {mark}']",
        "sources: !!python/object/new:pathlib.Path ['x']",
        "sources: !!python/name:os.system",
        "? !!python/object/apply:os.system ['touch {mark}']\n: 1",
    ],
)
def test_a_config_cannot_run_code(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text.replace("{mark}", str(tmp_path / "mark")))
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        load(str(path))
    with pytest.raises(ConfigError):
        load(None, [text.replace("sources: ", "sources=").replace("{mark}", str(tmp_path / "mark"))])
    assert not (tmp_path / "mark").exists()


def test_a_config_that_would_fill_the_memory_or_the_stack_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    names = "abcdefghijkl"
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in itertools.pairwise(names)]
    path.write_text("\n".join(lines) + "\nsources: *l\n")  # a million million of them, written out
    with pytest.raises(ConfigError) as caught:
        load(str(path))
    assert len(str(caught.value)) < 20_000
    path.write_text("sources: " + "[" * 5000 + "]" * 5000)
    with pytest.raises(ConfigError, match="nested too deeply"):
        load(str(path))


SECRETS = [
    ("https://user:hunter2@host/a.wav", "https://***@host/a.wav"),
    ("https://hunter2@host:8080/a.wav", "https://***@host:8080/a.wav"),
    ("https://host/a.wav?token=hunter2", "https://host/a.wav?***"),
    ("https://host/a.wav?hunter2", "https://host/a.wav?***"),
    ("https://u:p@storage/b/a.wav?X-Goog-Signature=hunter2&x=1#hunter2", "https://***@storage/b/a.wav?***"),
    ("gs://bucket/a?.wav", "gs://bucket/a?.wav"),
    ("gs://bucket/a.wav?sig=hunter2", "gs://bucket/a.wav?***"),
    ("s3://key:hunter2@bucket/a.wav", "s3://***@bucket/a.wav"),
    (
        "no such thing: 'https://u:hunter2@h/x?t=hunter2', nor ftp://a:hunter2@b",
        "no such thing: 'https://***@h/x?***', nor ftp://***@b",
    ),
    ("what? this@that: 5 > 3", "what? this@that: 5 > 3"),
]


@pytest.mark.parametrize(("text", "expected"), SECRETS)
def test_addresses_lose_their_credentials(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert redact(redact(text)) == redact(text)


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_whatever_is_shown_is_printable_and_whatever_is_stored_is_unicode(text: str) -> None:
    assert show(text).isprintable()
    valid(text).encode()
    valid(os.fsdecode(text.encode("utf-16-le", "surrogatepass"))).encode()


def test_no_credential_is_in_a_corpus_nor_in_what_is_printed(tmp_path: Path, antiphon: Callable[..., str]) -> None:
    """An address that cannot be read, with a password and a signature, through the real commands."""
    address = "https://user:hunter2@localhost:9/a.wav?X-Signature=hunter2"
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(json.dumps({"audio": address, "duration": 2.0, "text": "x", "from": address}))
    config = tmp_path / "c.yaml"
    config.write_text(
        f"sources: ['{manifest}']\ntranscribe: {{backend: given}}\nsegment: {{backend: none}}\nunits: null\ncodec: null\n"
        "taste: null\nlimits: {max_rejected_share: 1}\n"
    )

    out = tmp_path / "out"
    printed = antiphon("prepare", str(config), "--out", str(out)) + antiphon("inspect", str(out), "--rejected")
    printed += antiphon("plan", str(config)) + antiphon("status", str(out))
    printed += antiphon("plan", str(config), "--set", f"sources=['{address}']")
    assert "https://***@localhost:9/a.wav?***" in printed
    written = b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file())
    assert b"https://***@localhost:9/a.wav?***" in written
    assert "hunter2" not in printed
    assert b"hunter2" not in written


def test_a_hostile_transcript_cannot_speak_to_the_terminal(
    speech: list[Clip], tmp_path: Path, antiphon: Callable[..., str]
) -> None:
    clip = min(speech, key=lambda clip: len(clip.samples))
    shutil.copy(clip.path, tmp_path / "a.flac")
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m \u202etxt.exe \x00"
    line = {
        "audio": "a.flac",
        "text": f"{clip.text} {evil}",
        "language": "en\x1b[0m",
        "speaker": evil,
        "id": f"a{evil}\nb",
    }
    (tmp_path / "m.jsonl").write_text(json.dumps(line))
    settings_ = ["transcribe.backend=given", "units=null", "codec=null", "taste=null", "filter.min_align_score=null"]
    (tmp_path / "c.yaml").write_text(f"sources: ['{tmp_path / 'm.jsonl'}']\n")
    sets = [part for setting in [*settings_, "filter.max_chars_per_s=null"] for part in ("--set", setting)]

    out = str(tmp_path / "out")
    printed = antiphon("prepare", str(tmp_path / "c.yaml"), "--out", out, *sets)
    printed += antiphon("inspect", out) + antiphon("inspect", out, "--rejected") + antiphon("status", out)
    printed += antiphon("plan", str(tmp_path / "c.yaml"))
    assert "owned" in printed
    assert all(line.isprintable() for line in printed.split("\n"))


def test_a_mistake_in_a_manifest_cannot_speak_to_the_terminal(tmp_path: Path) -> None:
    manifest = tmp_path / "evil\x1b[2J\n.jsonl"
    manifest.write_text('{"audio": "a.wav", "turn": "\\u001b[2J"}\n{"audio": "b", "offset": "\\u009b"}')
    with pytest.raises(SourceError) as caught:
        find_sources([str(manifest)])
    assert len(str(caught.value).split("\n")) == 2
    assert all(line.isprintable() for line in str(caught.value).split("\n"))


def test_a_playlist_does_not_make_the_decoder_read_another_file(tmp_path: Path) -> None:
    import av

    from transforms.audio import probe

    soundfile.write(tmp_path / "secret.wav", np.zeros(16000), 16000)
    (tmp_path / "a.wav").write_text("ffconcat version 1.0\nfile secret.wav\n")
    with av.open(str(tmp_path / "a.wav")) as container:  # FFmpeg by itself does read it
        assert container.format.name == "concat"
    with pytest.raises((OSError, ValueError)):
        probe(str(tmp_path / "a.wav"))
