"""Figures of sample quality and features of Inception-v3, by the packages that the field computes them with.

Writes metrics.json and inception.safetensors. The arrays are draws by name (draws.py), which the Rust tests make too.

Needs scipy, scikit-learn, prdc, pytorch-msssim, torch-fidelity and what that imports (torchvision, pillow), but no weights:
the network gets drawn ones.
"""

import json
import pathlib
import tempfile

import numpy as np
import prdc
import pytorch_msssim
import scipy.linalg
import scipy.spatial
import scipy.stats
import torch
from safetensors.torch import save_file
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kernel_mmd

from draws import classes, draw

HERE = pathlib.Path(__file__).parent
DIMS = 24


def points(name, count, dims=DIMS):
    """Correlated features, a part of them 0 as after a ReLU."""
    mixed = draw(name, (count, dims)) @ draw("metrics/mixing", (dims, dims))
    return mixed.relu().numpy()


def frechet(a, b):
    def statistics(x):
        return {"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)}

    distance = fid_statistics_to_metric(statistics(a), statistics(b), False)["frechet_inception_distance"]
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    by_scipy = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * root)
    assert abs(distance - by_scipy) < 1e-8, (distance, by_scipy)
    return float(distance)


def frechet_of_few(a, b):
    """By the nuclear norm of the product of the centred points, which no square root of a covariance is needed for."""
    centred = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    trace = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + sum((x**2).sum() for x in centred) - 2 * trace)


def kernel(real, generated, degree, gamma, coefficient):
    settings = {"degree": degree, "gamma": gamma, "coef0": coefficient}
    settings = {f"kid_kernel_poly_{name}": value for name, value in settings.items()}
    return float(kernel_mmd(real, generated, kid_kernel="poly", **settings))


def inception_score(splits):
    logits = 4 * draw("metrics/logits", (103, 7))
    found = isc_features_to_metric(logits, splits=splits, shuffle=False)
    return [float(found["inception_score_mean"]), float(found["inception_score_std"])]


def quality():
    real, generated = points("metrics/real", 400), points("metrics/generated", 300)
    few = points("metrics/few", 9)
    figures = {
        "frechet": frechet(real, generated),
        "frechet_few": frechet_of_few(few, generated),
        "frechet_few_few": frechet_of_few(few, points("metrics/fewer", 5)),
        "kernel": kernel(real[:300], generated, 3, None, 1),
        "kernel_other": kernel(real[:300], generated, 2, 0.5, 0.25),
        "inception_score_1": inception_score(1),
        "inception_score_10": inception_score(10),
    }
    # The nuclear norm and the square root agree where both are well defined.
    assert abs(frechet_of_few(real, generated) - figures["frechet"]) < 1e-8
    for k in (3, 5):
        found = prdc.compute_prdc(real, generated, nearest_k=k)
        figures[f"prdc_{k}"] = [float(found[name]) for name in ("precision", "recall", "density", "coverage")]
    return figures


def coverage_of_mixture(samples, centres, sigma):
    """Modes with a sample within 3 sigma, the share of such samples, and the divergence of the nearest centres of all."""
    distances = scipy.spatial.distance.cdist(samples, centres)
    nearest, good = distances.argmin(1), distances.min(1) <= 3 * sigma
    shares = np.bincount(nearest, minlength=len(centres)) / len(samples)
    divergence = scipy.stats.entropy(shares, np.full(len(centres), 1 / len(centres)))
    return [len(np.unique(nearest[good])), float(good.mean()), float(divergence)]


def coverage_of_classes(labels, real):
    shares = np.bincount(labels, minlength=len(real)) / len(labels)
    return [len(np.unique(labels)), float(scipy.stats.entropy(shares, real))]


def modes():
    centres = 3 * draw("metrics/centres", (15, 2)).numpy()
    # More of them on one side, and a part of the modes with no sample near.
    samples = 3 * draw("metrics/samples_of_modes", (400, 2)).numpy()
    samples = np.where(samples > 1, samples - 2, samples)
    labels = classes("metrics/classes", 80, 50).numpy()
    real = draw("metrics/shares", (50,)).numpy() + 1.5
    return {
        "coverage_of_mixture": coverage_of_mixture(samples, centres, 0.15),
        "coverage_of_classes": coverage_of_classes(labels, real / real.sum()),
    }


def images(name, height, width):
    return draw(name, (2, 3, height, width))


def similarity():
    x, noise = images("metrics/images", 165, 171), images("metrics/noise", 165, 171)
    y = 0.8 * x + 0.2 * noise
    # The package makes its window in float32.
    window = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    window = (window / window.sum()).repeat(3, 1, 1, 1)
    settings = {"data_range": 2.0, "size_average": False, "win": window}
    # The package has black at 0.
    x, y = x + 1, y + 1
    small, other = x[:, :, :21, :24], y[:, :, :21, :24]
    # A little contrast about the middle between black and white.
    grey, nearby = 0.02 * x + 0.98, 0.02 * y + 0.98
    return {
        "ms_ssim_5": pytorch_msssim.ms_ssim(x, y, **settings).tolist(),
        "ms_ssim_1": pytorch_msssim.ssim(small, other, nonnegative_ssim=True, **settings).tolist(),
        "ms_ssim_grey": pytorch_msssim.ms_ssim(grey, nearby, **settings).tolist(),
    }


def weights():
    """Drawn weights for every tensor of the public file, of such sizes that signals neither vanish nor explode."""
    with tempfile.TemporaryDirectory() as folder:
        # The names and shapes without the download.
        original = FeatureExtractorInceptionV3.load_state_dict
        names = {}

        def keep(self, _):
            names.update({name: tuple(value.shape) for name, value in self.state_dict().items()})

        FeatureExtractorInceptionV3.load_state_dict = keep
        torch.save({}, f"{folder}/none.pth")
        FeatureExtractorInceptionV3("names", ["2048"], f"{folder}/none.pth")
        FeatureExtractorInceptionV3.load_state_dict = original
    tensors = {}
    for name, shape in names.items():
        if name.endswith("num_batches_tracked"):
            tensors[name] = torch.tensor(1)
            continue
        drawn = draw(f"inception/{name}", shape)
        if len(shape) > 1:
            fan_in = int(np.prod(shape[1:]))
            drawn = drawn * (6 / fan_in) ** 0.5
        elif name.endswith("running_var") or name.endswith("bn.weight"):
            drawn = 1 + 0.5 * drawn
        else:
            drawn = 0.25 * drawn
        tensors[name] = drawn
    return tensors


def inception():
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/weights.pth"
        torch.save({name: value for name, value in weights().items()}, path)
        network = FeatureExtractorInceptionV3("drawn", ["2048", "logits_unbiased"], path)
        network.double()
        network.feature_extractor_internal_dtype = torch.float64
        # Loading went through parameters of float32.
        exact = weights()
        for name, parameter in [*network.named_parameters(), *network.named_buffers()]:
            parameter.data = exact[name].to(parameter.dtype)
        levels = ((draw("inception/images", (2, 3, 40, 31)) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        kept = {}
        network.AvgPool.register_forward_hook(lambda _m, _i, out: kept.update(features=out.flatten(1)))
        network(levels)
        features = kept["features"]
        logits = features @ network.fc.weight.T
        assert logits.dtype == torch.float64
        return {"features": features, "probabilities": logits.softmax(1)}


def main():
    torch.set_num_threads(1)
    figures = quality() | modes() | similarity()
    (HERE / "metrics.json").write_text(json.dumps(figures, indent=1) + "\n")
    save_file({name: value.contiguous() for name, value in inception().items()}, HERE / "inception.safetensors")


if __name__ == "__main__":
    main()
