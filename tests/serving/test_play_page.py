"""The page on which people drive memories, in a real browser: keys, pixels, numbers, files."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

pytest.importorskip("websockets")

from browser import CONTRAST, Browser
from loci.memory import ROWS
from loci.models.world import KIND
from loci.serving.play.game import Game
from loci.worlds.rooms.room import sample_room
from play_page import begun, numbers, said, served, settle, shown, walked_by_tab
from tiny_world import tiny_world

MODELS = {name: tiny_world(ROWS[name], chunk=4) for name in ("hybrid", "none", "map-channels")}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(lambda: Game(MODELS.__getitem__, dict.fromkeys(MODELS, KIND))) as address:
        yield address


def test_keys_walk_and_close_the_eyes(window: Browser, address: str) -> None:
    begun(window, address)
    room, camera = sample_room(3, "heldout"), MODELS["hybrid"].config.camera
    first = room.render(room.start[None], camera).rgb[0].ravel().tolist()
    assert shown(window, "null") == shown(window, "1") == first
    for _ in range(8):
        window.press("ArrowRight")
        settle(window)
    assert said(window).startswith("Frame 33, eyes open.")
    # A full turn with open eyes: the same picture, of the truth and of what is seen.
    assert shown(window, "null") == shown(window, "1") == first
    assert numbers(window)["frames kept, gist"] == "33"
    window.press(" ")
    window.press("ArrowLeft")
    settle(window)
    assert shown(window, "null") != shown(window, "1")
    assert "eyes closed" in said(window)
    assert window.js("cards.get(1).element.querySelector('.what').textContent") == "imagined"
    assert float(numbers(window)["generate"].removesuffix(" ms")) > 0
    window.press("Backspace")
    settle(window)
    assert shown(window, "1") == first


def test_memories_stand_beside_each_other_and_a_walk_is_saved(
    window: Browser, address: str
) -> None:
    begun(window, address)
    window.press("ArrowRight")
    settle(window)
    window.js("act({do: 'add', name: 'none'}); act({do: 'fork', number: 1})")
    window.js("act({do: 'forget', number: 3})")
    settle(window)
    names = "[...document.querySelectorAll('article h2')].map(one => one.textContent)"
    assert window.js(names) == ["What is there", "hybrid (1)", "none", "hybrid (3)"]
    window.press(" ")
    window.press("ArrowLeft")
    settle(window)
    views = [shown(window, str(number)) for number in (1, 2, 3)]
    assert views[0] != views[2] != views[1] != views[0]
    log = window.js("JSON.stringify(state.log)")
    begun(window, address)
    window.js(f"{log}.forEach(act)")
    settle(window)
    assert [shown(window, str(number)) for number in (1, 2, 3)] == views
    assert json.loads(log)[0] == {"do": "room", "seed": 3, "names": ["hybrid"]}


def test_a_picture_of_ones_own(window: Browser, address: str) -> None:
    begun(window, address)
    window.js("""(async () => {
      const canvas = new OffscreenCanvas(90, 60), pen = canvas.getContext('2d');
      pen.fillStyle = 'rgb(200, 30, 40)'; pen.fillRect(0, 0, 90, 60);
      const file = new File([await canvas.convertToBlob()], 'red.png');
      const held = new DataTransfer(); held.items.add(file);
      const input = document.querySelector('#picture');
      input.files = held.files; input.dispatchEvent(new Event('change'));
      await new Promise(done => setTimeout(done, 500));
    })()""")
    settle(window)
    assert set(zip(*[iter(shown(window, "1"))] * 3, strict=True)) == {(200, 30, 40)}
    assert window.js("document.querySelector('#truth').hidden")
    assert window.js("document.querySelector('#eyes').textContent") == "Eyes closed"
    window.js("act({do: 'add', name: 'map-channels'})")
    settle(window)
    assert "nobody knows the depth" in said(window)


def test_all_that_can_be_used_shows_the_focus_and_fits_a_phone(
    window: Browser, address: str
) -> None:
    begun(window, address, width=320, height=700)
    assert window.js("[innerWidth, document.documentElement.scrollWidth]") == [320, 320]
    assert walked_by_tab(window) > 12


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_is_read_easily_in_light_and_dark(window: Browser, address: str, dark: bool) -> None:
    begun(window, address, dark=dark)
    window.press(" ")
    for what in (".lead", "#eyes", "dt", "dd", ".what", ".hint", "article button", "#said"):
        contrast = window.js(f"{CONTRAST}(document.querySelector('article ~ article {what}') ||"
                             f"document.querySelector('{what}'))")
        assert contrast >= 4.5, what
