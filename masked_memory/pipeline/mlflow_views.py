"""What MLflow shows of a stage's runs: all of them, sorted by the number that decides, which is in the first column.

A view is kept as tags of the stage's experiment, as MLflow's own *Share* makes them, and opened by a link.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

KEY = "deciding"
SHARED = f"mlflow.sharedViewState.{KEY}"


class View(NamedTuple):
    """says: what the runs are, and what decides between them; decides: a metric, of which less is better; beside:
    metrics, and params: settings, in the columns after it."""

    says: str
    decides: str
    beside: tuple[str, ...] = ()
    params: tuple[str, ...] = ()


VIEWS: dict[str, View] = {
    "train_vqvae": View(
        "VQ-VAEs. The lowest best_val_mse of a split is used by later stages.",
        "best_val_mse",
        ("test_psnr", "test_ssim", "test_perplexity"),
        ("train_vqvae.codebook_size", "best.learning_rate"),
    ),
    "vqvae_reconstruction": View(
        "All pictures through the best VQ-VAE. Nothing is decided here: the newest run of a VQ-VAE is used.",
        "test_mse",
        ("test_psnr", "test_perplexity", "bits_per_pixel"),
    ),
    "train_classifier": View(
        "Judges, degraded (train_classifier.degrade true) and clean. The lowest best_val_error of each kind is used.",
        "best_val_error",
        ("test_top1_originals", "test_top1_reconstructions"),
        ("train_classifier.degrade", "train_classifier.architecture"),
    ),
    "train_distil": View(
        "DistilBERTs. The lowest best_val_loss, in nats per masked token, is used by the study.",
        "best_val_loss",
        ("test_loss_at_50", "test_accuracy_at_50"),
        ("train_distil.dim", "train_distil.layers", "best.learning_rate"),
    ),
    "reconstruct_masked": View(
        "Studies: squared error to the unmasked reconstruction with half forgotten, chosen by adaptive and at random.",
        "adaptive_mse_to_reconstruction_at_50",
        ("random_mse_to_reconstruction_at_50", "adaptive_clean_classification_error_at_50"),
        ("reconstruct_masked.pictures",),
    ),
    "train_prior": View(
        "PixelCNNs, of which the lowest best_val_bits_per_code is used, and GANs with best_val_energy_distance.",
        "best_val_bits_per_code",
        ("best_val_energy_distance", "samples_pairwise_distance"),
        ("train_prior.kind", "train_prior.condition_on_class"),
    ),
    "train_mae": View(
        "Masked autoencoders over pixels. The lowest best_val_loss is used by the study.",
        "best_val_loss",
        ("test_mse_at_50",),
        ("train_mae.inputs",),
    ),
    "train_painter": View(
        "Decoders that paint expected code vectors. The lowest best_val_loss is used by the study.",
        "best_val_loss",
        ("test_mse_at_50_painter", "test_mse_at_50_decoder"),
    ),
}


def tags_of(stage: str) -> dict[str, str]:
    """Tags of the stage's experiment; none for a stage without a view."""
    if stage not in VIEWS:
        return {}
    view = VIEWS[stage]
    columns = [f"metrics.`{name}`" for name in (view.decides, *view.beside)]
    state = {
        "searchFilter": "",
        "orderByKey": f"metrics.`{view.decides}`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "selectedColumns": [*columns, *(f"params.`{name}`" for name in view.params)],
        "viewMaximized": True,
    }
    return {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": view.says,
        SHARED: json.dumps(state),
    }


def tell_experiment(client: Any, experiment: Any) -> None:
    """Give the experiment of a stage its view. A description that someone wrote stays."""
    kept = {"mlflow.note.content"} & set(experiment.tags)
    for name, value in tags_of(experiment.name).items():
        if name not in kept and experiment.tags.get(name) != value:
            client.set_experiment_tag(experiment.experiment_id, name, value)


def links(client: Any, address: str) -> Iterator[tuple[str, str]]:
    """Stage and link to its view, in the order in which the stages run."""
    experiments = {each.name: each for each in client.search_experiments()}
    for stage in VIEWS:
        if stage in experiments:
            tell_experiment(client, experiments[stage])
            place = f"{address}/#/experiments/{experiments[stage].experiment_id}/runs"
            yield stage, f"{place}?workflowType=machine_learning&viewStateShareKey={KEY}"
