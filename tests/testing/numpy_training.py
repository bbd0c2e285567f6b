"""A network of three dense layers trained in NumPy (float64): what strategies are compared with.

Every strategy is written down from its formula, without anything of the package.
"""

import numpy as np

BASE, MOMENTUM, GAMMA, DECAY = 0.05, 0.9, 0.8, 0.02
ALPHA, BETA = 0.3, 0.04
BATCH, EXAMPLES = 8, 16  # two steps an epoch
LAYERS = ("body1", "body2", "head")
PATHS = tuple(f"{layer}/{kind}" for layer in LAYERS for kind in ("kernel", "bias"))

Weights = dict[str, np.ndarray]


def gradients(weights: Weights, x: np.ndarray, y: np.ndarray) -> Weights:
    """Of the mean negative log-likelihood; ReLU behind the first two layers."""
    inputs, masks = [x], []
    for layer in LAYERS[:2]:
        z = inputs[-1] @ weights[f"{layer}/kernel"] + weights[f"{layer}/bias"]
        masks.append(z > 0)
        inputs.append(np.maximum(z, 0))
    z = inputs[-1] @ weights["head/kernel"] + weights["head/bias"]
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    back = (p - np.eye(z.shape[1])[y]) / len(x)
    found = {}
    for layer, values, mask in zip(LAYERS[::-1], inputs[::-1], [*masks[::-1], None], strict=True):
        found[f"{layer}/kernel"] = values.T @ back
        found[f"{layer}/bias"] = back.sum(0)
        if mask is not None:
            back = back @ weights[f"{layer}/kernel"].T * mask
    return found


def is_kernel(path: str) -> bool:
    return path.endswith("kernel")


class Sgd:
    """Momentum with the rate inside the velocity."""

    def __init__(self):
        self.velocity = dict.fromkeys(PATHS, 0.0)

    def step(self, path, w, g, rate):
        self.velocity[path] = MOMENTUM * self.velocity[path] - rate * g
        return w + self.velocity[path]


class Adam:
    def __init__(self):
        self.m, self.s = dict.fromkeys(PATHS, 0.0), dict.fromkeys(PATHS, 0.0)
        self.t = dict.fromkeys(PATHS, 0)

    def step(self, path, w, g, rate):
        self.t[path] += 1
        self.m[path] = 0.9 * self.m[path] + 0.1 * g
        self.s[path] = 0.999 * self.s[path] + 0.001 * g * g
        m, s = self.m[path] / (1 - 0.9 ** self.t[path]), self.s[path] / (1 - 0.999 ** self.t[path])
        return w - rate * m / (np.sqrt(s) + 1e-8)


def decayed(path, w, g, start):
    return g + DECAY * w if is_kernel(path) else g


def lightly_decayed(path, w, g, start):
    return g + 1e-4 * w if is_kernel(path) else g


def undecayed(path, w, g, start):
    return g


def l2_sp(path, w, g, start):
    if not is_kernel(path):
        return g
    return g + BETA * w if path.startswith("head") else g + ALPHA * (w - start)


def l1_sp(path, w, g, start):
    if not is_kernel(path):
        return g
    return g + BETA * w if path.startswith("head") else g + ALPHA * np.sign(w - start)


def rgn(weights: Weights, batches) -> dict[str, float]:
    """Relative gradient norms over the greatest; a bias of zeros goes with its kernel."""
    ratio = {}
    for path, w in weights.items():
        norm = np.sqrt((w**2).sum())
        if norm >= 1e-8:
            norms = [np.sqrt((gradients(weights, *b)[path] ** 2).sum()) for b in batches]
            ratio[path] = np.mean(norms) / norm
    top = max(ratio.values())
    return {p: ratio.get(p, ratio[f"{p.split('/')[0]}/kernel"]) / top for p in weights}


def snr(weights: Weights, batches) -> dict[str, float]:
    """1 for tensors whose gradient is large beside its variance over output channels."""
    found = {}
    for path in weights:
        values = []
        for batch in batches:
            g = gradients(weights, *batch)[path]
            values.append(np.mean(g**2 / (np.var(g, axis=-1, ddof=1, keepdims=True) + 1e-8)))
        found[path] = float(np.mean(values) >= 0.95)
    return found


def staircase(epoch, epochs):
    return BASE * GAMMA**epoch


def cosine(epoch, epochs):
    return BASE * 0.5 * (1 + np.cos(np.pi * epoch / epochs))


# Stages of five epochs in all: layers that move, epochs, optimizer, gradient, schedule, factors.
STAGES = {
    "ft": [(LAYERS, 5, Sgd, decayed, staircase, None)],
    "lp_ft": [(LAYERS, 5, Sgd, undecayed, cosine, None)],  # after the probe
    "g_lf": [
        (LAYERS[2:], 1, Sgd, decayed, staircase, None),
        (LAYERS[1:], 1, Sgd, decayed, staircase, None),
        (LAYERS, 3, Sgd, decayed, staircase, None),
    ],
    "g_fl": [
        (LAYERS[2:], 1, Sgd, decayed, staircase, None),
        (LAYERS[::2], 1, Sgd, decayed, staircase, None),
        (LAYERS, 3, Sgd, decayed, staircase, None),
    ],
    "l2_sp": [(LAYERS, 5, Sgd, l2_sp, staircase, None)],
    "l1_sp": [(LAYERS, 5, Sgd, l1_sp, staircase, None)],
    "auto_rgn": [(LAYERS, 5, Adam, lightly_decayed, staircase, rgn)],
    "auto_snr": [(LAYERS, 5, Adam, lightly_decayed, staircase, snr)],
}


def train(name: str, weights: Weights, x, y, order, scores, first: int = 0) -> list[Weights]:
    """Weights after every epoch; each stage begins with the best weights of the one before.

    ``order`` gives the examples of an epoch, counted over the run from ``first``; ``scores`` are
    those of the epochs.
    """
    weights = {path: w.astype(np.float64) for path, w in weights.items()}
    history: list[Weights] = []
    for layers, epochs, kind, gradient, schedule, factors in STAGES[name]:
        start, optimizer = dict(weights), kind()
        best, best_score = weights, -np.inf
        for epoch in range(epochs):
            rows = order(first + len(history)).reshape(-1, BATCH)
            batches = [(x[r].astype(np.float64), y[r]) for r in rows]
            factor = dict.fromkeys(weights, 1.0)
            if factors:
                factor, optimizer = factors(weights, batches[:5]), kind()
            for batch in batches:
                g = gradients(weights, *batch)
                weights = dict(weights)
                for path in [p for p in PATHS if p.split("/")[0] in layers]:
                    full = gradient(path, weights[path], g[path], start[path])
                    rate = schedule(epoch, epochs) * factor[path]
                    weights[path] = optimizer.step(path, weights[path], full, rate)
            if scores[len(history)] > best_score:
                best, best_score = weights, scores[len(history)]
            history.append(weights)
        weights = best
    return history
