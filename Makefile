# Thin names for the commands in the README.
SAMPLE := demo-output/sample
RESULT := demo-output/analysis
CTGVLM := .venv/bin/ctgvlm
# the bundled model, where this copy has it; another one by: make demo MODEL=...
MODEL ?= $(if $(wildcard CTGroundedVLM/CTGroundedVLMLib/data/models/starter/config.json),starter,untrained)

.PHONY: demo test lint bench clean

demo: ## analyse a synthetic sample CT; prints where the HTML page lies
	@Resources/make_venv.sh
	@$(CTGVLM) sample $(SAMPLE)
	@$(CTGVLM) analyze $(SAMPLE)/ct.nii.gz --segmentation $(SAMPLE)/segmentation.nii.gz --report $(SAMPLE)/report.txt \
	  --model $(MODEL) --output $(RESULT)

test: ## all tests
	@Resources/make_venv.sh test
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile

lint: ## style
	@Resources/make_venv.sh lint
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

bench: ## speed and memory, as ratios against named baselines
	@Resources/make_venv.sh test
	.venv/bin/python Testing/Benchmark/bench_reports.py
	.venv/bin/python Testing/Benchmark/bench_analysis.py
	.venv/bin/python Testing/Benchmark/bench_module.py
	.venv/bin/python Testing/Benchmark/bench_panel.py
	.venv/bin/python Testing/Benchmark/bench_data.py
	.venv/bin/python Testing/Benchmark/bench_training.py

clean: ## remove what the commands above made
	rm -rf .venv demo-output build *.egg-info CTGroundedVLM/*.egg-info
