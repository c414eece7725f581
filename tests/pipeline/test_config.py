"""The config: typed, every mistake at once, every field settable."""

from pathlib import Path

import pytest

from pipeline.config import Config, ConfigError, help_text, load

ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, text: str) -> str:
    path = folder / "c.yaml"
    path.write_text(text)
    return str(path)


def test_every_config_in_the_tree_loads() -> None:
    found = sorted((ROOT / "configs").glob("*.yaml"))
    assert found
    for path in found:
        load(str(path))


def test_all_mistakes_are_said_at_once_with_field_and_value(tmp_path: Path) -> None:
    path = write(tmp_path, "decode: {rate_hz: fast}\nsegmnt: {}\nplan: {heldout_share: 3}\nwrite: {formats: []}\n")
    with pytest.raises(ConfigError) as caught:
        load(path, ["segment.min=1", "nonsense"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 6
    assert any("decode.rate_hz" in line and "'fast'" in line for line in lines)
    assert any("segmnt" in line and "did you mean segment?" in line for line in lines)
    assert any("plan.heldout_share" in line and "3" in line for line in lines)
    assert any("segment.min" in line and "did you mean segment.min_s?" in line for line in lines)
    assert any("write.formats" in line for line in lines)
    assert any("--set nonsense" in line for line in lines)


def test_set_wins_over_the_file_and_takes_yaml(tmp_path: Path) -> None:
    path = write(tmp_path, "sources: [a]\nplan: {block_s: 60}\n")
    config = load(path, ["plan.block_s=120", "sources=[b, 'c d']", "taste=null", "write.formats=[webdataset]"])
    assert config.plan.block_s == 120
    assert config.sources == ("b", "c d")
    assert config.taste is None
    assert config.write.formats == ("webdataset",)


def test_a_threshold_on_agreement_needs_a_second_recogniser() -> None:
    with pytest.raises(ConfigError, match=r"filter\.min_agreement: needs transcribe\.second"):
        load(None, ["filter.min_agreement=0.5"])
    config = load(None, ["filter.min_agreement=0.5", "transcribe.second.backend=moonshine"])
    assert config.transcribe.second is not None
    assert config.transcribe.second.backend == "moonshine"


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\x00"])
def test_what_is_no_mapping_is_said_so(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load(write(tmp_path, text))


def test_a_config_runs_no_code(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    with pytest.raises(ConfigError, match="not YAML"):
        load(write(tmp_path, f"sources: !!python/object/apply:os.mkdir ['{marker}']\n"))
    assert not marker.exists()


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: No such file"):
        load("absent.yaml")


def fields_without_help(model: type, prefix: str = "") -> list[str]:
    from pipeline.config import _models

    missing = []
    for name, field in model.model_fields.items():  # type: ignore[attr-defined]
        inner = list(_models(field.annotation))
        for choice in inner:
            missing += fields_without_help(choice, f"{prefix}{name}.")
        if not inner and not field.description:
            missing.append(prefix + name)
    return missing


def test_every_field_has_help() -> None:
    from pipeline.commands import OPTIONS

    for kind in (Config, *(options() for options in OPTIONS.values())):
        assert fields_without_help(kind) == []
    assert "decode.rate_hz = 16000" in help_text()
