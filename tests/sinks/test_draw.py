"""What is drawn, and where."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import ImageFont

from edgetrt.sinks.draw import _measured, annotate, color, rgb
from edgetrt.types import Frame, RawOutput
from tests.sinks.results import make_result

SIZE = (320, 240)


def test_a_box_is_drawn_on_its_edges_and_nowhere_inside() -> None:
    result = make_result(size=SIZE, boxes=[(100, 120, 160, 200)])
    picture = annotate(result)
    assert picture.shape == result.frame.data.shape
    for x, y in ((100, 160), (160, 160), (130, 120), (130, 200)):
        assert tuple(picture[y, x]) == color(0)
    assert tuple(picture[160, 130]) == (60, 60, 60)


def test_the_frame_is_left_as_it_is() -> None:
    result = make_result(size=SIZE)
    annotate(result)
    assert np.all(result.frame.data == 60)


def test_the_headline_and_the_label_are_drawn() -> None:
    plain = annotate(make_result(size=SIZE, boxes=[]))
    assert np.any(plain[:20] != 60)
    assert np.all(plain[60:] == 60)
    labelled = annotate(make_result(size=SIZE, boxes=[(100, 120, 160, 200)]))
    above = labelled[100:118, 100:160]
    assert np.any(np.all(above == 0, axis=2)), "no letters"


@pytest.mark.parametrize(
    "box",
    [
        (-50, -50, 500, 500),
        (300, 0, 330, 10),
        (10, 10, 10, 10),
        (50, 50, 20, 20),
        (np.nan, 0, 10, 10),
        (0, 0, np.inf, 10),
    ],
)
def test_any_box_can_be_drawn(box: tuple[float, ...]) -> None:
    assert annotate(make_result(size=SIZE, boxes=[box])).shape == (240, 320, 3)


@pytest.mark.parametrize("labels", [(), ("naïve 人\nx",), ("",)])
def test_any_label_can_be_drawn(labels: tuple[str, ...]) -> None:
    assert annotate(make_result(size=SIZE, labels=labels)).shape == (240, 320, 3)


def test_the_small_font_draws_what_it_can() -> None:
    from PIL import Image, ImageDraw

    small = getattr(ImageFont, "load_default_imagefont", ImageFont.load_default)()
    assert isinstance(small, ImageFont.ImageFont)
    draw = ImageDraw.Draw(Image.new("RGB", (10, 10)))
    line, (_, _, width, height) = _measured(draw, small, "人 5\nx")
    assert line == "? 5 x"
    assert width > 10
    assert height > 5


def test_a_result_that_is_no_detection_has_its_headline() -> None:
    picture = annotate(make_result(size=SIZE, output=RawOutput({})))
    assert np.any(picture[:20] != 60)
    assert np.all(picture[60:] == 60)


def test_every_pixel_format_is_shown_in_its_colours() -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[:, :, 0] = 200
    frame = Frame(red, "rgb", 0, 0)
    assert rgb(frame) is red
    np.testing.assert_array_equal(rgb(replace(frame, pixels=red[:, :, ::-1], format="bgr")), red)
    grey = rgb(replace(frame, pixels=red[:, :, 0], format="gray"))
    np.testing.assert_array_equal(grey, np.full((4, 4, 3), 200))


def test_classes_have_colours_of_their_own() -> None:
    assert len({color(n) for n in range(80)}) == 80
