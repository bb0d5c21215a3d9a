"""Wan's transformer as its own repository has it. Names of tensors there are ours.

Source: `config.json` of the released Wan 2.1 and 2.2, which leaves out the patch size and the width
of the text; the shapes of the tensors say both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loci.errors import LociError
from loci.models.wan import WanConfig

CLASS = "WanModel"
PATCH, TEXT = "patch_embedding.weight", "text_embedding.0.weight"
# Their setting -> ours.
_SETTINGS = {
    "dim": "dim", "ffn_dim": "ffn_dim", "freq_dim": "freq_dim", "in_dim": "in_channels",
    "out_dim": "out_channels", "num_heads": "num_heads", "num_layers": "num_layers", "eps": "eps",
    "text_len": "text_len",
}
# Image-to-video of 2.1 attends to an image encoder's tokens; the other kinds have further parts.
_KINDS = ("t2v", "ti2v", "i2v")
_IMAGE = "img_emb."


def config_from_original(
    settings: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> WanConfig:
    """Our configuration of a released `config.json` and the shapes of its tensors. LociError where
    a setting or one of the two tensors is missing, and for kinds of Wan that we do not implement.
    """
    missing = _SETTINGS.keys() - settings.keys()
    if missing:
        raise LociError(f"no setting '{min(missing)}': this is not the config of a Wan transformer")
    kind = settings.get("model_type", "t2v")
    if kind not in _KINDS or any(name.startswith(_IMAGE) for name in shapes):
        raise LociError(
            f"Wan of the kind '{kind}' with parts that T2V has not is not supported; use T2V, TI2V "
            "or the I2V of 2.2"
        )
    for name, dims in ((PATCH, 5), (TEXT, 2)):
        if len(shapes.get(name, ())) != dims:
            raise LociError(
                f"no tensor '{name}' of {dims} dimensions, which says what config.json leaves out; "
                "fetch the weights again"
            )
    given = {ours: settings[theirs] for theirs, ours in _SETTINGS.items()}
    patch, text = shapes[PATCH][2:], shapes[TEXT][1]
    return WanConfig.from_dict(given | {"patch": list(patch), "text_dim": text})


def config_to_original(config: WanConfig) -> dict[str, Any]:
    """The released form of our configuration. LociError for what only ours has."""
    refuse_ours(config)
    tree = config.to_dict()
    # 2.2 TI2V is the one with 48 channels; image-to-video takes in more than it puts out.
    kind = "i2v" if config.in_channels != config.out_channels else (
        "ti2v" if config.in_channels == 48 else "t2v"
    )
    given = {theirs: tree[ours] for theirs, ours in _SETTINGS.items()}
    return dict(sorted(({"_class_name": CLASS, "model_type": kind} | given).items()))


def refuse_ours(config: WanConfig) -> None:
    """LociError for a transformer that other layouts cannot express."""
    other = config.camera != "none" or config.theta != WanConfig.theta
    if other or not config.text_dim or not config.out_channels:
        raise LociError(
            "Wan's layouts have no cameras, no other theta, and always a text and a head; keep "
            "this one in Loci's"
        )
