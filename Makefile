# Each line also works typed by hand. CONFIG="presets/imagenette.yaml" lays presets over config.yaml. What stands behind ##
# is what `make help` prints.
VENV ?= .venv
PYTHON ?= python3
RUN = $(VENV)/bin/python
CONFIG ?=
OPTIONS ?=
ARGS = $(if $(CONFIG),--config $(CONFIG)) $(OPTIONS)
CLEAN = --train_classifier.degrade false --train_classifier.tune.trials 0
STAGES = data_split.py train_vqvae.py vqvae_reconstruction.py train_classifier.py "train_classifier.py $(CLEAN)" \
  train_distil.py reconstruct_masked.py

UNTOLD = --train_prior.condition_on_class false
RIVALS = "train_prior prior_pixelcnn" "train_prior prior_pixelcnn $(UNTOLD)" "train_prior prior_gan" \
  "train_prior prior_gan $(UNTOLD)" "train_distil prior_distil" "train_distil published_study" "train_vqvae prior_components"

AGAINST = --reconstruct_masked.pictures null --reconstruct_masked.strategies "[random, selective, adaptive]" \
  --reconstruct_masked.rival_distil best --reconstruct_masked.rival_mae best --reconstruct_masked.painter best

.PHONY: help try demo study seeds app shipped rivals bits test test-system test-all test-lowest torture lint lock audit sbom docs bench bench-gpu ui

help:
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

try: $(VENV)/installed ## pictures recalled by the models that come with the project, as recalled.png; nothing is trained (10 s)
	$(RUN) -m masked_memory try_it $(OPTIONS)

demo: $(VENV)/installed ## set up, run every stage on the demo, print the main numbers (10 to 15 min on two cores)
	@for stage in $(STAGES); do echo "== $$stage"; $(RUN) $$stage $(ARGS) || exit $$?; done
	@$(RUN) summary.py $(ARGS)

study: $(VENV)/installed ## repeat the last stage on the whole test set (7 min)
	$(RUN) reconstruct_masked.py $(ARGS) --reconstruct_masked.pictures null

app: $(VENV)/installed ## a page: test pictures recalled at any percentage, and pictures of your own; also before the demo
	$(RUN) app.py $(ARGS)

# The trained models that come with the project, made anew: those of the demo and a PixelCNN.
TO_SHIP = --run.dir runs/to_ship
shipped: $(VENV)/installed ## train the models that come with the project anew
	@for stage in $(STAGES) train_prior.py; do echo "== $$stage"; $(RUN) $$stage $(TO_SHIP) || exit $$?; done
	$(RUN) -m masked_memory.handoff.shipped $(TO_SHIP)

# Several training seeds of the whole demo, two at once with one thread each; a seed that is done is not run again.
SEEDS ?= 0 1 2 3 4
SEED_RUNS ?= runs/seeds
UNTUNED = $(foreach stage,train_vqvae train_classifier train_distil,--$(stage).tune.trials 0)
STUDIED = --reconstruct_masked.pictures null --reconstruct_masked.rivals false
seeds: $(VENV)/installed ## the demo with five training seeds: spread, and which differences hold (45 min)
	@$(MAKE) --no-print-directory -j 2 $(SEEDS:%=$(SEED_RUNS)/%/done)
	$(RUN) -m masked_memory compare_seeds $(ARGS) --compare_seeds.folders "$(SEED_RUNS)/*"

$(SEED_RUNS)/%/done: | $(VENV)/installed
	@mkdir -p $(@D); echo "seed $*: see $(@D)/log.txt"
	@for stage in $(STAGES); do $(RUN) $$stage $(ARGS) $(UNTUNED) $(STUDIED) --run.dir $(@D) --run.seed $* \
	  --run.threads 1 >> $(@D)/log.txt 2>&1 || { tail -n 3 $(@D)/log.txt; exit 1; }; done
	@touch $@

rivals: $(VENV)/installed ## older priors, the published recipe, a masked autoencoder, a painter; all compared (1 h)
	@for stage in $(RIVALS); do echo "== $$stage"; set -- $$stage; script=$$1; preset=$$2; shift 2; \
	  $(RUN) $$script.py --config $(CONFIG) presets/$$preset.yaml $(OPTIONS) $$@ || exit $$?; done
	$(RUN) -m masked_memory train_mae $(ARGS)
	$(RUN) -m masked_memory train_painter $(ARGS)
	$(RUN) -m masked_memory compare_priors $(ARGS) --compare_priors.told_distil best --compare_priors.masked_vqvae best
	$(RUN) reconstruct_masked.py $(ARGS) $(AGAINST)

bits: $(VENV)/installed ## forgetting beside coding everything, JPEG, WebP, AVIF and JPEG XL, at equal bits (10 min)
	$(RUN) -m masked_memory compare_bits $(ARGS)

bench: $(VENV)/installed ## time training steps, reading and the choice of tokens
	$(RUN) benchmarks/training_step.py
	$(RUN) benchmarks/peak_memory.py
	$(RUN) benchmarks/reading.py
	$(RUN) benchmarks/published_loop.py $(ARGS)

bench-gpu: $(VENV)/installed ## the same on a GPU
	$(RUN) benchmarks/gpu.py

# Two at once, each with folders of its own. What starts whole pipelines, processes, servers or browsers comes apart.
test: $(VENV)/installed-tests ## the quick tests
	$(RUN) -m pytest -n 2 -m "not system"

test-system: $(VENV)/installed-tests ## the others: pipelines, processes, servers, packaging
	$(RUN) -m pytest -n 2 -m system

test-all: test test-system ## all tests

# The same tests with the lowest versions that the requirements allow, in an environment of their own.
LOWEST = $(VENV)-lowest
test-lowest: $(LOWEST)/installed ## all tests with the lowest versions that are allowed
	$(LOWEST)/bin/python -m pytest -n 2

# Many tries to make the program fail, about half an hour; a part of them is among the tests.
torture: $(VENV)/installed-tests ## many tries to make stages fail (30 min)
	$(RUN) tests/torture.py $(OPTIONS)

lint: $(VENV)/installed-tests ## linters and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) docs/tables.py --check
	$(RUN) -m check_jsonschema --builtin-schema vendor.github-workflows .github/workflows/tests.yml

# What is installed in VENV, which the tests ran with, and the hashes of these packages for every system.
lock: $(VENV)/installed-tests
	@mkdir -p build
	@$(RUN) -m pip freeze --all | sed -n 's/^\([^ ]*==[^+]*\).*/\1/p' > build/tested.txt
	$(RUN) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --custom-compile-command "make lock" --constraints build/tested.txt --output-file requirements-lock.txt requirements.txt

# Known holes in the locked packages. Fails, too, where a package could not be looked up. OPTIONS="-s osv" asks OSV.
audit: $(VENV)/installed-tests
	$(RUN) -m uv tool run --python $(RUN) pip-audit --strict --disable-pip --require-hashes -r requirements-lock.txt $(OPTIONS)

# The locked packages as a CycloneDX list.
sbom: $(VENV)/installed-tests
	@mkdir -p build
	PYTHONWARNINGS=ignore $(RUN) -m uv tool run --python $(RUN) --from cyclonedx-bom cyclonedx-py requirements \
	  --pyproject pyproject.toml --output-reproducible --output-file build/sbom.json requirements-lock.txt

docs: $(VENV)/installed ## write the tables of the documentation anew
	$(RUN) docs/tables.py

ui: $(VENV)/installed ## MLflow's page over the runs
	$(RUN) summary.py --ui $(ARGS)

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/installed-tests: $(VENV)/installed tests/requirements.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

# Versions of that age have no builds for the latest Python.
$(LOWEST)/installed: requirements.txt tests/requirements.txt | $(VENV)/installed-tests
	$(RUN) -m uv venv --quiet --clear --python 3.11 $(LOWEST)
	$(RUN) -m uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct -r tests/requirements.txt
	touch $@
