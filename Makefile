# Each line also works typed by hand. CONFIG="presets/imagenette.yaml" lays presets over config.yaml.
VENV ?= .venv
PYTHON ?= python3
RUN = $(VENV)/bin/python
CONFIG ?=
OPTIONS ?=
ARGS = $(if $(CONFIG),--config $(CONFIG)) $(OPTIONS)
STAGES = data_split train_vqvae vqvae_reconstruction train_classifier train_distil reconstruct_masked

RIVALS = "train_prior prior_pixelcnn" "train_prior prior_gan" "train_distil prior_distil" "train_vqvae prior_components"

.PHONY: demo study app rivals test lint docs bench ui

demo: $(VENV)/installed
	@for stage in $(STAGES); do echo "== $$stage"; $(RUN) $$stage.py $(ARGS) || exit $$?; done
	@$(RUN) summary.py $(ARGS)

study: $(VENV)/installed
	$(RUN) reconstruct_masked.py $(ARGS) --reconstruct_masked.pictures null

app: $(VENV)/installed
	$(RUN) app.py $(ARGS)

rivals: $(VENV)/installed
	@for stage in $(RIVALS); do echo "== $$stage"; set -- $$stage; \
	  $(RUN) $$1.py --config $(CONFIG) presets/$$2.yaml $(OPTIONS) || exit $$?; done
	$(RUN) train_mae.py $(ARGS)
	$(RUN) compare_priors.py $(ARGS) --compare_priors.told_distil best --compare_priors.masked_vqvae best

bench: $(VENV)/installed
	$(RUN) benchmarks/published_loop.py $(ARGS)

test: $(VENV)/installed-tests
	$(RUN) -m pytest

lint: $(VENV)/installed-tests
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) docs/tables.py --check

docs: $(VENV)/installed
	$(RUN) docs/tables.py

ui: $(VENV)/installed
	$(RUN) summary.py --ui $(OPTIONS)

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/installed-tests: $(VENV)/installed requirements-dev.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

