"""Packaging: what `pip install .` and Dataflow's workers install. Pinned sets for development are in `requirements/`."""

from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent


def requirements(name: str) -> list[str]:
    lines = (here / "requirements" / name).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


setup(
    name="antiphon",
    version="0.1.0",
    description="Raw speech in, aligned and tokenized speech-text shards out, and a hybrid language model trained on them",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.12",
    packages=find_packages(include=["schemas*", "transforms*", "pipeline*", "training*"]),
    package_data={"transforms": ["embedded/*"]},
    install_requires=requirements("core.in"),
    extras_require={
        "gcp": ["apache-beam[gcp]==2.77.0"],
        # torchaudio and torchcodec stay out of the core: a torchaudio that does not load breaks transformers.
        "tts": ["coqui-tts==0.28.0", "torchaudio==2.11.0", "torchcodec==0.13.0"],
        "snac": ["snac==1.2.1"],
        # What speechtokenizer itself needs for coding; it comes by `pip install --no-deps`, since its list names torchaudio too.
        "speechtokenizer": ["einops==0.8.2"],
        "train": ["peft==0.21.2", "tensorboard==2.21.0"],
        "faster-whisper": ["faster-whisper==1.2.1", "ctranslate2==4.8.5"],
        "bench": ["torchmetrics==1.9.0", "pesq==0.0.4", "pystoi==0.4.1", "matplotlib==3.11.2"],
        "dev": requirements("dev.in"),
    },
    entry_points={"console_scripts": ["antiphon=pipeline.cli:main"]},
)
