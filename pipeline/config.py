"""The config: one YAML file, typed, every mistake reported at once, every field also settable as `--set a.b=c`."""

import difflib
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from pipeline.dialogues import DialogueOptions
from pipeline.plan import PlanOptions
from schemas.errors import UserError
from schemas.show import redact_all, show
from training.options import TrainOptions
from transforms.align.stage import AlignOptions
from transforms.codec.stage import CodecOptions
from transforms.decode import DecodeOptions
from transforms.filter import FilterOptions
from transforms.label import LabelOptions
from transforms.measure import MeasureOptions
from transforms.options import Options
from transforms.segment import SegmentOptions
from transforms.speaker.stage import SpeakerOptions
from transforms.taste.stage import TasteOptions
from transforms.transcribe.stage import TranscribeOptions
from transforms.units.stage import UnitsOptions

# Stops early: a few lines of YAML can name a list that would fill the memory, written out.
_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother = 2, 80, 80


Settings = TypeVar("Settings", bound=BaseModel)


class ConfigError(UserError):
    """A config that cannot be used. `str()` lists every mistake, one a line."""


class WriteOptions(Options):
    """What a shard is written as."""

    formats: tuple[Literal["parquet", "webdataset"], ...] = Field(("parquet",), min_length=1)
    """"parquet" (with the Hugging Face Audio feature), "webdataset" (tar), or both."""


class LimitOptions(Options):
    """When a run has failed (exit code 1) although every block was committed."""

    max_rejected_share: float = Field(0.95, ge=0, le=1)
    """Share of the speech that may be rejected, for whatever reason. Silence (`silent`, and `no_speech` between utterances) is not
    counted on either side: a quiet recording is no bad one, and an hour of room tone must not hide that every word was lost. Where
    there is nothing but silence, all counts as rejected."""
    max_fault_share: float = Field(0.5, ge=0, le=1)
    """Share that may be lost to faults (missing, unreadable, no_audio, corrupt, truncated, not_finite, out_of_memory, failed): of
    the seconds in, and also of the files, since nobody knows the seconds of a missing one; whichever is larger."""


class Config(Options):
    """Everything that decides what a corpus holds. A stage set to `null` is left out; `speaker: {}` turns that one on."""

    sources: tuple[str, ...] = ()
    """Files, folders, globs, `.jsonl` manifests, WebDataset `.tar`s; relative paths are from the working folder; `gs://` too."""
    exclude: tuple[str, ...] = ()
    """Names of sources (as rows carry them) to leave out, such as one that has to be taken down. Blocks keep their bounds, so only
    those that held them are made again. Delete the audio after that, and leave its line with its `duration` in the manifest:
    without it, the blocks after it move."""
    plan: PlanOptions = PlanOptions()
    decode: DecodeOptions = DecodeOptions()
    segment: SegmentOptions = SegmentOptions()
    transcribe: TranscribeOptions = TranscribeOptions()
    align: AlignOptions = AlignOptions()
    measure: MeasureOptions = MeasureOptions()
    speaker: SpeakerOptions | None = None
    label: LabelOptions | None = None
    filter: FilterOptions = FilterOptions()
    units: UnitsOptions | None = UnitsOptions()
    codec: CodecOptions | None = CodecOptions()
    taste: TasteOptions | None = TasteOptions()
    write: WriteOptions = WriteOptions()
    limits: LimitOptions = LimitOptions()
    dialogues: DialogueOptions = DialogueOptions()
    train: TrainOptions = TrainOptions()

    def corpus(self) -> dict[str, Any]:
        """The part that a corpus depends on, JSON-able: all but `train`. Addresses in it have lost their credentials."""
        found: dict[str, Any] = redact_all(self.model_dump(mode="json", exclude={"train"}))
        return found


def load(path: str | None, assignments: Sequence[str] = ()) -> Config:
    """Read a YAML config and apply `a.b=c` assignments (values are YAML). Raises ConfigError with every mistake."""
    values: Any = {}
    if path is not None:
        try:
            with open(path, encoding="utf-8") as stream:
                values = yaml.safe_load(stream) or {}
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
        except RecursionError:
            raise ConfigError(f"{path}: not a config: it is nested too deeply") from None
        if not isinstance(values, dict):
            raise ConfigError(
                f"{path}: the top level must be a mapping such as `sources: [...]`, not {type(values).__name__}"
            )
    mistakes = assign_all(values, assignments)
    try:
        config = Config.model_validate(values)
        if config.filter.min_agreement is not None and config.transcribe.second is None:
            mistakes.append(
                f"{path or 'config'}: filter.min_agreement: needs transcribe.second, which gives the agreement"
            )
    except ValidationError as error:
        mistakes += [explain(e, path or "config") for e in error.errors()]
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return config


def options_of(kind: type[Settings], assignments: Sequence[str], of: str) -> Settings:
    """Options that are no section of the config, from `a.b=c` assignments. `of`: the command, for the messages.

    Raises ConfigError with every mistake.
    """
    values: dict[str, Any] = {}
    mistakes = assign_all(values, assignments)
    try:
        options = kind.model_validate(values)
    except ValidationError as error:
        mistakes += [explain(e, of, kind) for e in error.errors()]
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return options


def assign_all(values: dict[str, Any], assignments: Sequence[str]) -> list[str]:
    """Set fields of nested `values` as `--set` says. Gives the mistakes, one for each assignment that is none."""
    mistakes = []
    for assignment in assignments:
        try:
            assign(values, assignment)
        except ValueError as error:
            mistakes.append(f"--set {assignment}: {error}")
    return mistakes


def assign(values: dict[str, Any], assignment: str) -> None:
    """Set one field of nested `values` by an `a.b=c` assignment whose value is YAML. Raises ValueError where it is neither."""
    name, equals, text = assignment.partition("=")
    if not equals or not all(name.split(".")):
        raise ValueError("write it as section.field=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"not a YAML value: {' '.join(str(error).split())}") from None
    *sections, field = name.split(".")
    for section in sections:
        inner = values.get(section)
        values[section] = inner if isinstance(inner, dict) else {}
        values = values[section]
    values[field] = value


def explain(error: Mapping[str, Any], path: str, top: type[BaseModel] = Config) -> str:
    """One pydantic error as a line that names the field of `top`, what is wrong with it and what it was."""
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        *parents, name = error["loc"]
        near = difflib.get_close_matches(str(name), _names(parents, top), n=1, cutoff=0.5)
        hint = f"; did you mean {'.'.join([*map(str, parents), near[0]])}?" if near else ""
        return f"{path}: {where}: there is no such field{hint}"
    return f"{path}: {where}: {error['msg']} (it is {show(_BRIEF.repr(error['input']))})"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    for kind in getattr(annotation, "__args__", (annotation,)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind


def _names(parents: Sequence[Any], model: type[BaseModel]) -> list[str]:
    """Field names of the section of `model` at `parents`."""
    for name in parents:
        field = model.model_fields.get(str(name))
        found = list(_models(field.annotation)) if field else []
        if not found:
            return []
        model = found[0]
    return list(model.model_fields)


def help_text(model: type[BaseModel] = Config, prefix: str = "") -> str:
    """Every field with its default and what it does, one a paragraph, for `antiphon config`."""
    lines = []
    for name, field in model.model_fields.items():
        inner = list(_models(field.annotation))
        for choice in inner:
            about = " ".join((choice.__doc__ or "").split())
            lines.append(f"\n{prefix}{name}: {about}")
            lines.append(help_text(choice, f"{prefix}{name}."))
        if not inner:
            default = (
                "required" if field.is_required() else yaml.safe_dump(_plain(field.default), default_flow_style=True)
            )
            about = " ".join((field.description or "").split())
            lines.append(f"  {prefix}{name} = {default.removesuffix(chr(10)).removesuffix('...').strip()}")
            lines.append(f"      {about}")
    return "\n".join(line for line in lines if line)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
