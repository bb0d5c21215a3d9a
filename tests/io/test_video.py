"""Videos of episodes: nothing that matters is lost, and any frame is found by itself."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest

from demonstrations import images
from loci.errors import LociError
from loci.io import video

FPS = 10


def frames(count: int, seed: int = 0) -> np.ndarray:
    return images(np.random.default_rng(seed), count, 32, 48)


def foreign(path: Path, pixels: np.ndarray, codec: str, options: dict[str, str]) -> None:
    """A video as other programs write it."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=FPS, options=options)
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in pixels:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


def everything(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        return np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)])


def test_lossless_is_lossless_and_high_keeps_small_colours(tmp_path: Path) -> None:
    pixels = frames(20)
    for quality, worst in (("lossless", 0), ("high", 2.5)):
        path = tmp_path / f"{quality}.mp4"
        path.write_bytes(video.encode(pixels, FPS, quality))
        seen = video.decode(path, np.arange(20) / FPS, FPS)
        assert seen.dtype == np.uint8
        assert seen.shape == pixels.shape
        assert np.sqrt(((seen.astype(float) - pixels) ** 2).mean()) <= worst


@pytest.mark.parametrize("quality", ["lossless", "high"])
def test_every_encoder_of_this_build_keeps_its_promise(
    quality: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pixels = np.concatenate([frames(5), frames(4, seed=1)])
    tried = 0
    for choice in video.ENCODERS[quality]:
        monkeypatch.setitem(video.ENCODERS, quality, (choice,))
        try:
            video.encoder(quality)
        except LociError:
            continue
        tried += 1
        one, two = video.encode(pixels[:5], FPS, quality), video.encode(pixels[5:], FPS, quality)
        first = tmp_path / f"{choice[0]}.mp4"
        first.write_bytes(one)
        assert video.joinable(first, two), choice
        video.join([(first, 5), (two, 4)], FPS, tmp_path / "both.mp4")
        seen = video.decode(tmp_path / "both.mp4", np.arange(9) / FPS, FPS).astype(float)
        error = np.sqrt(((seen - pixels) ** 2).mean())
        assert error == 0 if quality == "lossless" else error < 6, (choice, error)
    assert tried


def test_without_an_encoder_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(video.ENCODERS, "high", (("libnothing", "yuv444p", {}),))
    with pytest.raises(LociError, match="no high video encoder here; pip install"):
        video.encode(frames(2), FPS)


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"bf": "3", "g": "12", "b_strategy": "0"}),
        ("libx264", {"bf": "3", "g": "12", "x264-params": "open-gop=1:b-adapt=0"}),
        ("libx264", {"bf": "2", "g": "1000"}),
        ("libx264", {"g": "1"}),
        ("mpeg4", {"bf": "2", "g": "9"}),
        ("libsvtav1", {"crf": "30", "g": "2", "preset": "12"}),
        ("libvpx-vp9", {"g": "15", "deadline": "realtime"}),
    ],
)
def test_any_frame_alone_equals_the_full_decode(
    codec: str, options: dict[str, str], tmp_path: Path
) -> None:
    try:
        av.codec.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"PyAV's build has no {codec}")
    path = tmp_path / "video.mp4"
    foreign(path, frames(60), codec, options)
    whole = everything(path)
    assert len(whole) == 60
    rng = np.random.default_rng(1)
    for frame in (0, 1, 11, 12, 13, 35, 59):
        np.testing.assert_array_equal(
            video.decode(path, np.array([frame / FPS]), FPS)[0], whole[frame]
        )
    for _ in range(4):
        some = rng.integers(0, 60, 7)
        np.testing.assert_array_equal(video.decode(path, some / FPS, FPS), whole[some])
    np.testing.assert_array_equal(video.decode(path, np.arange(60) / FPS, FPS), whole)


def test_a_frame_late_in_a_long_file_costs_few_decoded_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(video.encode(np.repeat(frames(5), 60, axis=0), FPS))
    decoded = 0
    clean = video._clean

    def counting(given: object) -> object:
        nonlocal decoded
        for frame in clean(given):
            decoded += 1
            yield frame

    monkeypatch.setattr(video, "_clean", counting)
    video.decode(path, np.array([29.0, 15.0, 0.5]), FPS)
    assert decoded <= 3 * 5


def test_joined_videos_are_the_parts_in_a_row_and_can_be_cut(tmp_path: Path) -> None:
    parts = [frames(n, seed=n) for n in (7, 1, 12)]
    encoded = [video.encode(p, FPS, "lossless") for p in parts]
    path = tmp_path / "a.mp4"
    video.join([(e, len(p)) for e, p in zip(encoded, parts, strict=True)], FPS, path)
    np.testing.assert_array_equal(everything(path), np.concatenate(parts))
    assert video.count_frames(path) == 20
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        # lerobot's torchcodec reader finds frame round(t x average rate).
        assert stream.average_rate == FPS
        assert stream.duration * stream.time_base == 2
    video.join([(path, 8)], FPS, tmp_path / "b.mp4")
    np.testing.assert_array_equal(everything(tmp_path / "b.mp4"), np.concatenate(parts[:2]))
    again = tmp_path / "c.mp4"
    video.join([(tmp_path / "b.mp4", 8), (encoded[2], 12)], FPS, again)
    np.testing.assert_array_equal(everything(again), np.concatenate(parts))
    assert again.stat().st_size == path.stat().st_size
    with pytest.raises(LociError, match="20 frames of 21"):
        video.join([(path, 21)], FPS, again)


def test_other_codecs_are_not_joined(tmp_path: Path) -> None:
    foreign(tmp_path / "a.mp4", frames(3), "mpeg4", {})
    assert not video.joinable(tmp_path / "a.mp4", video.encode(frames(3), FPS))


def test_what_is_known_of_a_video() -> None:
    assert video.describe(video.encode(frames(3), FPS, "lossless")) == {
        "video.height": 32,
        "video.width": 48,
        "video.codec": "h264",
        "video.pix_fmt": "gbrp",
        "video.fps": 10,
        "video.channels": 3,
        "is_depth_map": False,
        "has_audio": False,
    }


def test_damage_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    with pytest.raises(LociError, match="is missing; copy the dataset again"):
        video.decode(path, np.zeros(1), FPS)
    content = video.encode(frames(10), FPS)
    for damaged in (b"", content[:100], content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(LociError, match="truncated or no video") as caught:
            video.decode(path, np.zeros(1), FPS)
        assert "\n" not in str(caught.value)
    path.write_bytes(content)
    with pytest.raises(LociError, match=r"no frame at 1\.000 s \(2 of 3 are missing\)"):
        video.decode(path, np.array([0.5, 1.0, 1.1]), FPS)
    sound = io.BytesIO()
    with av.open(sound, "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        silence.sample_rate = 16000
        file.mux(stream.encode(silence))
        file.mux(stream.encode())
    path.write_bytes(sound.getvalue())
    with pytest.raises(LociError, match="holds no video"):
        video.decode(path, np.zeros(1), FPS)
