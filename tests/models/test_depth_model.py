"""Depth models of transformers, tiny ones made here, from files to aligned depth."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from boxes import pose_of, view
from loci.errors import LociError
from loci.geometry import Camera
from loci.geometry.alignment import Alignment
from loci.geometry.depth import check_depth
from loci.geometry.estimator import DepthEstimator
from loci.io.extras import MissingExtra
from loci.models.depth_model import DepthModel

transformers = pytest.importorskip("transformers")

CAMERA = Camera(height=30, width=40, fov=70.0)
DINO = {
    "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 28, "patch_size": 14, "out_indices": [1, 2, 3, 4], "apply_layernorm": True,
    "reshape_hidden_states": False,
}
NECK = {"neck_hidden_sizes": [4, 8, 8, 8], "fusion_hidden_size": 8}


def depth_anything(**options: Any) -> Any:
    return transformers.DepthAnythingForDepthEstimation(transformers.DepthAnythingConfig(
        backbone_config=transformers.Dinov2Config(**DINO), reassemble_hidden_size=16,
        head_hidden_size=4, patch_size=14, **NECK, **options,
    ))


def dpt() -> Any:
    return transformers.DPTForDepthEstimation(transformers.DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=16, backbone_out_indices=[0, 1, 2, 3], is_hybrid=False, **NECK,
    ))


def zoe() -> Any:
    return transformers.ZoeDepthForDepthEstimation(transformers.ZoeDepthConfig(
        backbone_config=transformers.BeitConfig(
            hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
            image_size=32, patch_size=16, out_indices=[1, 2, 3, 4], reshape_hidden_states=False,
            use_relative_position_bias=True,
        ),
        bottleneck_features=8, num_relative_features=4, num_attractors=[4, 2, 2, 1],
        bin_embedding_dim=8, bin_configurations=[
            {"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0, "name": "nyu"}
        ], **NECK,
    ))


def depth_pro() -> Any:
    part = transformers.Dinov2Config(**{**DINO, "image_size": 16, "patch_size": 4})
    return transformers.DepthProForDepthEstimation(transformers.DepthProConfig(
        patch_size=16, fusion_hidden_size=8, intermediate_hook_ids=[2, 1],
        intermediate_feature_dims=[8, 8], scaled_images_ratios=[0.5, 1.0],
        scaled_images_overlap_ratios=[0.0, 0.5], scaled_images_feature_dims=[8, 8],
        merge_padding_value=1, use_fov_model=True, num_fov_head_layers=2, image_model_config=part,
        patch_model_config=part, fov_model_config=part,
    ))


def size(height: int, width: int) -> dict[str, Any]:
    return {"size": {"height": height, "width": width}}


MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "depth-anything": (depth_anything, {
        "image_processor_type": "DPTImageProcessor", **size(28, 28), "ensure_multiple_of": 14,
        "keep_aspect_ratio": True, "image_mean": [0.485, 0.456, 0.406],
    }),
    "metric-anything": (
        lambda: depth_anything(depth_estimation_type="metric", max_depth=20),
        {"image_processor_type": "DPTImageProcessor", **size(28, 28)},
    ),
    "dpt": (dpt, {"image_processor_type": "DPTImageProcessor", **size(32, 32)}),
    "zoe": (zoe, {
        "image_processor_type": "ZoeDepthImageProcessor", **size(32, 32), "ensure_multiple_of": 32,
        "keep_aspect_ratio": False,
    }),
    "depth-pro": (depth_pro, {"image_processor_type": "DepthProImageProcessor", **size(32, 32)}),
}
METRIC = {"metric-anything", "zoe", "depth-pro"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each model, as it lies on the hub."""
    found = {}
    for name, (make, prepare) in MODELS.items():
        torch.manual_seed(0)
        model, folder = make(), tmp_path_factory.mktemp(name)
        # Heads end in a ReLU: a bias keeps some of their predictions above it.
        for part, weight in model.named_parameters():
            if part.startswith("head") and part.endswith("bias"):
                weight.data += 0.5
            if part.startswith("fov_model.head") and part.endswith("bias"):
                weight.data += 30.0
        model.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(prepare))
        found[name] = folder
    return found


def clip(frames: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Images, poses and intrinsics of a camera that turns in the box room."""
    poses = torch.stack([pose_of(10.0 * n) for n in range(frames)])
    views = [view(pose, n, camera=CAMERA) for n, pose in enumerate(poses)]
    return (torch.stack([v.payload for v in views]), poses,
            torch.stack([v.intrinsics for v in views]))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_an_estimator(folders: dict[str, Path], name: str) -> None:
    model = DepthModel.load(folders[name], batch=2)
    estimator: DepthEstimator = model
    images, poses, intrinsics = clip()
    depth = estimator(images, poses, intrinsics)
    assert depth.shape == images.shape[:3]
    assert depth.dtype == torch.float32
    check_depth(depth)
    assert model.metric == (name in METRIC)
    if not model.metric:
        assert depth[0][depth[0] > 0].median() == pytest.approx(1.0, rel=0.05)
    # A stream gives what the clip gives, up to the rounding of other batches.
    first, state = model.extend(images[:1], poses[:1], intrinsics[:1])
    rest, _ = model.extend(images[1:], poses[1:], intrinsics[1:], state)
    assert torch.allclose(torch.cat([first, rest]), depth, rtol=1e-3)


@pytest.mark.parametrize("name", ["depth-anything", "dpt"])
def test_pictures_and_predictions_are_those_of_transformers(
    folders: dict[str, Path], name: str
) -> None:
    images, _, _ = clip(2)
    prepare = transformers.AutoImageProcessor.from_pretrained(folders[name])
    model = transformers.AutoModelForDepthEstimation.from_pretrained(folders[name]).eval()
    with torch.no_grad():
        output = model(**prepare(images=list(images.numpy()), return_tensors="pt"))
    there = output.predicted_depth
    found = DepthModel.load(folders[name]).predict(images).values
    height, width = CAMERA.height, CAMERA.width
    wanted = torch.nn.functional.interpolate(there[:, None], (height, width), mode="bilinear")
    assert torch.allclose(found, wanted[:, 0])
    assert float(found.std()) > 0
    # transformers' own way back is bicubic: close, and not below 0 by our choice.
    own = prepare.post_process_depth_estimation(output, target_sizes=[(height, width)] * 2)
    far = (torch.stack([each["predicted_depth"] for each in own]) - found).abs().max()
    assert far < 0.2 * float(found.max() - found.min()) + 1e-6


def test_zoes_border_goes_again(folders: dict[str, Path]) -> None:
    """A ramp across picture and border comes back as the ramp of the picture alone."""
    model = DepthModel.load(folders["zoe"])
    images, _, _ = clip(1)
    border = int((CAMERA.width / 2) ** 0.5 * 3)
    whole = CAMERA.width + 2 * border
    ramp = torch.arange(whole) + 0.5

    class Ramp(torch.nn.Module):
        config = model.model.config

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, pixel_values: Tensor) -> Any:
            return type("Output", (), {"predicted_depth": ramp.expand(1, 4, whole)})

    found = DepthModel(Ramp(), model.prepare, True).predict(images).values
    assert torch.allclose(found[0, 5], ramp[border : border + CAMERA.width])


def test_depth_pro_takes_the_focal_length_that_is_known(folders: dict[str, Path]) -> None:
    model = DepthModel.load(folders["depth-pro"])
    images, _, intrinsics = clip(2)
    once = model.predict(images, intrinsics).values
    twice = intrinsics.clone()
    twice[:, [0, 1], [0, 1]] *= 2
    assert (once > 0).any()
    assert torch.allclose(model.predict(images, twice).values, 2 * once)
    ratios = (model.predict(images).values / once)[0][once[0] > 0]  # a focal length of its own
    assert ratios.min() > 0
    assert torch.allclose(ratios, ratios[0], rtol=1e-3)


def test_without_poses(folders: dict[str, Path]) -> None:
    images, poses, _ = clip()
    relative, metric = (DepthModel.load(folders[n]) for n in ("depth-anything", "metric-anything"))
    assert torch.equal(metric(images), metric.predict(images).values)
    alone = DepthModel(relative.model, relative.prepare, False, Alignment(median=3.0))(images[:1])
    assert alone[alone > 0].median() == pytest.approx(3.0, rel=0.05)
    with pytest.raises(LociError, match="differs in scale from frame to frame; give poses"):
        relative(images)
    with pytest.raises(LociError, match="poses without intrinsics"):
        metric(images, poses)


@pytest.mark.parametrize(
    ("value", "words"),
    [(float("nan"), "NaN or infinity for frame 0"), (-9.0, "nothing but zeros for frame 0")],
)
def test_a_broken_model_says_so_in_a_line(
    folders: dict[str, Path], value: float, words: str
) -> None:
    model = DepthModel.load(folders["depth-anything"])
    list(model.model.parameters())[-1].data.fill_(value)
    with pytest.raises(LociError, match=f"the depth model predicts {words}") as caught:
        model(*clip())
    assert "\n" not in str(caught.value)


def test_files_that_are_missing(folders: dict[str, Path], tmp_path: Path) -> None:
    lines = {
        str(tmp_path / "nowhere"): "no depth model at .*nowhere; check the path",
        str(tmp_path): "no depth model '.*': ",
        "nobody/no-such-model": "give its folder, or allow the download",
    }
    for name, words in lines.items():
        with pytest.raises(LociError, match=words) as caught:
            DepthModel.load(name)
        assert "\n" not in str(caught.value)


def test_weights_that_are_missing(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in folders["dpt"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    unused = [n for n in weights if "fusion_stage.layers.0.residual_layer1" in n]
    assert unused
    kept = {n: w for n, w in weights.items() if n not in unused}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    DepthModel.load(tmp_path)  # published files lack these, too
    kept = {n: w for n, w in kept.items() if not n.startswith("head.")}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(LociError, match=r"lacks \d+ weights \(head\."):
        DepthModel.load(tmp_path)


def test_a_damaged_file(folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders["dpt"].iterdir():
        kept = 2000 if file.name == "model.safetensors" else None
        (tmp_path / file.name).write_bytes(file.read_bytes()[:kept])
    with pytest.raises(LociError, match="give a folder with all files of one") as caught:
        DepthModel.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_a_model_predicts_has_to_be_known(tmp_path: Path) -> None:
    transformers.ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(LociError, match="is a vit, and whether it predicts metres is not known"):
        DepthModel.load(tmp_path)
    with pytest.raises(LociError, match="no depth model"):
        DepthModel.load(tmp_path, metric=True)


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"pip install 'loci-memory\[depth\]'"):
        DepthModel.load("anything")
