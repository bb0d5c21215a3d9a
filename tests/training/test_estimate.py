"""What a run takes is known before it begins: counted on the meta device, and found again in a run.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from loci.commands.main import main
from loci.errors import LociError
from loci.recipes.registry import recipes
from loci.training.ema import Ema
from loci.training.estimate import Kept, estimate
from loci.training.muon import build_optimizer
from loci.training.world import WorldRun
from small_policy import small as small_policy
from small_rooms import small


def real(config: WorldRun, frames: int | None = None) -> tuple[torch.nn.Module, int]:
    """A step on the CPU: the module with its gradients, and the bytes that were kept for it."""
    task = config.sketch(frames)
    batch = task.batch(0)
    task.module.to_empty(device="cpu")
    with torch.no_grad():
        for value in [*task.module.parameters(), *task.module.buffers()]:
            if value.is_floating_point():
                value.normal_(std=0.02)
    kept = Kept(task.module)
    before = torch.get_float32_matmul_precision()
    try:
        # With exact products attention is torch's fused kernel, as on a GPU.
        torch.set_float32_matmul_precision("highest")
        with kept:
            task.loss(batch)[0].sum().backward()
    finally:
        torch.set_float32_matmul_precision(before)
    return task.module, kept.bytes


@pytest.mark.parametrize(
    ("name", "recompute"),
    [("hybrid", False), ("hybrid", True), ("joint-5", False), ("spmem", False), ("delta", False)],
)
def test_a_step_holds_what_was_counted(name: str, recompute: bool) -> None:
    config = small(name, recompute=recompute)
    found = estimate(config, torch.float32)
    module, kept = real(config)
    if recompute:  # and a third of what three blocks keep otherwise
        full = estimate(small(name), torch.float32).memory["activations"]
        kept += (full - kept) // 3
    assert found.memory["activations"] == pytest.approx(kept, rel=0.02)
    optimizer = build_optimizer(module, config.train)
    optimizer.step()
    held = sum(
        value.numel() * 4 for state in optimizer.state.values()
        for key, value in state.items() if key != "step"
    )
    with_gradient = sum(p.numel() * 4 for p in module.parameters() if p.grad is not None)
    assert found.memory["moments"] == pytest.approx(held, rel=0.05)
    assert found.memory["gradients"] == pytest.approx(with_gradient, rel=0.05)
    averages = Ema(module, 0.9).tensors.values()
    assert found.memory["average"] == sum(value.numel() * 4 for value in averages)
    assert found.memory["weights"] == sum(p.numel() * 4 for p in module.parameters())
    assert found.bytes == sum(found.memory.values())


@pytest.mark.parametrize(("name", "share"), [("hybrid", 0.6), ("map", 0.45)])
def test_recomputing_holds_less_and_computes_more(name: str, share: float) -> None:
    """Blocks beside the chunk, which read a map, included."""
    plain, again = (estimate(small(name, recompute=r), torch.float32) for r in (False, True))
    assert again.memory["activations"] < share * plain.memory["activations"]
    assert plain.flops < again.flops < 1.5 * plain.flops


def test_a_policy_is_counted_too(tmp_path: Path) -> None:
    config = small_policy(tmp_path, video=0.5)
    found = estimate(config, torch.float32, frames=6)
    assert found.memory["activations"] == pytest.approx(real(config, 6)[1], rel=0.02)
    with pytest.raises(LociError, match="give --frames"):
        estimate(config, torch.float32)


def test_processes_share_the_weights_and_the_batch() -> None:
    one, two, four = (estimate(small("hybrid"), torch.bfloat16, count) for count in (1, 2, 4))
    for name in ("weights", "moments", "average", "gradients"):
        assert two.memory[name] == one.memory[name] // 2
    assert two.memory["activations"] == pytest.approx(one.memory["activations"] / 2, rel=0.1)
    assert one.flops == two.flops == pytest.approx(four.flops)
    assert two.seconds(1e12) == one.seconds(1e12) / 2
    assert "gathered" not in one.memory
    whole = estimate(small("hybrid"), torch.bfloat16, 2, "replicate")
    assert whole.memory["weights"] == one.memory["weights"]
    with pytest.raises(LociError, match="a batch of 4 for 5 processes"):
        estimate(small("hybrid"), torch.bfloat16, 5)


def test_half_precision_holds_less() -> None:
    full, half = (estimate(small("hybrid"), dtype) for dtype in (torch.float32, torch.bfloat16))
    assert 0.5 < half.memory["activations"] / full.memory["activations"] < 0.9
    assert half.flops == full.flops


def test_the_command_says_it_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCI_CACHE", str(tmp_path / "cache"))
    main(["train", "rooms-hybrid", "--dry-run", "--rate", "2", "--processes", "2"])
    said = capsys.readouterr().out
    found = estimate(recipes()["rooms-hybrid"](), torch.float32, 2)
    assert f"rooms-hybrid: {found.parameters:,} parameters" in said
    assert "a step: 4 samples" in said
    assert "1,000 steps: 0.00 hours at 2 TFLOP/s a process (given)" in said
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit):
        main(["train", "rooms-hybrid"])
    assert "give --out DIR" in capsys.readouterr().err


@pytest.mark.slow
def test_a_paper_has_its_size() -> None:
    """MemoryWAM: 5.0 billion parameters and an expert of 1.02, about 16 bytes each in training."""
    found = estimate(recipes()["memorywam"](), torch.bfloat16, 8, frames=10)
    assert found.trained == pytest.approx(6.02e9, rel=1e-3)
    state = sum(found.memory[name] for name in ("weights", "gradients", "moments")) * 8
    assert state == pytest.approx(16 * 6.02e9 + 4 * (found.parameters - found.trained), rel=1e-3)
    longer = estimate(recipes()["memorywam"](), torch.bfloat16, 8, frames=20)
    assert longer.memory["activations"] < 2.2 * found.memory["activations"]
