"""Shows what a checkpoint holds, and checks it with Python's means.

    python read_checkpoint.py runs/mnist_mlp/checkpoints/checkpoint-000500.safetensors

It needs the packages safetensors and numpy alone.
"""

import collections
import hashlib
import json
import sys

from safetensors import safe_open

path = sys.argv[1]
with open(path, "rb") as file:
    content = file.read()
assert hashlib.sha256(content[:-32]).digest() == content[-32:], "the checksum does not fit"

with safe_open(path, "np") as file:
    about = json.loads(file.metadata()["checkpoint"])
    names = list(file.keys())
    assert file.get_tensor("checksum").tobytes() == content[-32:]
    steps = file.get_tensor("history.step")
    estimates = file.get_tensor("history.wasserstein_estimate")
    groups = collections.defaultdict(lambda: [0, 0])
    for name in names:
        group = groups[name.split(".")[0]]
        group[0] += 1
        group[1] += file.get_tensor(name).size

print(f"step {about['generator_steps']}, {about['critic_steps']} steps of the critic")
print(f"strategy {about['config']['lipschitz']}, {about['data']['samples']} samples")
for group, (tensors, numbers) in sorted(groups.items()):
    print(f"{group:20} {tensors:4} tensors {numbers:10} numbers")
if len(steps):
    print(f"the estimate at step {steps[-1]} is {estimates[-1]:.4f}")
