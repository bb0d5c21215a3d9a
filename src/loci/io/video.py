"""Videos of episodes: encoded so that small cues survive, joined without re-encoding, decoded at
any frame. Source: ours, on PyAV; the file format is LeRobot's (MP4, frames on a grid of 1 / fps).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from loci.errors import LociError
from loci.io.extras import extra

with extra("data"):
    import av
    from av.bitstream import BitStreamFilterContext, bitstream_filters_available
    from av.video.reformatter import VideoReformatter

Quality = Literal["high", "lossless"]

# Encoder, pixel format and options, best first; the first that PyAV's build has is taken. Full
# chroma (4:4:4) matters more than the rate: on rendered rooms of 320 x 240, 4:2:0 stays below 40 dB
# at any rate, 4:4:4 reaches 48.6 dB in the same number of bytes; lossless takes three times those.
# libx265 is left out: encoding short videos with it one after the other aborts now and then.
# No B-frames: packets are in the order of frames, so that episodes can be joined and cut.
ENCODERS: dict[str, tuple[tuple[str, str, dict[str, str]], ...]] = {
    "high": (
        ("libx264", "yuv444p", {"crf": "12", "g": "4", "bf": "0", "threads": "1"}),
        ("libvpx-vp9", "yuv444p", {"crf": "12", "b": "0", "g": "4", "lag-in-frames": "0"}),
        ("mpeg4", "yuv420p", {"qmin": "1", "qmax": "2", "g": "4", "bf": "0", "b": "20000000"}),
    ),
    "lossless": (
        ("libx264rgb", "rgb24", {"qp": "0", "g": "4", "bf": "0", "threads": "1"}),
        ("libvpx-vp9", "gbrp", {"lossless": "1", "g": "4", "lag-in-frames": "0"}),
    ),
}

# FFmpeg's filters that read the structure of a codec's packets and fail where it is broken.
PARSERS = {
    "h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb", "av1": "av1_metadata",
    "vp9": "vp9_metadata",
}

# FFmpeg's own decoders patch up a damaged frame with the slices that are there; with several
# threads it is left to chance which those are. Encoders write one slice a frame, so that threads
# gain nothing here.
ONE_THREAD = ("h264", "hevc", "mpeg4")


def encoder(quality: str) -> tuple[str, str, dict[str, str]]:
    """The encoder, pixel format and options for a quality. Raises LociError if none is there."""
    for name, pixels, options in ENCODERS[quality]:
        try:
            av.codec.Codec(name, "w")
        except av.codec.codec.UnknownCodecError:
            continue
        return name, pixels, options
    raise LociError(f"PyAV has no {quality} video encoder here; pip install --upgrade av")


def encode(frames: np.ndarray, fps: int, quality: str = "high") -> bytes:
    """An MP4 of uint8 RGB frames (T, H, W, 3), its first frame a key frame at time 0."""
    name, pixels, options = encoder(quality)
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream(name, rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        for frame in frames:
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            file.mux(stream.encode(image))
        file.mux(stream.encode())
    return out.getvalue()


def describe(source: Path | bytes) -> dict[str, Any]:
    """What LeRobot keeps in `info` of a video feature (video_utils.py, get_video_info)."""
    with _open(source) as file:
        stream = file.streams.video[0]
        rate = stream.average_rate or stream.base_rate or Fraction(0)
        return {
            "video.height": stream.height,
            "video.width": stream.width,
            "video.codec": stream.codec.canonical_name,
            "video.pix_fmt": stream.pix_fmt,
            "video.fps": int(rate) if rate.denominator == 1 else float(rate),
            "video.channels": 3,
            "is_depth_map": False,
            "has_audio": bool(file.streams.audio),
        }


def joinable(first: Path, second: bytes) -> bool:
    """Whether the packets of `second` can follow those of `first` in one file."""
    with _open(first) as a, _open(second) as b:
        one, two = (f.streams.video[0].codec_context for f in (a, b))
        return all(
            getattr(one, name) == getattr(two, name)
            for name in ("name", "extradata", "width", "height", "pix_fmt")
        )


def join(parts: Sequence[tuple[Path | bytes, int]], fps: int, out: Path) -> None:
    """Write the first n frames of each (video, n), one after the other, without re-encoding.

    Raises LociError where a video has fewer frames than n.
    """
    with av.open(str(out), "w", format="mp4", options={"movflags": "faststart"}) as target:
        stream = None
        start = 0
        for source, count in parts:
            taken = 0
            with _open(source) as file:
                given = file.streams.video[0]
                if stream is None:
                    stream = target.add_stream_from_template(given)
                base = given.time_base
                shift = round(Fraction(start, fps) / base)
                for packet in file.demux(given):
                    if packet.dts is None or taken == count:
                        break
                    packet.pts += shift
                    packet.dts += shift
                    packet.stream = stream
                    target.mux(packet)
                    taken += 1
            if taken < count:
                where = source if isinstance(source, Path) else "a new video"
                raise LociError(f"{where} has {taken} frames of {count}; run loci data check")
            start += count


def count_frames(path: Path) -> int:
    """How many frames the header of a video promises."""
    with _open(path) as file:
        return file.streams.video[0].frames


def frame_size(path: Path) -> tuple[int, int]:
    """Height and width of a video's frames, by its header."""
    with _open(path) as file:
        stream = file.streams.video[0]
        return stream.height, stream.width


def packet_times(path: Path) -> Iterator[float]:
    """The time in seconds of every frame of a video, in the order of the file.

    Packets are read, and parsed as far as the codec's parser goes, but not decoded. Raises
    LociError where the file cannot be opened, ends early, or a packet's structure is damaged.
    """
    with _open(path) as file:
        stream = file.streams.video[0]
        parser = PARSERS.get(stream.codec_context.name, "")
        parser = parser if parser in bitstream_filters_available else "null"
        structure = BitStreamFilterContext(parser, stream)
        try:
            for packet in file.demux(stream):
                if packet.pts is None:
                    continue
                time, shown = float(packet.pts * packet.time_base), not packet.is_discard
                if packet.is_corrupt:
                    raise LociError(f"{path} is damaged at {time:.3f} s; copy the dataset again")
                structure.filter(packet)  # takes the packet
                if shown:
                    yield time
        except av.FFmpegError as error:
            raise _broken(path, error) from error


def walk(path: Path) -> Iterator[tuple[float, av.VideoFrame]]:
    """Every frame of a video with its time in seconds, in order of time, but for damaged ones that
    the decoder has patched up.

    Raises LociError where the file cannot be opened, or not be decoded to its end.
    """
    with _open(path) as file:
        try:
            for frame in file.decode(video=0):
                if frame.pts is not None and not frame.is_corrupt:
                    yield float(frame.pts * frame.time_base), frame
        except av.FFmpegError as error:
            raise _broken(path, error) from error


def decode(path: Path, times: np.ndarray, fps: float) -> np.ndarray:
    """The frames nearest to `times` (N,) in seconds, in any order: uint8 RGB (N, H, W, 3).

    Decodes from the last key frame before each time on, so few frames of a long file cost little.
    Raises LociError for a missing or damaged file or frame, and for a time with no frame within a
    quarter of a frame's duration.
    """
    with _open(path) as file:
        stream = file.streams.video[0]
        base = stream.time_base
        wanted = np.unique(np.round(np.asarray(times) / float(base)).astype(np.int64))
        slack = 0.25 / fps / float(base)
        decoded: dict[int, np.ndarray] = {}
        # One for all frames: setting up the conversion takes longer than converting a frame.
        convert = VideoReformatter().reformat
        try:
            for target, frame in _search(file, stream, wanted.tolist(), slack, 1 / fps / base):
                if frame.is_corrupt:  # the decoder has patched it up
                    raise LociError(
                        f"{path} is damaged at {float(target * base):.3f} s; copy the dataset again"
                    )
                decoded[target] = convert(frame, format="rgb24").to_ndarray()
        except av.FFmpegError as error:
            raise _broken(path, error) from error
        lost = [target for target in wanted.tolist() if target not in decoded]
        if lost:
            raise LociError(
                f"{path} has no frame at {float(lost[0] * base):.3f} s ({len(lost)} of "
                f"{len(wanted)} are missing); run loci data check"
            )
        keys = np.round(np.asarray(times) / float(base)).astype(np.int64).tolist()
        return np.stack([decoded[key] for key in keys])


def _search(
    file: Any, stream: Any, targets: list[int], slack: float, tick: Fraction | float
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(target, frame) for each of the rising `targets` that has a frame within `slack`."""
    # Below this distance decoding on is taken to be cheaper than a seek; a seek that gains nothing
    # (a long way between key frames) doubles it.
    reach = 8 * float(tick)
    frames: Iterator[av.VideoFrame] = iter(())
    frame: av.VideoFrame | None = None
    for target in targets:
        if frame is None or target - frame.pts > reach:
            before = None if frame is None else frame.pts
            frames = _frames_from(file, stream, target + int(slack))
            frame = next(frames, None)
            if before is not None and frame is not None and frame.pts <= before:
                reach = 2 * max(reach, target - frame.pts)
        while frame is not None and frame.pts < target - slack:
            frame = next(frames, None)
        if frame is not None and abs(frame.pts - target) <= slack:
            yield target, frame


def _frames_from(file: Any, stream: Any, target: int) -> Iterator[av.VideoFrame]:
    """Frames in order of time, from a key frame at or before `target`, or else from the first."""
    back = 0
    while True:
        start = target - back
        file.seek(max(start, 0), stream=stream, backward=True, any_frame=False)
        frames = _clean(file.decode(stream))
        first = next(frames, None)
        if first is not None and (first.pts <= target or start <= 0):
            break
        if start <= 0:
            return
        # The key frame was found by the order of decoding and is shown later than `target`.
        back = max(2 * back, round(1 / stream.time_base))
    yield first
    yield from frames


def _clean(frames: Iterator[Any]) -> Iterator[av.VideoFrame]:
    """The frames from the first key frame on: after a seek, those before it cannot be decoded."""
    ready = False
    for frame in frames:
        ready = ready or frame.key_frame
        if ready and frame.pts is not None:
            yield frame


def _open(source: Path | bytes) -> Any:
    try:
        file = av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source))
    except (av.FFmpegError, OSError) as error:
        if not isinstance(source, bytes) and not source.exists():
            raise LociError(f"{source} is missing; copy the dataset again") from error
        raise _broken(source, error) from error
    if not file.streams.video:
        file.close()
        raise LociError(f"{source} holds no video; copy the dataset again")
    context = file.streams.video[0].codec_context
    if context.name in ONE_THREAD:
        context.thread_count = 1
    return file


def _broken(source: Path | bytes, error: Exception) -> LociError:
    where = "a new video" if isinstance(source, bytes) else source
    reason = getattr(error, "strerror", None) or str(error)
    return LociError(f"{where} is truncated or no video ({reason}); copy the dataset again")
