"""Turns the public weights of the Fréchet Inception distance into the file that `wgan::metrics::Inception::load` reads.

    python3 tools/convert_inception.py pt_inception-2015-12-05-6726825d.pth inception-2015-12-05.safetensors

The first is pytorch-fid's file of TensorFlow's network of 5 December 2015; torch-fidelity publishes the same tensors as
weights-inception-2015-12-05-6726825d.pth. Names and shapes stay as they are:

    Conv2d_1a_3x3.conv.weight                      (32, 3, 3, 3)
    Conv2d_1a_3x3.bn.{weight,bias,running_mean,running_var}  (32,)
    ... four more units of the stem, seven in each of Mixed_5b to 5d, four in 6a, ten in each of 6b to 6e, six in 7a, nine in
    each of 7b and 7c ...
    fc.weight (1008, 2048), fc.bias (1008,)

Needs torch and safetensors.
"""

import sys

import torch
from safetensors.torch import save_file

UNITS = 94


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = sys.argv[1:]
    state = torch.load(source, map_location="cpu", weights_only=True)
    tensors = {
        name: value.to(torch.float32).contiguous()
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }
    if len(tensors) != 5 * UNITS + 2 or tuple(tensors["fc.weight"].shape) != (1008, 2048):
        sys.exit(f"{source}: {len(tensors)} tensors; expected {5 * UNITS + 2}, fc.weight of (1008, 2048) among them")
    save_file(tensors, target)


if __name__ == "__main__":
    main()
