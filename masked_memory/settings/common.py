"""Sections that all stages read: run and data."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from masked_memory.settings.kinds import Names, Only, PositiveInt, Real, Section, Text, Whole


class RunSection(Section):
    dir: str = "runs"
    """Folder for run folders, mlflow.db and optuna.db."""
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 0
    """Seed of weights, batches, masks and tuning (the split has its own, data.seed)."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU when there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of training; auto takes bf16 where the processor has it. Evaluation is fp32 but for asking the
    DistilBERT."""
    tf32: bool = False
    """float32 products of a GPU with ten bits instead of 23: faster, but codes and errors differ in the third digit."""
    compile: Literal["auto"] | bool = "auto"
    """torch.compile of a fit's model; auto: on a GPU, for fits of 5,000 steps and more. On a CPU it is no faster."""
    threads: Annotated[Whole, Field(ge=0, le=1024)] = 0
    """CPU threads; 0 takes all cores of the job, whatever OMP_NUM_THREADS says. Another number of threads changes the
    last digits of results."""
    memory: Annotated[Real, Field(gt=0, le=1024)] = 1.0
    """GB for what models compute in between when they are asked (validation, choosing, the study): batches are cut to
    fit. Training takes what its batch_size takes. The same on every machine, so that results are, too."""
    check_every: PositiveInt = 50
    """Steps of training between looks at whether the loss is still finite; a GPU has to wait for each."""
    dry_run: bool = False
    """Say what a stage would use and make, and how long it took last time; make nothing."""
    mlflow: bool = True
    """Also write to MLflow. The run folders are complete without it."""
    modules: Names = []
    """Python files or modules of yours that are imported first, such as my_strategy.py: what they register, such as a
    strategy, can then be named in settings."""
    tracking_uri: Annotated[str | None, Only("mlflow")] = None
    """MLflow's server or database, such as http://127.0.0.1:5000 or postgresql://user@host/mlflow; null: mlflow.db in
    run.dir. Passwords come from the environment (MLFLOW_TRACKING_PASSWORD, PGPASSWORD)."""

    @model_validator(mode="after")
    def _tracking_without_password(self) -> "RunSection":
        """Settings are written to run folders and logged, so a password must not be among them."""
        if self.tracking_uri is not None and "://" not in self.tracking_uri:
            raise ValueError(f"tracking_uri is {self.tracking_uri}; expected a URL such as http://127.0.0.1:5000")
        if self.tracking_uri is not None and urlsplit(self.tracking_uri).password is not None:
            raise ValueError("tracking_uri holds a password; set it in the environment instead")
        return self


class DataSection(Section):
    source: str = "digits_in_context"
    """digits_in_context or five_components (embedded), imagenette (downloaded by torchvision), a folder, a .tar, a
    pattern of several (shards/*.tar), or what is read as a stream (s3://..., hf://OWNER/NAME)."""
    classes: Annotated[Whole, Field(ge=2, le=100_000)] | list[str] | None = None
    """How many class folders to take, in name order, or their names; null takes all."""
    images_per_class: PositiveInt | None = None
    """How many pictures of each class to take, chosen by the seed; null takes all."""
    image_size: Annotated[Whole, Field(ge=8, le=1024)] = 32
    """Side of the square pictures, pixels; must be divisible by train_vqvae.stride."""
    channels: Annotated[Whole, Field(ge=1, le=64)] = 3
    """Components of a picture: 1 for grey, 3 for RGB; others need .npy, .npz or .tiff stacks."""
    components: Names | None = None
    """Names of the components, in order; null: grey, or red green blue, or those in the .npz files."""
    metadata: Text | None = None
    """CSV file with a line per picture: its path below data.source, and columns of metadata."""
    train: Annotated[Real, Field(gt=0, lt=1)] = 0.70
    """Share of pictures to train on."""
    val: Annotated[Real, Field(gt=0, lt=1)] = 0.15
    """Share of pictures for tuning, early stopping and choosing between runs."""
    test: Annotated[Real, Field(gt=0, lt=1)] = 0.15
    """Share of pictures that nothing is chosen by."""
    given_split: bool = True
    """Keep a folder's own train, val and test; what is missing is cut from train. false pools and splits anew."""
    skip_broken: bool = False
    """Go on without files that cannot be read (they are listed either way)."""
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 0
    """Seed of the split and of the embedded demo."""
    workers: Annotated[Whole, Field(ge=0, le=1024)] = 0
    """Processes that decode pictures; 0 takes all cores."""
    download_dir: Annotated[str, Only("source", "imagenette")] = "downloads"
    """Where source imagenette is stored."""

    @model_validator(mode="after")
    def _source_without_password(self) -> "DataSection":
        """As for run.tracking_uri."""
        if "://" in self.source and urlsplit(self.source.partition("{")[0]).password is not None:
            raise ValueError("source holds a password; let its package take it from the environment instead")
        return self

    @model_validator(mode="after")
    def _sums_to_one(self) -> "DataSection":
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + val + test is {total:g}; expected 1")
        return self

    @model_validator(mode="after")
    def _different_classes(self) -> "DataSection":
        names = self.classes if isinstance(self.classes, list) else None
        if names == []:
            raise ValueError("classes names none; expected names of classes, how many to take, or null for all")
        twice = sorted({name for name in names or () if (names or []).count(name) > 1})
        if twice:
            raise ValueError(f"classes names {', '.join(twice)} twice; expected different names")
        return self

    @model_validator(mode="after")
    def _components_fit(self) -> "DataSection":
        names = self.components
        if names is not None and (len(names) != self.channels or len(set(names)) != len(names)):
            raise ValueError(
                f"components names {len(names)} ({', '.join(names)}); expected {self.channels} different names, "
                "as many as data.channels"
            )
        return self
