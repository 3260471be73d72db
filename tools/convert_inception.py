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

import pickle
import sys
import zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

UNITS = 94


def read(source):
    """The tensors of a state_dict, by name."""
    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
    except OSError as error:
        sys.exit(f"{source}: {error.strerror or error}")
    except (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, RuntimeError, ValueError, KeyError, IndexError):
        sys.exit(f"{source}: not a file of weights that torch.save has written")
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        sys.exit(f"{source}: holds a {type(state).__name__}; expected tensors by name, a state_dict")
    return state


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = sys.argv[1:]
    tensors = {
        name: value.to(torch.float32).contiguous()
        for name, value in read(source).items()
        if not str(name).endswith("num_batches_tracked")
    }
    shape = tuple(tensors["fc.weight"].shape) if "fc.weight" in tensors else "absent"
    if len(tensors) != 5 * UNITS + 2 or shape != (1008, 2048):
        sys.exit(f"{source}: {len(tensors)} tensors, fc.weight {shape}; expected {5 * UNITS + 2}, fc.weight (1008, 2048)")
    try:
        save_file(tensors, target)
    except (OSError, SafetensorError) as error:
        sys.exit(f"{target}: {error}")


if __name__ == "__main__":
    main()
