"""Drive a world model from a script: a first picture and camera moves in, pictures out.

    python examples/drive_world_model.py --moves rrrrrrrrllllllll --out drive.png

l, r turn by 11.25 degrees, f, b walk 0.15 m. The camera turns a quarter to the right and back, and
the model has to show again what it saw. The picture has a row for every eight frames; a name that
ends in .mp4 gives a video.
"""

import argparse

import numpy as np
import torch

import loci
from loci.io.pictures import read_picture, write_frames
from loci.worlds.rooms.room import sample_room

TURN, WALK = np.radians(11.25), 0.15
MOVES = {"l": (-TURN, 0), "r": (TURN, 0), "f": (0, WALK), "b": (0, -WALK)}


def moved(pose: np.ndarray, move: str) -> np.ndarray:
    """A camera-to-world pose (4, 4) one move later: x right, y down, z forward, in metres."""
    yaw, ahead = MOVES[move]
    step = np.eye(4)
    step[0, 0] = step[2, 2] = np.cos(yaw)
    step[0, 2], step[2, 0] = np.sin(yaw), -np.sin(yaw)
    step[2, 3] = ahead
    return pose @ step


def drive(model: loci.WorldModel, first: np.ndarray, moves: str, seed: int) -> np.ndarray:
    """The frames (1 + len(moves), H, W, 3) that the camera sees from the picture `first` on."""
    poses = [np.eye(4)]
    for move in moves:
        poses.append(moved(poses[-1], move))
    path, chunk = torch.from_numpy(np.stack(poses))[None], model.config.chunk
    draw, session = torch.Generator().manual_seed(seed), model.session()
    with torch.no_grad():
        latents = [model.codec.encode(torch.from_numpy(first)[None, None])]
        session.write(latents[0], path[:, :1])
        for start in range(1, path.shape[1], chunk):
            where = path[:, start : start + chunk]
            noise = torch.randn(1, where.shape[1], *model.latent_shape, generator=draw)
            latents.append(session.generate(where, noise))
            session.write(latents[-1], where)  # what was generated is remembered like what was seen
        return model.codec.decode(torch.cat(latents, dim=1))[0].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description="Drive a world model from a script.")
    parser.add_argument("--model", default="hybrid", help="a checkpoint, or one that ships")
    parser.add_argument("--first-frame", help="a picture of the model's size (default: a room)")
    parser.add_argument("--moves", default="rrrrrrrrllllllll", help="of l, r, f and b")
    parser.add_argument("--seed", type=int, default=3, help="of the noise and the room")
    parser.add_argument("--out", default="drive.png")
    asked = parser.parse_args()
    model = loci.load(asked.model)
    if asked.first_frame:
        first = read_picture(asked.first_frame)
    else:
        room = sample_room(asked.seed, "heldout")
        first = room.render(room.start[None], model.config.camera).rgb[0]
    write_frames(asked.out, drive(model, first, asked.moves, asked.seed))
    print(asked.out)


if __name__ == "__main__":
    main()
