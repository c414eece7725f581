"""`antiphon inspect --layout`: what is drawn is what is in the sequence."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli import main
from tests.training.laid import layout_of
from training.layouts import Example
from training.layouts.drawing import draw, summary

HELLO = Example([[1, 12], [2]], np.array([0.1, 0.7]), np.arange(30).reshape(3, 10) % 10, "r", 0.8)


def test_a_table_of_rows_and_steps() -> None:
    layout = layout_of("codec", codebooks=1)
    laid = layout.apply(HELLO)
    names = {1: "hel", 12: "-lo", 2: "how"}
    assert draw(layout, laid, names.__getitem__, steps=12, width=43) == [
        "step    0     1    2   3   4   5   6   7",
        "text    (bos) epad hel -lo pad pad pad pad",
        "codec_0 (pad) 0    1   2   3   4   5   6",
        "",
        "step    8    9   10  11",
        "text    epad how pad eos",
        "codec_0 7    8   9   (pad)",
    ]
    part = draw(layout, laid, names.__getitem__, steps=2, first=8)
    assert part == ["step    8    9", "text    epad how", "codec_0 7    8", "... 2 further steps"]
    assert summary(layout, laid).startswith("12 steps, 15.0 a second; learnt: text 11, codec_0 10; weights: text 0.5")


def test_from_the_command_line(
    write_corpus: Callable[..., Path], trunk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = str(write_corpus(n_train=2, n_heldout=0))
    command = ["inspect", corpus, "--trunk", str(trunk), "--rows", "1", "--layout"]
    assert main([*command, "glm-4-voice", "--set", "text_chunk=2", "--set", "speech_chunk=3", "--steps", "6"]) == 0
    text, units = [row.split()[1:] for row in capsys.readouterr().out.splitlines() if re.match("text |units ", row)]
    assert text[0] == "(bos)"
    assert [cell == "." for cell in text] == [False, False, False, True, True, True]
    assert [cell == "." for cell in units] == [True, True, True, False, False, False]
    for wrong in (["no-such"], ["codec", "--set", "delay=2"], ["codec", "--set", "delays"], ["speechgpt"]):
        assert main([*command, *wrong]) == 2
    assert main([*command, "codec", "--id", "zz"]) == 2
    said = capsys.readouterr().err
    assert "no layout 'no-such'; there are taste, codec" in said
    assert "layout codec: delay: there is no such field; did you mean delays?" in said
    assert "write it as section.field=value" in said
    assert "`antiphon dialogues`" in said
    assert "no row whose id starts with zz" in said
