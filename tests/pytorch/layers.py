"""Writes layers.safetensors: every layer by itself, to first and to second order.

    python layers.py

For a layer y = f(x), with draws c (shaped as y) and v (shaped as x), see draws.py:

    s = sum(y c)        .dx  = ds/dx      .dparam.<name>  = ds/dparam
    P = sum(dx^2 v)     .ddx = dP/dx      .ddparam.<name> = dP/dparam

P is to dx what a gradient penalty is to the critic's input gradient: its derivatives go
through the backward pass of the layer. Derivatives of what P does not depend on are zeros.
Everything is float64 (labels too), every layer is in train mode, every layer is called
exactly once. Parameters are named as in the layer's state_dict.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils import spectral_norm

from draws import classes, draw
from models import ConditionalBatchNorm
from reference import save

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


class Compose(nn.Module):
    """Branches of several kinds, joined along the channels, then a mean over H and W."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)

    def forward(self, x):
        there_and_back = (x + torch.tanh(x)).flatten(1).reshape(x.shape)
        return torch.cat([self.conv(x), x * x, there_and_back], dim=1).mean((2, 3))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.GroupNorm(1, 4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(F.silu(self.norm(self.conv1(F.silu(x)))))


class Projection(nn.Module):
    """Features (batch, 4) and labels to one score a sample, shape (batch,)."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 1)
        self.embedding = nn.Embedding(3, 4)

    def forward(self, h, labels):
        return self.fc(h).squeeze(1) + (self.embedding(labels) * h).sum(1)


# name: the layer, the shape of x.
CASES = {
    "linear": (nn.Linear(5, 3), (2, 5)),
    "linear_no_bias": (nn.Linear(5, 3, bias=False), (2, 5)),
    "conv2d": (nn.Conv2d(3, 4, 3, padding=1), (2, 3, 5, 4)),
    "conv2d_stride": (nn.Conv2d(2, 3, 4, stride=2, padding=1), (2, 2, 6, 8)),
    # The last row of x is reached by no window.
    "conv2d_unreached": (nn.Conv2d(2, 3, 3, stride=2), (2, 2, 6, 5)),
    "conv2d_asymmetric": (
        nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
        (2, 2, 6, 5),
    ),
    "conv2d_groups": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (2, 4, 5, 4)),
    "conv2d_no_bias": (nn.Conv2d(3, 2, 1, bias=False), (2, 3, 5, 4)),
    "conv_transpose2d": (nn.ConvTranspose2d(3, 2, 4, stride=2, padding=1), (2, 3, 3, 2)),
    "conv_transpose2d_first": (nn.ConvTranspose2d(5, 4, 4, 1, 0), (2, 5, 1, 1)),
    "conv_transpose2d_output_padding": (
        nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=1),
        (2, 3, 3, 2),
    ),
    "conv_transpose2d_asymmetric": (
        nn.ConvTranspose2d(
            2, 3, (3, 4), stride=(2, 3), padding=(1, 0), output_padding=(1, 2)
        ),
        (2, 2, 3, 2),
    ),
    "conv_transpose2d_groups": (
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2),
        (2, 4, 3, 2),
    ),
    "conv_transpose2d_dilation": (
        nn.ConvTranspose2d(2, 3, 3, stride=2, dilation=2, padding=1, bias=False),
        (2, 2, 3, 2),
    ),
    "layer_norm_sample": (nn.LayerNorm([3, 5, 4]), (2, 3, 5, 4)),
    "layer_norm_last": (nn.LayerNorm(6), (2, 3, 6)),
    "group_norm_one": (nn.GroupNorm(1, 4), (2, 4, 5, 4)),
    "group_norm": (nn.GroupNorm(2, 4), (2, 4, 5, 4)),
    "instance_norm": (nn.InstanceNorm2d(3), (2, 3, 5, 4)),
    "instance_norm_affine": (nn.InstanceNorm2d(3, affine=True), (2, 3, 5, 4)),
    "batch_norm": (nn.BatchNorm2d(3), (3, 3, 2, 2)),
    "conditional_batch_norm": (ConditionalBatchNorm(3, 4), (3, 3, 2, 2)),
    "relu": (nn.ReLU(), (2, 3, 4)),
    "leaky_relu": (nn.LeakyReLU(0.2), (2, 3, 4)),
    "prelu": (nn.PReLU(), (2, 3, 4)),
    "prelu_channels": (nn.PReLU(3), (2, 3, 4)),
    "elu": (nn.ELU(), (2, 3, 4)),
    "silu": (nn.SiLU(), (2, 3, 4)),
    "softplus": (nn.Softplus(), (2, 3, 4)),
    "tanh": (nn.Tanh(), (2, 3, 4)),
    "sigmoid": (nn.Sigmoid(), (2, 3, 4)),
    "avg_pool2d": (nn.AvgPool2d(2), (2, 3, 5, 4)),
    # The zeros of the padding count in the mean (count_include_pad, PyTorch's default).
    "avg_pool2d_stride": (nn.AvgPool2d(3, stride=2, padding=1), (2, 3, 5, 4)),
    "upsample": (nn.Upsample(scale_factor=2, mode="nearest"), (2, 3, 3, 2)),
    "upsample_asymmetric": (nn.Upsample(scale_factor=(2, 3)), (2, 3, 3, 2)),
    "pixel_shuffle": (nn.PixelShuffle(2), (2, 8, 3, 2)),
    "compose": (Compose(), (2, 2, 5, 4)),
    "residual": (Residual(), (2, 4, 5, 4)),
    "spectral_linear": (spectral_norm(nn.Linear(5, 3)), (2, 5)),
    "spectral_conv2d": (spectral_norm(nn.Conv2d(2, 3, 3, padding=1)), (2, 2, 5, 4)),
    # The matrix whose largest singular value is estimated has the OUTPUT channels as rows.
    "spectral_conv_transpose2d": (
        spectral_norm(nn.ConvTranspose2d(2, 3, 4, 2, 1)),
        (2, 2, 3, 2),
    ),
    "projection": (Projection(), (2, 4)),
}

# The number of classes of the layers that take labels.
NUM_CLASSES = {"conditional_batch_norm": 4, "projection": 3}

# Batch statistics have no second-order reference: a critic's samples must not mix.
FIRST_ORDER_ONLY = {"batch_norm", "conditional_batch_norm"}


def initial_parameter(case, module, name, shape):
    """The value of the parameter `name` of `module`."""
    owner_name, _, leaf = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    value = draw(f"{case}.{name}", shape)
    if isinstance(owner, (*NORMS, ConditionalBatchNorm)) and leaf == "weight":
        return 1 + 0.5 * value
    if case == "prelu":
        return torch.full(shape, 0.25)
    return value if len(shape) >= 2 else 0.5 * value


def gradients(of, wrt):
    """Gradients of the scalar `of`, still differentiable; zeros for what it ignores."""
    if not of.requires_grad:
        return [torch.zeros_like(w) for w in wrt]
    return torch.autograd.grad(
        of, wrt, create_graph=True, allow_unused=True, materialize_grads=True
    )


def section(case, module, x_shape):
    out = {}
    module.train()
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(initial_parameter(case, module, name, tuple(p.shape)))
            out[f"param.{name}"] = p.clone()
        for name, b in module.named_buffers():
            # The singular vectors of a spectral norm; running statistics keep 0 and 1.
            if name.endswith(("weight_u", "weight_v")):
                b.copy_(F.normalize(draw(f"{case}.{name}", tuple(b.shape)), dim=0))
                out[f"buffer.{name}"] = b.clone()

    x = (1.5 * draw(f"{case}.x", x_shape)).requires_grad_(True)
    arguments = [x]
    if case in NUM_CLASSES:
        labels = classes(f"{case}.labels", x_shape[0], NUM_CLASSES[case])
        out["labels"] = labels.double()
        arguments.append(labels)
    y = module(*arguments)
    c = draw(f"{case}.c", tuple(y.shape))
    v = draw(f"{case}.v", x_shape)
    out.update(x=x, c=c, v=v, y=y)

    names = [name for name, _ in module.named_parameters()]
    params = list(module.parameters())
    dx, *dparams = gradients((y * c).sum(), [x, *params])
    out["dx"] = dx
    out.update({f"dparam.{n}": d for n, d in zip(names, dparams)})
    if case not in FIRST_ORDER_ONLY:
        ddx, *ddparams = gradients((dx * dx * v).sum(), [x, *params])
        out["ddx"] = ddx
        out.update({f"ddparam.{n}": d for n, d in zip(names, ddparams)})

    for name, b in module.named_buffers():
        if not name.endswith("num_batches_tracked"):
            out[f"after.{name}"] = b
    return {f"{case}.{key}": value for key, value in out.items()}


if __name__ == "__main__":
    tensors = {}
    for case, (module, x_shape) in CASES.items():
        tensors.update(section(case, module, x_shape))
    save("layers.safetensors", tensors)
