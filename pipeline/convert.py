"""`antiphon convert`: a foreign k-means file, read once without running it, becomes a quantizer of the units stage."""

import hashlib
from pathlib import Path

from schemas.errors import UserError
from transforms.units.stage import UnitsOptions
from transforms.weights import cache_folder


def run_convert(
    file: str, out: str | None, preset: str | None, model: str | None, layer: int | None, normalize: bool | None
) -> int:
    """Write the centroids of `file` for the encoder that a preset, or `model` and `layer`, name. Returns the exit code.

    Raises UserError: no such file, no centroids in it, another number or width of them than the preset and the encoder have.
    """
    from transforms.units import foreign, presets
    from transforms.units.quantizer import Quantizer, WrongQuantizer
    from transforms.units.stage import make_encoder

    if not Path(file).is_file():
        raise UserError(f"{file}: no such file")
    given = {"model": model, "layer": layer, "normalize": normalize}
    asked = {name: value for name, value in given.items() if value is not None}
    if preset is None and not {"model", "layer"} <= set(asked):
        raise UserError("name a --preset, or the encoder's --model and --layer")
    if preset is None and out is None:
        raise UserError("name the --out file")
    backend = {} if preset else {"backend": "transformers"}
    try:
        options = UnitsOptions.model_validate(asked | backend | ({"preset": preset} if preset else {}))
    except ValueError as error:
        raise UserError(str(error)) from None
    centroids = foreign.read(Path(file))
    sha256 = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    encoder = make_encoder(options.backend, options.model, options.layer, options.normalize)
    if centroids.shape[1] != encoder.dim:
        raise WrongQuantizer(f"{file}: centroids of {centroids.shape[1]} dimensions; {options.model} has {encoder.dim}")
    note = f"{Path(file).name}, sha256 {sha256}"
    if preset is not None:
        wanted = presets.preset(preset)
        if len(centroids) != wanted.k:
            raise WrongQuantizer(f"{file}: {len(centroids)} centroids; preset {preset} has {wanted.k}")
        if sha256 == wanted.sha256:
            note += f", as published at {wanted.kmeans}"
        else:
            print(f"note: {file} is not the file published at {wanted.kmeans}: its sha256 is {sha256}")
    target = Path(out) if out else cache_folder() / f"{preset}.safetensors"
    if target.suffix != ".safetensors":
        raise UserError(f"--out {target}: give the name of a .safetensors file")
    target.parent.mkdir(parents=True, exist_ok=True)
    Quantizer(centroids, options.model, encoder.sha256, options.layer, note, encoder.normalized).save(target)
    print(f"{len(centroids)} centroids of {centroids.shape[1]} dimensions written to {target}")
    return 0
