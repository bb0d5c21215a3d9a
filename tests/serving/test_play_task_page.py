"""The page on which people watch policies, in a real browser: it runs, things are moved by
keyboard, and pixels and numbers are those of the game."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("websockets")

from browser import CONTRAST, Browser
from loci.memory import ROWS
from loci.models import world, world_action
from loci.serving.play.game import Game
from loci.worlds.tabletop.table import CHUNK
from play_page import begun, numbers, said, served, settle, shown, walked_by_tab
from tiny_policy import MEMORIES
from tiny_robot import tiny_robot
from tiny_world import tiny_world

MODELS = {
    "hybrid": tiny_robot(MEMORIES["hybrid"]), "window": tiny_robot(MEMORIES["window"]),
    "room": tiny_world(ROWS["none"]),
}
NAMES = {"hybrid": world_action.KIND, "window": world_action.KIND, "room": world.KIND}


def game() -> Game:
    return Game(MODELS.__getitem__, NAMES)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(game) as address:
        yield address


def of_card(window: Browser, what: str) -> str:
    return window.js(f"cards.get(1).element.querySelector('{what}').textContent")


def test_a_block_is_moved_by_keyboard_and_the_next_look_shows_it(
    window: Browser, address: str
) -> None:
    begun(window, address)
    own = game()
    list(own.do({"do": "task", "seed": 0}))
    robot = own.scene.companions[1]
    assert shown(window, "1") == robot.picture().flatten().tolist()
    assert window.js("document.querySelector('#rooms').checkVisibility()")
    assert not window.js("document.querySelector('#eyes').checkVisibility()")
    window.press("ArrowRight")
    settle(window)
    # The cross stands at the block; from there it goes by arrow keys.
    window.walk_to("#plan")
    for _ in range(4):
        window.press("ArrowLeft", shift=True)
    window.press("ArrowRight")
    x, y = window.js("[cross.x, cross.y]")
    window.press("Enter")
    settle(window)
    event = {"do": "move", "thing": "block", "x": x, "y": y}
    for deed in ({"do": "step", "steps": 1}, event):
        list(own.do(deed))
    assert window.js("state.log.at(-1)") == event
    block = "state.companions[0].table.objects[0]"
    assert window.js(f"[{block}.x, {block}.y]") == [x, y]
    assert shown(window, "1") == robot.picture().flatten().tolist()
    assert "not looked yet" in said(window)
    window.press("n")
    settle(window)
    list(own.do({"do": "step", "steps": CHUNK - 1}))
    assert shown(window, "1") == robot.pictures[1].flatten().tolist()
    assert "seen at look 1 by head" in of_card(window, ".notes")
    told = numbers(window)
    assert told["frames kept, gist"] == "2"
    assert told["tokens kept"] == str(robot.policy.stream.tokens())
    assert told["memory"] == f"{round(sum(robot.held.values()) / 1000):,} kB"
    assert float(told["act"].removesuffix(" ms")) > 0
    shares = robot.moment.looked
    most = max(shares, key=shares.__getitem__)
    assert of_card(window, "figcaption") == f"look {most}: {round(100 * shares[most])}\u00a0%"
    # A place where nothing can be put is refused, and nothing is lost.
    window.js("aim(-0.24, 0.13); put()")
    settle(window)
    assert "in the way" in said(window)
    assert window.js(f"[{block}.x, {block}.y]") == [x, y]


def test_it_runs_until_it_is_told_to_pause_and_a_memory_is_emptied(
    window: Browser, address: str
) -> None:
    begun(window, address)
    window.press(" ")
    assert window.js("document.querySelector('#run').textContent") == "Pause"
    settle(window)
    window.press(" ")
    settle(window)
    assert window.js("!running && state.companions[0].step > 0")
    window.js("act({do: 'add', name: 'window'}); act({do: 'forget', number: 1}); steps(16)")
    settle(window)
    names = "[...document.querySelectorAll('article:not(#truth) h2')].map(one => one.textContent)"
    assert window.js(names) == ["hybrid", "window"]
    assert "memory emptied" in of_card(window, ".notes")
    # A click on the table puts the thing there.
    window.js("""(() => {
      const box = document.querySelector('#plan').getBoundingClientRect();
      document.querySelector('#plan').dispatchEvent(new MouseEvent('click', {
        clientX: box.left + (-0.15 - SPAN.left) * box.width / SPAN.width,
        clientY: box.top + (SPAN.far - 0.30) * box.width / SPAN.width}));
    })()""")
    settle(window)
    assert window.js("state.companions.map(one => one.table.objects[0].x)") == [
        pytest.approx(-0.15, abs=2e-3)
    ] * 2
    log = window.js("JSON.stringify(state.log)")
    views = [shown(window, number) for number in "12"]
    begun(window, address)
    window.js(f"{log}.forEach(act)")
    settle(window)
    assert [shown(window, number) for number in "12"] == views


def test_another_variant_and_a_room_are_begun_from_the_same_page(
    window: Browser, address: str
) -> None:
    begun(window, address)
    window.js("""document.querySelector('#tasks').open = true;
      document.querySelector('#cue').value = '[3]'; document.querySelector('#hold').value = 2;
      document.querySelector('#episode').value = 5;
      document.querySelector('#task').requestSubmit()""")
    settle(window)
    assert window.js("[state.task.seed, state.task.hold, state.task.cue[0]]") == [5, 2, 3]
    window.js("document.querySelector('#room').requestSubmit()")
    settle(window)
    assert said(window).startswith("Frame 1, eyes open.")
    assert window.js("document.querySelector('#eyes').checkVisibility()")
    assert not window.js("document.querySelector('#run').checkVisibility()")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_a_phone_is_used_by_keyboard_and_read_in_light_and_dark(
    window: Browser, address: str, dark: bool
) -> None:
    begun(window, address, width=320, height=700, dark=dark)
    window.js("""document.querySelector('#tasks').open = true;
      act({do: 'move', thing: 'block', x: -0.15, y: 0.3})""")
    settle(window)
    assert window.js("[innerWidth, document.documentElement.scrollWidth]") == [320, 320]
    assert walked_by_tab(window) > 18
    for what in (".of-task .lead", "#run", "#told", "#cross", "#how", "dt", "dd", ".notes",
                 ".stages", "figcaption", ".cameras", "article button", "#said"):
        found = f"(document.querySelector('article:not(#truth) {what}')" \
                f" || document.querySelector('{what}'))"
        assert window.js(f"{CONTRAST}({found})") >= 4.5, what
