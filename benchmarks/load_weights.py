"""What loading released weights takes: peak memory beside the model's own.

    python benchmarks/load_weights.py [--model wan-2.1-t2v-1.3b] [--layers 8] [--out FILE]

A transformer of a released size with some of its layers, of random weights, is written as its
maker's download is: shards in fp32. Each way to load it runs in a process of its own, on the CPU:

- `stream`: `load_wan`, in bf16 and as stored;
- `at once`: all shards into a map of tensors, a model with its own memory, `load_state_dict`.

Peak memory is the largest resident set (VmHWM, Linux) since all was imported, mapped pages of the
files included: a shard that is mapped counts as far as it was read.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from safetensors.torch import load_file, save_file

from loci.errors import LociError
from loci.models.wan import Wan, WanConfig
from loci.models.weights.original import config_to_original
from loci.models.weights.released import RELEASED
from loci.models.weights.wan import load_wan, open_wan
from protocol import Output, protocol, quartiles, save

SEED = 0
WAYS = ("stream bfloat16", "stream as stored", "at once")
GB = 1e9


@dataclass
class Options(Output):
    model: str = "wan-2.1-t2v-1.3b"
    layers: int = 8
    shards: int = 3
    repeats: int = 3


def main(options: Options) -> None:
    config = replace(RELEASED[options.model](), num_layers=options.layers)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "wan"
        download(folder, config, options.shards)
        found = {way: measured(way, folder, options.repeats) for way in WAYS}
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / GB
    made = protocol(
        options, {options.model: config}, seed=SEED, layers=options.layers, shards=options.shards,
        stored_gb=size, repeats=options.repeats, dtypes=(torch.float32, torch.bfloat16),
        spread="medians and quartiles over processes",
    )
    save(options, {"protocol": made, "ways": found}, "\n".join(
        f"{way:18} model {each['model_gb']:.2f} GB, peak {each['peak_gb']:.2f} GB"
        for way, each in found.items()
    ))


def download(folder: Path, config: WanConfig, shards: int) -> None:
    """A model as it is published, written shard by shard."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_to_original(config)))
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Wan(config).state_dict().items()}
    names, where = list(shapes), {}
    generator = torch.Generator().manual_seed(SEED)
    for number in range(shards):
        part = {n: torch.randn(shapes[n], generator=generator) for n in names[number::shards]}
        file = f"diffusion_pytorch_model-{number + 1:05d}-of-{shards:05d}.safetensors"
        save_file(part, folder / file)
        where |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def measured(way: str, folder: Path, repeats: int) -> dict[str, Any]:
    """Medians and quartiles of the processes that load it this way."""
    runs = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, __file__, "--load", way, str(folder)],
            capture_output=True, text=True, check=False,
        )
        if done.returncode:
            raise LociError(f"loading '{way}' failed: {done.stderr.strip()[-200:]}")
        runs.append(json.loads(done.stdout))
    return {"model_gb": runs[0]["model_gb"]} | quartiles(
        "peak_gb", [run["peak_gb"] for run in runs]
    )


def load(way: str, folder: Path) -> dict[str, float]:
    """Load it, and say what that took."""
    torch.set_num_threads(1)
    config = open_wan(folder).config
    assert config is not None
    before = resident()
    if way == "at once":
        files = folder.glob("*.safetensors")
        tensors = {name: t for file in files for name, t in load_file(file).items()}
        model = Wan(config)
        model.load_state_dict(tensors)
    else:
        model = load_wan(folder, torch.bfloat16 if way == "stream bfloat16" else None)
    peak = resident() - before
    return {"model_gb": sum(p.nbytes for p in model.parameters()) / GB, "peak_gb": peak}


def resident() -> float:
    """The largest resident set of this process so far, in gigabytes."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError as error:
        raise LociError("peak memory is read from /proc; run this on Linux") from error
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / GB


if __name__ == "__main__":
    if sys.argv[1:2] == ["--load"]:
        print(json.dumps(load(sys.argv[2], Path(sys.argv[3]))))
    else:
        main(tyro.cli(Options))
