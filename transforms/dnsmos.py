"""DNSMOS: what listeners would say of a recording, guessed by Microsoft's two networks.

Reddy et al. 2022, "DNSMOS P.835" (arXiv 2110.01763): overall, speech and background, 1 to 5; Reddy et al. 2021, "DNSMOS" (arXiv
2010.15258): P.808's one figure. Windows, mel front end and the fitted curves are those of the package speechmos 0.0.1.1.
"""

from pathlib import Path

import numpy as np
import onnxruntime

from transforms.mel import mel_power

RATE_HZ = 16000
_WINDOW_S = 9.01
_WINDOW = int(_WINDOW_S * RATE_HZ)
_CURVES = {
    "speech": (-0.08397278, 1.22083953, 0.0052439),
    "background": (-0.13166888, 1.60915514, -0.39604546),
    "overall": (-0.06766283, 1.11546468, 0.04602535),
}
"""Network's raw figure -> listeners' scale: polynomials, highest power first, in the order of the network's outputs."""


class DnsMos:
    """Both networks, each a session of one thread."""

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._p835, self._p808 = (
            onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
            for name in ("sig_bak_ovr.onnx", "model_v8.onnx")
        )

    def score(self, samples: np.ndarray) -> dict[str, float]:
        """float32 `[n]` at 16 kHz, n > 0 -> "overall", "speech", "background" and "p808", means over windows of 9.01 s.

        One window begins every second. Shorter audio is repeated until it fills one.
        """
        while len(samples) < _WINDOW:
            samples = np.concatenate([samples, samples])
        count = int(len(samples) // RATE_HZ - _WINDOW_S) + 1
        found = []
        for at in range(0, count * RATE_HZ, RATE_HZ):
            window = samples[at : at + _WINDOW].astype(np.float32, copy=False)
            if len(window) < _WINDOW:
                continue
            raw = self._p835.run(None, {"input_1": window[None]})[0][0]
            p808 = self._p808.run(None, {"input_1": _log_mel(window[:-160])[None]})[0][0][0]
            found.append([*(np.polyval(curve, x) for curve, x in zip(_CURVES.values(), raw, strict=True)), p808])
        means = np.mean(found, axis=0)
        return {name: float(mean) for name, mean in zip([*_CURVES, "p808"], means, strict=True)}


def _log_mel(samples: np.ndarray) -> np.ndarray:
    """float32 `[n]` -> `[(n - 1) // 160 + 1, 120]`: dB under the loudest, 80 dB deep, brought to -1..1."""
    power = np.maximum(mel_power(samples, RATE_HZ, 321, 160, 120), 1e-10)
    db = 10 * np.log10(power / power.max())
    return ((np.maximum(db, -80.0) + 40) / 40).astype(np.float32)
