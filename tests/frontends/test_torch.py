"""PyTorch front end: outputs against torch, and programs that must be refused."""

from __future__ import annotations

import shutil
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from tests.networks import run_relax
from tvm_costmodel.errors import ModelFileError, UnsupportedOperatorError
from tvm_costmodel.frontends import load_model
from tvm_costmodel.frontends.relax.export import from_relax
from tvm_costmodel.frontends.torch_export import from_torch, load_exported, torch_to_relax


class ConvNet(nn.Module):
    """Depthwise separable block with a residual, pooling and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu6(self.norm(self.stem(x)))
        x = x + nn.functional.silu(self.pointwise(self.depthwise(x)))
        return self.classifier(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class ViTBlock(nn.Module):
    """Patches, a class token, one pre-norm encoder block, the class token's logits."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.attention_norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))
        self.head = nn.Linear(width, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        y = self.attention_norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.mlp(self.mlp_norm(x))
        return self.head(x[:, 0])


class NegativeIndices(nn.Module):
    """Every way to count from the end."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("picked", torch.tensor([-1, 0, -2]))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        gathered = torch.gather(x, 1, self.picked.view(1, 3, 1).expand(2, 3, 4) * 0 + 1)
        return (
            x[:, -1],
            x[:, -2:],
            x.select(-1, -3),
            x[:, self.picked],
            x[..., [-1, 0]],
            torch.roll(x, 1, dims=1),
            gathered,
        )


class Resized(nn.Module):
    """Resizing by scales and sizes that do not divide, with and without antialiasing."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        resize = nn.functional.interpolate
        return (
            resize(x, size=(11, 23)),
            resize(x, scale_factor=(1.3, 0.7)),
            resize(x, scale_factor=(1.3, 0.7), mode="bilinear"),
            resize(x, size=(5, 7), mode="bilinear", antialias=True),
        )


class Sampled(nn.Module):
    """A convolution, and its image sampled at points of a grid."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 1)
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("grid", torch.rand(1, 5, 6, 2, generator=generator) * 2.4 - 1.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.grid_sample(self.convolution(x), self.grid, align_corners=False)


IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def randomised(module: nn.Module) -> nn.Module:
    """Evaluation mode, with batch statistics that are not 0 and 1."""
    torch.manual_seed(0)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return module.eval()


@pytest.mark.parametrize(
    ("module", "example"),
    [
        (ConvNet(), IMAGE),
        (ViTBlock(), IMAGE),
        (NegativeIndices(), torch.randn(2, 5, 4)),
        (Resized(), IMAGE),
        (Sampled(), IMAGE),
    ],
    ids=["ConvNet", "ViTBlock", "NegativeIndices", "Resized", "Sampled"],
)
def test_outputs_equal_torch(module: nn.Module, example: torch.Tensor):
    module = randomised(module)
    mod = torch_to_relax(torch.export.export(module, (example,)))
    expected = module(example)
    expected = expected if isinstance(expected, tuple) else (expected,)
    actual = run_relax(mod, [example.numpy()], fast=True)
    assert len(actual) == len(expected)
    for got, want in zip(actual, expected, strict=True):
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_graph_of_a_convolutional_network():
    graph = from_torch(ConvNet(), (IMAGE,))
    assert graph.unknown_ops == ()
    counts = {name: [op.op for op in graph.operators].count(name) for name in ("conv2d", "dense")}
    assert counts == {"conv2d": 3, "dense": 1}
    depthwise = [op for op in graph.operators if op.op == "conv2d"][1]
    assert depthwise.attrs["groups"] == 8
    assert depthwise.weights[0].shape == (8, 1, 3, 3)


def test_vit_block_has_only_known_operators():
    assert from_torch(ViTBlock(), (IMAGE,)).unknown_ops == ()


def test_module_program_and_file_give_the_same_graph(tmp_path):
    module = ConvNet().eval()
    program = torch.export.export(module, (IMAGE,))
    path = tmp_path / "net.pt2"
    torch.export.save(program, path)
    shutil.copyfile(path, tmp_path / "net.model")
    expected = from_torch(program).hash
    assert load_model(tmp_path / "net.model").graph.hash == expected  # known by its content
    assert from_torch(module, (IMAGE,)).hash == expected
    assert from_torch(path).hash == expected
    assert from_relax(torch_to_relax(str(path))).hash == expected


def test_module_is_exported_for_inference_and_left_as_it_was():
    module = ConvNet().train()
    graph = from_torch(module, (IMAGE,))
    assert module.training and module.norm.training
    assert graph.hash == from_torch(ConvNet().eval(), (IMAGE,)).hash


def test_dynamic_batch_needs_a_shape():
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        ConvNet().eval(), (torch.randn(2, 3, 16, 16),), dynamic_shapes={"x": {0: batch}}
    )
    with pytest.raises(ModelFileError) as error:
        torch_to_relax(program)
    assert "--shape x=1,3,16,16" in str(error.value)
    assert "\n" not in str(error.value)
    graph = from_torch(program, shapes={"x": (4, 3, 16, 16)})
    assert graph.operators[0].outputs[0].shape == (4, 3, 16, 16)
    assert not graph.is_dynamic
    with pytest.raises(ModelFileError, match=r"does not fit the model's x .s\d+, 3, 16, 16."):
        torch_to_relax(program, shapes={"x": (4, 3, 16, 17)})
    with pytest.raises(ModelFileError, match="no input is called image; its inputs are x"):
        torch_to_relax(program, shapes={"image": (4, 3, 16, 16)})


def test_batches_outside_of_the_exported_range_are_refused():
    batch = torch.export.Dim("batch", min=2, max=16)
    program = torch.export.export(
        nn.ReLU(), (torch.randn(2, 4),), dynamic_shapes={"input": {0: batch}}
    )
    assert from_torch(program, shapes={"input": (16, 4)}).operators[0].outputs[0].shape == (16, 4)
    for extent in (1, 17):
        with pytest.raises(ModelFileError, match=f"input={extent},4 .* exported for 2 to 16"):
            from_torch(program, shapes={"input": (extent, 4)})


def test_outputs_that_are_none_are_left_out():
    class Parts(nn.Module):
        def forward(self, x: torch.Tensor) -> dict:
            return {"twice": x * 2, "none": None, "pair": (None, x.squeeze(-1))}

    x = torch.randn(2, 3, 1)
    outputs = run_relax(torch_to_relax(Parts(), (x,)), [x.numpy()], fast=True)
    assert [a.shape for a in outputs] == [(2, 3, 1), (2, 3)]
    np.testing.assert_array_equal(outputs[0], 2 * x.numpy())
    np.testing.assert_array_equal(outputs[1], x.numpy()[..., 0])


def test_training_mode_is_refused():
    program = torch.export.export(ConvNet().train(), (torch.randn(2, 3, 16, 16),))
    with pytest.raises(ModelFileError, match=r"training mode .*call model.eval\(\)"):
        from_torch(program)


def test_weights_on_the_meta_device_are_refused():
    with torch.device("meta"):
        module, example = ConvNet(), torch.randn(1, 3, 16, 16)
    with pytest.raises(ModelFileError, match="weights are on the meta device"):
        from_torch(module, (example,))


def test_unsupported_operators_are_listed_at_once():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x) + torch.linalg.det(x).sum()

    with pytest.raises(UnsupportedOperatorError, match=r"_linalg_det.default, special_bessel_j0"):
        from_torch(Odd(), (torch.randn(3, 4, 4),))


def test_control_flow_that_torch_cannot_trace():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ModelFileError, match=r"Branching: torch.export cannot trace it") as error:
        from_torch(Branching(), (torch.randn(3),))
    assert "\n" not in str(error.value)


def test_what_is_no_model():
    with pytest.raises(ModelFileError, match="pass example_inputs"):
        from_torch(ConvNet())
    with pytest.raises(ModelFileError, match="Tensor is no PyTorch model"):
        from_torch(IMAGE)


def test_bad_files(tmp_path):
    good, bad = tmp_path / "good.pt2", tmp_path / "bad.pt2"
    torch.export.save(torch.export.export(ConvNet().eval(), (IMAGE,)), good)
    bad.write_bytes(good.read_bytes()[:3000])
    with pytest.raises(ModelFileError, match=r"not a .pt2 archive, or truncated"):
        from_torch(bad)
    torch.save(ConvNet().state_dict(), bad)
    with pytest.raises(ModelFileError, match="no exported program"):
        from_torch(bad)
    with pytest.raises(ModelFileError, match="there is no such file"):
        from_torch(tmp_path / "none.pt2")


def test_pickled_objects_are_refused_and_never_run(tmp_path):
    good, bad, marker = tmp_path / "good.pt2", tmp_path / "bad.pt2", tmp_path / "marker"
    torch.export.save(torch.export.export(ConvNet().eval(), (IMAGE,)), good)

    class Bomb:
        def __reduce__(self):
            return open, (str(marker), "w")

    pickled = tmp_path / "bomb.pt"
    torch.save(((Bomb(),), {}), pickled)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            is_input = "sample_inputs" in entry.filename
            target.writestr(entry, pickled.read_bytes() if is_input else content)
    marker.unlink(missing_ok=True)
    with pytest.raises(ModelFileError, match="holds pickled Python objects"):
        load_exported(bad)
    assert not marker.exists()
